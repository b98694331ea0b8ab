"""The problems that ``kinto-attachment check`` finds and ``repair`` repairs."""

import dataclasses
import hashlib
import json
import os
import random
import shlex
import threading
import time
import uuid
from types import SimpleNamespace
from unittest import mock

import pytest
import requests

from kinto_attachment import metadata
from kinto_attachment.commands import check, problems, repair
from kinto_attachment.commands.inventory import Inventory
from kinto_attachment.commands.main import main
from kinto_attachment.links import Links
from kinto_attachment.storage.contract import StorageError, StoredFile
from kinto_attachment.storage.pyramid import PyramidStorage
from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.app import RECORD, App
from tests.support.commands import COLLECTION, Deployment
from tests.support.postgresql import postgresql_backends
from tests.support.s3 import eventually
from tests.support.users import ALICE


ORPHAN = "5f0c1c1e-6c1f-4b0e-9d5e-6d0b7f3e2a11.txt"
HEARTBEAT = "heartbeat-5f0c1c1e-6c1f-4b0e-9d5e-6d0b7f3e2a11"


def backends(url):
    return {name.removeprefix("kinto."): value for name, value in postgresql_backends(url).items()}


class Folder:
    """The files of a deployment in a folder."""

    def __init__(self, path):
        self.path = path

    def settings(self):
        return {}

    def files(self):
        return {
            str(path.relative_to(self.path)): path.read_bytes()
            for path in self.path.rglob("*")
            if path.is_file()
        }

    def put(self, name, content):
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_bytes(content)

    def remove(self, name):
        (self.path / name).unlink()


class S3:
    """The files of a deployment in a bucket."""

    def __init__(self, bucket):
        self._bucket = bucket
        self.settings = bucket.settings
        self.files = bucket.files

    def put(self, name, content):
        self._bucket.client.put_object(Bucket=self._bucket.name, Key=name, Body=content)

    def remove(self, name):
        self._bucket.client.delete_object(Bucket=self._bucket.name, Key=name)


@pytest.fixture(scope="module")
def database(postgresql):
    """One database for all tests here, since each has connections of its own."""
    return postgresql()


@pytest.fixture
def make_deployment(make_app, database, tmp_path, capsys):
    deployments = []

    def make(store=None, **settings):
        store = store or Folder(tmp_path / "files")
        app = make_app(**backends(database), **store.settings(), **settings)
        deployment = Deployment(app, tmp_path, store.files, capsys)
        deployment.store = store
        deployments.append(deployment)
        return deployment

    yield make
    for deployment in deployments:
        deployment.close()


