"""The grace period of ``check`` and ``repair``, and the age of files."""

import dataclasses
import os
import time
from types import SimpleNamespace

import pytest

from kinto_attachment.commands import problems, repair
from kinto_attachment.storage.contract import StoredFile
from kinto_attachment.storage.pyramid import PyramidStorage
from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.commands import COLLECTION, S3
from tests.support.faults import (
    BREAKAGES,
    LOSSES,
    ORPHAN,
    write_deletion,
)


def test_a_young_deletion_is_reported_and_left(deployment):
    deployment.upload()
    write_deletion(deployment, hours=0)
    code, output = deployment.run("check")
    assert (code, output[0]["what"], output[0]["severity"]) == (
        0,
        problems.PENDING_DELETION.name,
        "informational",
    )
    code, output = deployment.run("repair")
    assert (code, len(output)) == (0, 1)
    assert ORPHAN in deployment.files()


@pytest.mark.parametrize("size", [0, 100_000])
def test_the_age_of_a_file_begins_with_publishing(deployment, size):
    """The last byte of an upload may arrive long before the end of its form."""
    deployment.upload()
    staged = deployment.app.registry.attachments.files.stage(ORPHAN, "text/plain", unique=True)
    staged.write(b"x" * size)
    # A small one has no file before it is published.
    for path in (deployment.app.folder / ".staging").iterdir():
        os.utime(path, (0, 0))
    staged.publish()
    assert deployment.run("repair", "--delete-files")[0] == 0
    assert ORPHAN in deployment.files()


LARGE = b"x" * 11 * 1024**2


@pytest.fixture
def amazon(make_deployment, bucket, monkeypatch):
    """A deployment on S3 that dates a multipart upload by its beginning, three hours ago."""
    objects = S3Storage._objects

    def dated_as_by_amazon(storage, **options):
        for stored in objects(storage, **options):
            is_multipart = stored.key == ORPHAN
            assert stored.is_dated is not is_multipart
            age = 3 * 3600 if is_multipart else 0
            yield dataclasses.replace(stored, modified=stored.modified - age)

    monkeypatch.setattr(S3Storage, "_objects", dated_as_by_amazon)
    deployment = make_deployment(S3(bucket))
    deployment.upload()
    staged = deployment.app.registry.attachments.files.stage(ORPHAN, "text/plain", unique=True)
    staged.write(LARGE)
    staged.publish()
    return deployment


def test_a_file_of_unknown_age_remains_if_its_transaction_ends_within_the_grace_period(
    amazon, monkeypatch
):
    waited = []
    begun = time.monotonic()

    def commit(old_at):
        waited.append(old_at - begun)
        with amazon.committing():
            uri = f"{COLLECTION}/records/late"
            amazon.app.registry.attachments.links.add(uri, ORPHAN, {"location": ORPHAN})

    monkeypatch.setattr(repair, "_sleep_until", commit)
    code, output = amazon.run("repair", "--delete-files")
    assert (code, [one["what"] for one in output]) == (0, ["waiting", "summary"])
    assert 3600 <= waited[0] < 3660
    assert amazon.files()[ORPHAN] == LARGE


def test_a_file_of_unknown_age_is_deleted_after_the_grace_period(amazon, monkeypatch):
    monkeypatch.setattr(repair, "_sleep_until", lambda old_at: None)
    code, output = amazon.run("repair", "--delete-files")
    assert (code, [one["what"] for one in output]) == (0, ["waiting", "repaired", "summary"])
    assert list(amazon.files().values()) == [b"once upon a time"]


def test_without_deletions_repair_does_not_wait(amazon, monkeypatch):
    monkeypatch.setattr(repair, "_sleep_until", lambda old_at: pytest.fail("it waits"))
    assert amazon.run("repair")[0] == 1
    assert amazon.run("repair", "--delete-files", "--dry-run")[0] == 1
    assert ORPHAN in amazon.files()


def test_files_of_an_unknown_backend_are_undated():
    listed = StoredFile(ORPHAN, 3, 0.0)
    backend = SimpleNamespace(files=lambda: [listed])
    (stored,) = PyramidStorage(backend).files()
    assert stored == dataclasses.replace(listed, is_dated=False)


YOUNG = [kind for kind in [*BREAKAGES, *LOSSES] if kind != problems.OVERDUE_DELETION.name]


@pytest.mark.parametrize("kind", YOUNG)
def test_what_is_young_is_skipped(deployment, kind):
    deployment.upload()
    (BREAKAGES | LOSSES)[kind](deployment)
    before = deployment.state()
    code, output = deployment.run("check", "--hash")
    assert (code, [one["what"] for one in output]) == (0, ["summary"])
    assert deployment.run("repair", "--delete-files")[0] == 0
    assert deployment.state() == before
