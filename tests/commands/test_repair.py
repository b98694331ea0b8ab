"""What ``kinto-attachment repair`` repairs, what it leaves, and when it deletes a file."""

import threading

import pytest
import transaction

from kinto_attachment import locks
from kinto_attachment.background import in_background
from kinto_attachment.commands import problems
from kinto_attachment.deletions import Deletions
from kinto_attachment.storage.local import LocalStorage
from tests.support.commands import COLLECTION
from tests.support.faults import (
    ORPHAN,
    change_record,
    copy_record,
    is_sound,
    location,
    lose_link,
    lose_record,
    make_link_legacy,
)
from tests.support.postgresql import wait_for_lock


def test_a_record_copied_behind_kintos_back_is_linked(deployment):
    deployment.upload()
    copy_record(deployment)
    assert deployment.check() == (1, {problems.MISSING_LINK.name: [location(deployment)]})
    assert deployment.repair() == (0, {"repaired": [problems.MISSING_LINK.name]})
    assert is_sound(deployment)


def test_a_repair_waits_for_a_request_that_has_read_the_links_of_the_record(deployment):
    deployment.upload()
    lose_link(deployment)
    storage = deployment.app.registry.storage
    transaction.abort()
    with transaction.manager:
        locks.lock_record(storage, COLLECTION, "first")
        repairing = in_background(deployment.repair)
        wait_for_lock(deployment.app)
        storage.update("record", COLLECTION, "first", {"title": "detached"})
    assert repairing.result() == (1, {"left": [problems.MISSING_LINK.name]})
    assert deployment.links() == []


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


def test_a_repair_waits_for_the_deletion_of_what_it_releases(deployment, monkeypatch):
    deployment.upload()
    lose_record(deployment)
    waited = threading.Event()
    wait_until_idle, delete_many = Deletions.wait_until_idle, LocalStorage.delete_many

    def wait(self, timeout=None):
        waited.set()
        return wait_until_idle(self, timeout)

    def delete_when_waited_for(self, keys):
        assert waited.wait(60)
        return delete_many(self, keys)

    monkeypatch.setattr(Deletions, "wait_until_idle", wait)
    monkeypatch.setattr(LocalStorage, "delete_many", delete_when_waited_for)
    assert deployment.repair() == (0, {"repaired": [problems.STALE_LINK.name]})
    assert deployment.store.files() == {}