@pytest.fixture(scope="module")
def shared_app(database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "files"
    return App(folder, **postgresql_backends(database))


@pytest.fixture
def deployment(shared_app, capsys):
    """A deployment with its files in a folder, all empty, without settings of its own."""
    shared_app.create_collection()
    store = Folder(shared_app.folder)
    deployment = Deployment(shared_app, shared_app.folder.parent, store.files, capsys)
    deployment.store = store
    yield deployment
    deployment.close()
    for name in store.files():
        store.remove(name)


@pytest.fixture(params=["folder", "S3"])
def either(request, external):
    """A deployment with its files in a folder, or in SeaweedFS."""
    if request.param == "folder":
        return request.getfixturevalue("deployment")
    return request.getfixturevalue("make_deployment")(S3(request.getfixturevalue("bucket")))


def location(deployment, record="first"):
    (link,) = [
        link
        for link in deployment.links()
        if link["record_uri"] == f"{COLLECTION}/records/{record}"
    ]
    return link["location"]


def lose_link(deployment):
    lost = deployment.sql(
        "DELETE FROM objects WHERE resource_name = 'attachments' AND data->>'record_uri' = :uri",
        uri=RECORD,
    )
    assert lost == 1


def lose_record(deployment):
    assert deployment.sql("DELETE FROM objects WHERE id = 'first'") == 1


def change_record(deployment, attachment):
    changed = deployment.sql(
        "UPDATE objects SET data = data || :attachment WHERE id = 'first'",
        attachment=json.dumps({"attachment": attachment}),
    )
    assert changed == 1


def copy_record(deployment):
    copied = deployment.sql(
        "INSERT INTO objects (id, parent_id, resource_name, data, deleted) "
        "SELECT 'copy', parent_id, resource_name, data, FALSE FROM objects WHERE id = 'first'"
    )
    assert copied == 1


def lose_record_and_file(deployment):
    deployment.store.remove(location(deployment))
    lose_record(deployment)


def write_deletion(deployment, hours=2):
    """Leave a queued deletion, as a server does that is killed after its commit."""
    storage = deployment.app.registry.storage
    id_ = str(uuid.uuid4())
    deployment.store.put(ORPHAN, b"queued")
    with deployment.committing():
        storage.update(
            "attachment-releases", f"__attachments__/releases/{id_}", id_, {"locations": [ORPHAN]}
        )
    deployment.sql(
        "UPDATE objects SET last_modified = last_modified - make_interval(hours => :hours) "
        "WHERE id = :id",
        hours=hours,
        id=id_,
    )


def make_link_legacy(deployment):
    name = location(deployment)
    lose_link(deployment)
    link = {
        "location": name,
        "record_uri": RECORD,
        "collection_uri": COLLECTION,
        "bucket_uri": "/buckets/blog",
    }
    deployment.sql(
        "INSERT INTO objects (id, parent_id, resource_name, data, deleted) "
        "VALUES (:id, '__attachments__', 'attachments', :link, FALSE)",
        id=str(uuid.uuid4()),
        link=json.dumps(link),
    )


BREAKAGES = {
    problems.ORPHAN_FILE.name: lambda d: d.store.put(ORPHAN, b"an orphan"),
    problems.HEARTBEAT_LEFTOVER.name: lambda d: d.store.put(HEARTBEAT, b"beat"),
    problems.STALE_LINK.name: lose_record,
    problems.DETACHED_LINK.name: lambda d: change_record(d, None),
    problems.DANGLING_LINK.name: lose_record_and_file,
    problems.MISSING_LINK.name: lose_link,
    problems.METADATA_MISMATCH.name: lambda d: change_record(
        d, {**d.record()["attachment"], "mimetype": "text/html"}
    ),
    problems.OVERDUE_DELETION.name: write_deletion,
}
"""The faults that can be repaired."""

LOSSES = {
    problems.MISSING_FILE.name: lambda d: d.store.remove(location(d)),
    problems.SIZE_MISMATCH.name: lambda d: d.store.put(location(d), b"once"),
    problems.HASH_MISMATCH.name: lambda d: d.store.put(location(d), b"ONCE upon a time"),
}
"""The faults that cannot."""


def test_the_faults_here_are_all_in_the_table():
    faults = {name: kind for name, kind in problems.KINDS.items() if kind.severity == "fault"}
    assert set(BREAKAGES) == {name for name, kind in faults.items() if kind.repair}
    assert set(LOSSES) == {name for name, kind in faults.items() if not kind.repair}


def test_the_next_command_is_printed_with_the_options_that_it_needs(deployment, capsys):
    deployment.upload()
    deployment.store.remove(location(deployment))
    with mock.patch.object(check, "open_server", deployment._open_once):
        assert main(["check", "--grace", "2h", "--ini", deployment.ini]) == 0
        assert main(["check", "--grace", "0", "--ini", deployment.ini]) == 1
    line = capsys.readouterr().out.splitlines()[1]
    assert line.endswith(
        "(the record's file does not exist); attach the file again or restore it from a backup; "
        f"next: kinto-attachment check --ini {deployment.ini} --grace 0"
    )


def is_sound(deployment):
    """Return whether each attachment has its file and its link, and nothing else exists."""
    records, links = {}, {}
    rows, files = deployment.state()
    for name, parent, id_, data in rows:
        if name == "record" and data.get("attachment"):
            records[f"{parent}/records/{id_}"] = data["attachment"]
        elif name == "attachments":
            links[data["record_uri"]] = data
        assert name != "attachment-releases"
    assert {uri: link["attachment"] for uri, link in links.items()} == records
    held = {link["location"]: records[uri]["hash"] for uri, link in links.items()}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} == held
    return True


def test_a_server_in_normal_use_has_no_problems(either):
    either.upload("first")
    either.upload("first", b"another")
    either.copy("first", "copy")
    either.upload("gone")
    either.app.delete(f"{COLLECTION}/records/gone", headers=ALICE)
    before = either.state()
    assert either.check("--hash") == (0, {})
    assert either.repair() == (0, {})
    assert either.state() == before
    assert is_sound(either)


@pytest.mark.parametrize("kind", BREAKAGES)
def test_a_fault_is_reported_and_repaired(deployment, kind):
    break_and_repair(deployment, kind)


@pytest.mark.parametrize("kind", [problems.ORPHAN_FILE.name, problems.MISSING_LINK.name])
def test_a_fault_is_reported_and_repaired_on_s3(make_deployment, bucket, kind):
    break_and_repair(make_deployment(S3(bucket)), kind)


def break_and_repair(deployment, kind):
    deployment.upload("second", b"another")
    deployment.upload()
    BREAKAGES[kind](deployment)
    code, output = deployment.run("check", "--grace", "0", "--hash")
    assert (code, [one["what"] for one in output]) == (1, [kind, "summary"])
    program, *command = shlex.split(output[0]["next"])
    assert (program, command[-4:]) == (
        "kinto-attachment",
        ["--ini", deployment.ini, "--grace", "0"],
    )

    before = deployment.state()
    assert deployment.repair("--dry-run", "--delete-files") == (1, {"to repair": [kind]})
    assert deployment.state() == before

    code, output = deployment.run(*command)
    assert (code, output[0]["what"], output[0]["finding"]) == (0, "repaired", kind)
    assert deployment.check("--hash") == (0, {})
    assert is_sound(deployment)
    assert "second" in str(deployment.links())


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_is_reported_and_left(deployment, kind):
    deployment.upload("second", b"another")
    deployment.upload()
    LOSSES[kind](deployment)
    before = deployment.state()
    code, found = deployment.check("--hash")
    assert (code, list(found)) == (1, [kind])
    if kind != problems.HASH_MISMATCH.name:
        assert deployment.repair("--delete-files") == (1, {"left": [kind]})
    assert deployment.state() == before


def test_files_are_read_only_with_hash(deployment):
    deployment.upload()
    LOSSES[problems.HASH_MISMATCH.name](deployment)
    assert deployment.check() == (0, {})


def test_a_record_copied_behind_kintos_back_is_linked(deployment):
    deployment.upload()
    copy_record(deployment)
    assert deployment.check() == (1, {problems.MISSING_LINK.name: [location(deployment)]})
    assert deployment.repair() == (0, {"repaired": [problems.MISSING_LINK.name]})
    assert is_sound(deployment)


def test_a_file_remains_with_the_copy_when_the_original_is_lost(deployment):
    deployment.upload()
    copy_record(deployment)
    lose_record(deployment)
    code, done = deployment.repair()
    assert code == 0
    assert set(done["repaired"]) == {problems.MISSING_LINK.name, problems.STALE_LINK.name}
    assert list(deployment.files().values()) == [b"once upon a time"]
    assert is_sound(deployment)


def test_a_record_with_wrong_metadata_gets_no_link(deployment):
    deployment.upload()
    lose_link(deployment)
    name = deployment.record()["attachment"]["location"]
    change_record(deployment, {**deployment.record()["attachment"], "hash": "0" * 64})
    before = deployment.state()
    assert deployment.check() == (0, {problems.UNVERIFIED_ATTACHMENT.name: [name]})
    assert deployment.repair() == (0, {})
    assert deployment.state() == before


def test_a_file_in_an_unlinked_record_is_never_deleted(deployment):
    """Not even if the record gets no link, since its metadata is wrong."""
    deployment.upload()
    copy_record(deployment)
    lose_record(deployment)
    deployment.sql(
        "UPDATE objects SET data = jsonb_set(data, '{attachment,hash}', '\"0\"') WHERE id = 'copy'"
    )
    done = deployment.repair("--delete-files", "--any-name")
    assert done == (0, {"repaired": [problems.STALE_LINK.name]})
    assert list(deployment.files().values()) == [b"once upon a time"]


def test_orphan_files_remain_without_delete_files(deployment):
    deployment.upload()
    deployment.store.put(ORPHAN, b"an orphan")
    assert deployment.repair() == (1, {"left": [problems.ORPHAN_FILE.name]})
    assert ORPHAN in deployment.files()


def test_kept_files_remain_with_all_options(make_deployment):
    deployment = make_deployment(attachment__keep_old_files="true")
    deployment.upload(content=b"old")
    deployment.upload(content=b"new")
    code, found = deployment.check()
    assert (code, list(found)) == (0, [problems.KEPT_FILE.name])
    assert deployment.repair("--delete-files", "--any-name") == (0, {})
    assert sorted(deployment.files().values()) == [b"new", b"old"]


def test_the_file_of_a_lost_record_remains_if_old_files_are_kept(make_deployment):
    deployment = make_deployment(attachment__keep_old_files="true")
    deployment.upload()
    lose_record(deployment)
    assert deployment.repair() == (0, {"repaired": [problems.STALE_LINK.name]})
    assert list(deployment.files().values()) == [b"once upon a time"]
    assert deployment.links() == []


@pytest.mark.parametrize("name", ["README.txt", f"elsewhere/{ORPHAN}", "cat.jpg"])
def test_foreign_files_are_reported_and_remain(deployment, name):
    deployment.upload()
    deployment.store.put(name, b"foreign")
    assert deployment.check() == (0, {problems.FOREIGN_FILE.name: [name]})
    assert deployment.repair("--delete-files", "--any-name") == (0, {})
    assert name in deployment.files()


def test_orphan_files_without_random_names_require_any_name(make_deployment):
    deployment = make_deployment(attachment__randomize="false")
    deployment.upload()
    deployment.store.put("cat.jpg", b"an orphan")
    assert deployment.check() == (1, {problems.ORPHAN_FILE.name: ["cat.jpg"]})
    assert deployment.repair("--delete-files") == (1, {"left": [problems.ORPHAN_FILE.name]})
    assert deployment.repair("--delete-files", "--any-name")[0] == 0
    assert list(deployment.files()) == ["story.txt"]


def test_nothing_is_deleted_if_the_database_may_be_the_wrong_one(deployment):
    deployment.store.put(ORPHAN, b"of another database")
    code, done = deployment.repair("--delete-files")
    assert (code, done) == (1, {"left": [problems.ORPHAN_FILE.name]})
    assert ORPHAN in deployment.files()


def test_keys_of_the_plugin_are_recognised_by_folder_and_pattern(make_deployment):
    deployment = make_deployment(
        attachment__folder="f/{bucket_id}/{collection_id}",
        attachment__filename_pattern="{datetime}-{filename}",
    )
    deployment.upload()
    ours = f"f/blog/photos/20261231235959-{ORPHAN}"
    deployment.store.put(ours, b"an orphan")
    deployment.store.put(f"f/{ORPHAN}", b"foreign")
    assert deployment.check() == (
        1,
        {problems.ORPHAN_FILE.name: [ours], problems.FOREIGN_FILE.name: [f"f/{ORPHAN}"]},
    )
    assert deployment.repair("--delete-files")[0] == 0
    assert ours not in deployment.files()
    assert len(deployment.files()) == 2


def test_legacy_links_are_reported_and_completed(deployment):
    deployment.upload()
    name = location(deployment)
    make_link_legacy(deployment)
    assert deployment.check("--hash") == (0, {problems.LEGACY_LINK.name: [name]})
    assert deployment.repair() == (0, {"repaired": [problems.LEGACY_LINK.name]})
    assert is_sound(deployment)
    assert deployment.check() == (0, {})


def test_a_legacy_link_remains_if_the_metadata_is_wrong(deployment):
    deployment.upload()
    name = location(deployment)
    make_link_legacy(deployment)
    deployment.store.put(name, b"short")
    code, done = deployment.repair()
    assert (code, sorted(done["left"])) == (
        1,
        [problems.LEGACY_LINK.name, problems.SIZE_MISMATCH.name],
    )
    assert [link.get("attachment") for link in deployment.links()] == [None]


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


def test_an_upload_in_progress_is_reported_and_left(either):
    storage = either.app.registry.attachments.files
    staged = storage.stage(ORPHAN, "text/plain", unique=True)
    staged.write(b"x" * 11 * 1024**2)
    code, found = either.check()
    assert (code, list(found)) == (0, [problems.INCOMPLETE_UPLOAD.name])
    assert either.repair("--delete-files")[0] == 0
    assert staged.publish() == ORPHAN
    assert either.files()[ORPHAN] == b"x" * 11 * 1024**2
    either.store.remove(ORPHAN)


def test_a_storage_that_lists_no_incomplete_uploads_is_no_fault(deployment, monkeypatch):
    deployment.upload()
    lose_link(deployment)
    storage = deployment._open_once(deployment.ini).files

    def incomplete_uploads():
        yield StoredFile(".staging/a", 1, 0.0)
        raise StorageError("not implemented")

    monkeypatch.setattr(storage, "incomplete_uploads", incomplete_uploads)
    code, output = deployment.run("check", "--grace", "0")
    assert (code, [one["what"] for one in output]) == (
        1,
        [
            problems.MISSING_LINK.name,
            problems.INCOMPLETE_UPLOAD.name,
            problems.INCOMPLETE_UPLOADS_UNKNOWN.name,
            "summary",
        ],
    )
    assert output[2]["because"] == "not implemented"
    assert deployment.repair() == (0, {"repaired": [problems.MISSING_LINK.name]})
    assert list(deployment.check()[1]) == [
        problems.INCOMPLETE_UPLOAD.name,
        problems.INCOMPLETE_UPLOADS_UNKNOWN.name,
    ]


@pytest.mark.parametrize("command", ["repair", "relocate", "check"])
def test_a_lost_database_is_reported_in_a_line(postgresql, tmp_path, capsys, monkeypatch, command):
    app = App(tmp_path / "files", **postgresql_backends(postgresql()))
    app.create_collection()
    deployment = Deployment(app, tmp_path, app.files, capsys)
    deployment.upload()
    deployment._open_once(deployment.ini)
    arguments = {"repair": ["--grace", "0"], "relocate": ["--base-url", "", NOWHERE]}
    if command == "repair":
        lose_link(deployment)
    owner, name = (metadata, "possible_keys") if command == "check" else (Links, "add")
    original = getattr(owner, name)

    def then_lost(*args):
        result = original(*args)
        deployment.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid != pg_backend_pid()"
        )
        return result

    monkeypatch.setattr(owner, name, then_lost)
    code, output = deployment.run(command, *arguments.get(command, []))
    assert (code, output[-1]["what"]) == (1, "summary" if command == "relocate" else "failure")
    message = output[0]["reason"] if command == "relocate" else output[-1]["message"]
    assert "connection" in message
    assert len(message.splitlines()) == 1


NOWHERE = "https://new.example.org/"


@pytest.mark.parametrize("size", [0, 100_000])
def test_the_age_of_a_file_begins_with_publishing(deployment, size):
    """The last byte of an upload may arrive long before the end of its form."""
    deployment.upload()
    staged = deployment.app.registry.attachments.files.stage(ORPHAN, "text/plain", unique=True)
    staged.write(b"x" * size)
    (path,) = (deployment.app.folder / ".staging").iterdir()
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


def test_attachments_that_are_not_in_this_storage_are_counted(deployment):
    url = f"{COLLECTION}/records/foreign"
    elsewhere = {"location": "https://example.org/cat.jpg", "hash": "0" * 64, "size": 1}
    deployment.app.put_json(url, {"data": {"attachment": elsewhere}}, headers=ALICE)
    deployment.app.put_json(f"{url}2", {"data": {"attachment": "text"}}, headers=ALICE)
    code, output = deployment.run("check", "--grace", "0")
    assert code == 0
    assert [one["what"] for one in output] == ["summary"]
    assert output[0]["unlocated"] == 2


def test_a_record_without_file_and_link_is_unverified(make_deployment):
    deployment = make_deployment(attachment__base_url="https://example.org/")
    deployment.upload()
    name = location(deployment)
    deployment.store.remove(name)
    lose_link(deployment)
    assert deployment.check() == (0, {problems.UNVERIFIED_ATTACHMENT.name: [name]})


def test_all_pages_are_read(deployment, monkeypatch):
    monkeypatch.setattr("kinto_attachment.paging.PAGE_SIZE", 3)
    for number in range(8):
        deployment.upload(f"r{number}")
    deployment.sql(
        "UPDATE objects SET resource_name = '', parent_id = '__attachments__' WHERE id IN "
        "(SELECT id FROM objects WHERE resource_name = 'attachments' ORDER BY id LIMIT 4)"
    )
    code, output = deployment.run("check", "--grace", "0")
    assert output[-1] | {"links": 8, "records": 8, "files": 8} == output[-1]


def test_all_links_to_one_file_are_read(deployment, monkeypatch):
    """They have the same id, which continues on the next page."""
    monkeypatch.setattr("kinto_attachment.paging.PAGE_SIZE", 3)
    deployment.upload()
    for number in range(7):
        deployment.copy("first", f"copy{number}")
    code, output = deployment.run("check", "--grace", "0")
    assert (code, output[-1]["links"], output[-1]["records"]) == (0, 8, 8)


def test_all_is_found_if_kinto_returns_less_than_a_page(make_deployment):
    """All lists, also that of legacy links, are longer."""
    old, new = "https://old.example.org/", "https://new.example.org/"
    deployment = make_deployment(storage_max_fetch_size="10", attachment__base_url=old)
    uris = [f"{COLLECTION}/records/r{number}" for number in range(26)]
    for uri in uris:
        deployment.upload(uri.rpartition("/")[2])
    deployment.sql(
        "UPDATE objects SET parent_id = '__attachments__', data = data - 'attachment' - 'origin' "
        "WHERE resource_name = 'attachments'"
    )
    code, output = deployment.run("relocate", "--base-url", old, new)
    assert (code, output[-1]["counts"]) == (0, {"relocated": 26})
    code, found = deployment.check("--hash")
    assert (code, {kind: len(names) for kind, names in found.items()}) == (
        0,
        {problems.LEGACY_LINK.name: 26},
    )
    assert deployment.repair() == (0, {"repaired": [problems.LEGACY_LINK.name] * 26})
    assert deployment.sql("DELETE FROM objects WHERE resource_name = 'attachments'") == 26
    code, done = deployment.repair()
    assert (code, done) == (0, {"repaired": [problems.MISSING_LINK.name] * 26})
    assert deployment.sql("DELETE FROM objects WHERE resource_name = 'record'") == 26
    code, done = deployment.repair()
    assert (code, done) == (0, {"repaired": [problems.STALE_LINK.name] * 26})
    assert (deployment.files(), deployment.check()) == ({}, (0, {}))


def test_every_link_of_a_record_is_checked(make_deployment):
    """Earlier plugins may not have removed them."""
    deployment = make_deployment(storage_max_fetch_size="2")
    deployment.upload()
    for number in range(5):
        deployment.sql(
            "INSERT INTO objects (id, parent_id, resource_name, data, deleted) "
            "SELECT :id, '__attachments__', 'attachments', data - 'attachment' - 'origin' "
            "|| jsonb_build_object('location', :id), FALSE FROM objects "
            "WHERE resource_name = 'attachments' AND parent_id != '__attachments__'",
            id=f"old{number}.txt",
        )
    code, found = deployment.check()
    assert (code, len(found[problems.DANGLING_LINK.name])) == (1, 5)
    assert deployment.repair() == (0, {"repaired": [problems.DANGLING_LINK.name] * 5})
    assert is_sound(deployment)


def test_a_check_during_changes_finds_nothing(serve, database, tmp_path, capsys):
    """Files are stored and deleted continually, many of them older than the grace period."""
    server = serve("granian", **backends(database))
    app = SimpleNamespace(settings=postgresql_backends(database))
    deployment = Deployment(app, tmp_path, Folder(tmp_path / "files").files, capsys)
    deployment.ini = str(server.ini)
    url = f"{server.url}{COLLECTION}"
    auth = ("alice", "secret")
    requests.put(f"{server.url}/buckets/blog", auth=auth, timeout=30).raise_for_status()
    requests.put(url, auth=auth, timeout=30).raise_for_status()
    stop = threading.Event()
    done, deleted = [], []

    def work(number):
        with requests.Session() as session:
            session.auth = auth
            while not stop.is_set():
                # Rarely the same one, so that deleted files are older than the grace period.
                at = f"{url}/records/{number}-{random.randrange(40)}"
                files = {"attachment": ("a.txt", os.urandom(100), "text/plain")}
                done.append(session.post(f"{at}/attachment", files=files, timeout=30).status_code)
                done.append(session.get(at, timeout=30).status_code)
                if len(done) % 3 == 0:
                    deleted.append(session.delete(at, timeout=30).status_code)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(done) > 100)
        compared = 0
        for _ in range(3):
            seen = len(done)
            code, output = deployment.run("check", "--grace", "1s", "--hash")
            assert code == 0
            # A pending deletion is reported, and no fault.
            assert {one["what"] for one in output} <= {problems.PENDING_DELETION.name, "summary"}
            compared += output[-1]["files"]
            eventually(lambda: len(done) > seen + 10)  # noqa: B023
        stop.set()
        for thread in threads:
            thread.join()
        assert set(done) <= {200, 201}
        # Kinto answers 409 if two changes of a collection get the same timestamp.
        assert set(deleted) <= {200, 409}
        assert compared > 30
        assert deployment.check("--hash") == (0, {})
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        deployment.close()


def test_changes_while_the_inventory_is_read_are_no_problems(deployment, monkeypatch):
    """What was read before a change does not match what is read after it."""
    for record in ("replaced", "deleted", "replaced-later", "deleted-later"):
        deployment.upload(record)

    def change_before(method, suffix):
        original = getattr(Inventory, method)

        def changed(inventory):
            thread = threading.Thread(target=change, args=[suffix])
            thread.start()
            thread.join()
            return original(inventory)

        monkeypatch.setattr(Inventory, method, changed)

    def change(suffix):
        deployment.upload(f"replaced{suffix}", b"another")
        deployment.app.delete(f"{COLLECTION}/records/deleted{suffix}", headers=ALICE)

    change_before("_links", "")
    change_before("_records", "-later")
    assert deployment.check("--hash") == (0, {})
    assert is_sound(deployment)
