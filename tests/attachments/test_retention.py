"""Files that stay for a while when no record refers to them any more (``delete_after``)."""

import threading

import pytest
import transaction

from kinto_attachment import deletions, retention
from tests.support.app import ATTACHMENT, RECORD, App
from tests.support.forms import file_part
from tests.support.legacy import make_legacy
from tests.support.postgresql import postgresql_backends
from tests.support.users import ALICE, BOB


PHOTOS = "/buckets/blog/collections/photos"
OTHER = "/buckets/blog/collections/photos/records/other"
COPY = "/buckets/blog/collections/copies/records/copy"
KEPT = "/buckets/blog/collections/kept/records/first"
AT_ONCE = "/buckets/blog/collections/at-once/records/first"
NAMED = "/buckets/blog/collections/named/records/first"

DAY = 86400 * 1000


@pytest.fixture(scope="module")
def shared(postgresql, tmp_path_factory):
    settings = {
        "kinto.includes": "kinto.plugins.flush kinto_attachment",
        "kinto.attachment.delete_after": "7d",
        "kinto.attachment.resources.blog.kept.keep_old_files": "true",
        "kinto.attachment.resources.blog.at-once.delete_after": "0",
        "kinto.attachment.resources.blog.named.randomize": "false",
    }
    folder = tmp_path_factory.mktemp("files")
    return App(folder, **postgresql_backends(postgresql()), **settings)


@pytest.fixture
def app(shared):
    for collection in ("photos", "copies", "kept", "at-once", "named"):
        shared.create_collection(collection=collection)
    yield shared
    shared.reset()
    transaction.commit()


@pytest.fixture
def on_day(app, monkeypatch):
    """Return a function that lets time pass, and the deletions be retried then."""
    today = retention.now()
    monkeypatch.setattr("kinto_attachment.deletions.SECONDS_BETWEEN_RETRIES", 60)

    def pass_by(day):
        transaction.abort()
        monkeypatch.setattr(retention, "now", lambda: today + int(day * DAY))
        monkeypatch.setattr(app.registry.attachments.deletions, "_retried_at", -1e9)
        app.retry_deletions()
        return sorted(app.files())

    return pass_by


def upload(app, record=RECORD, *parts):
    return app.upload(*parts, url=f"{record}/attachment").json


def write(app, record, attachment):
    return app.put_json(record, {"data": {"attachment": attachment}}, headers=ALICE)


def test_a_file_is_deleted_so_long_after_its_record_and_not_before(app, on_day):
    key = upload(app)["location"]
    app.delete(ATTACHMENT, headers=ALICE)
    assert (sorted(app.files()), app.links(), app.released()) == ([key], [], [key])
    assert on_day(6.9) == [key]
    assert on_day(7.1) == []
    assert app.released() == []


@pytest.mark.parametrize("path", ["/buckets/blog", PHOTOS, f"{PHOTOS}/records", RECORD])
def test_whatever_is_deleted_the_file_stays(app, on_day, path):
    key = upload(app)["location"]
    app.delete(path, headers=ALICE)
    assert on_day(6.9) == [key]
    assert on_day(7.1) == []


def test_a_file_that_is_replaced_stays(app, on_day):
    old, new = upload(app)["location"], upload(app)["location"]
    assert on_day(6.9) == sorted([old, new])
    assert on_day(7.1) == [new]


def test_a_collection_has_a_time_of_its_own(app):
    upload(app, AT_ONCE)
    app.delete(AT_ONCE, headers=ALICE)
    assert (app.files(), app.released()) == ({}, [])


def test_files_that_are_kept_are_not_queued(app, on_day):
    key = upload(app, KEPT)["location"]
    app.delete("/buckets/blog", headers=ALICE)
    assert app.released() == []
    assert on_day(8) == [key]


def test_a_record_that_refers_to_the_file_again_takes_it_out(app, on_day):
    attachment = upload(app)
    other = upload(app, OTHER)["location"]
    write(app, COPY, attachment)
    app.delete(f"{PHOTOS}/records", headers=ALICE)
    assert app.released() == sorted([attachment["location"], other])
    transaction.abort()
    write(app, RECORD, attachment)
    assert app.released() == [other], "the others of that change are queued as before"
    assert on_day(6.9) == sorted([attachment["location"], other])
    assert on_day(7.1) == [attachment["location"]]


def test_a_file_to_which_a_record_refers_at_that_time_stays(app, on_day):
    attachment = upload(app)
    write(app, COPY, attachment)
    app.delete(RECORD, headers=ALICE)
    assert on_day(8) == [attachment["location"]]
    assert app.released() == []
    app.delete(COPY, headers=ALICE)
    assert on_day(14) == [attachment["location"]]
    assert on_day(15.1) == []


def test_the_time_counts_from_the_last_record(app, on_day):
    attachment = upload(app)
    upload(app, f"{PHOTOS}/records/other")
    write(app, COPY, attachment)
    app.delete(f"{PHOTOS}/records", headers=ALICE)
    on_day(6)
    app.delete(COPY, headers=ALICE)
    assert on_day(8) == [attachment["location"]]
    assert on_day(12.9) == [attachment["location"]]
    assert on_day(13.1) == []


class TestDifferentTimes:
    """A file that waits, and whose last record released it for another time."""

    def test_after_the_setting_has_changed(self, app, on_day):
        attachment = upload(app)
        write(app, COPY, attachment)
        app.delete(RECORD, headers=ALICE)
        changed = App(app.folder, **(app.settings | {"kinto.attachment.delete_after": "0"}))
        changed.delete(COPY, headers=ALICE)
        assert list(changed.files()) == [attachment["location"]]
        write(app, RECORD, attachment)
        assert on_day(7.1) == [attachment["location"]]

    @pytest.mark.parametrize("collections", [("at-once", "copies"), ("copies", "at-once")])
    @pytest.mark.parametrize("is_bucket", [False, True])
    def test_of_links_of_earlier_plugins(self, app, on_day, collections, is_bucket):
        """They do not know where the file was uploaded to."""
        attachment = upload(app)
        records = [f"/buckets/blog/collections/{one}/records/first" for one in collections]
        for record in records:
            write(app, record, attachment)
        app.delete(RECORD, headers=ALICE)
        make_legacy(app)
        paths = ["/buckets/blog"] if is_bucket else records
        requests = [{"method": "DELETE", "path": path} for path in paths]
        app.post_json("/batch", {"requests": requests}, headers=ALICE)
        assert list(app.files()) == [attachment["location"]]
        assert on_day(7.1) == []


class TestRestored:
    """A record is given metadata of a file to which no record refers, while the file waits."""

    def test_an_earlier_state_of_a_record(self, app, on_day):
        old, new = upload(app), upload(app)
        write(app, RECORD, old)
        assert [link["location"] for link in app.links()] == [old["location"]]
        assert app.released() == [new["location"]]
        assert on_day(7.1) == [old["location"]]
        app.delete(RECORD, headers=ALICE)
        assert on_day(14.3) == []

    @pytest.mark.parametrize("is_legacy", [False, True], ids=["link", "link of an earlier plugin"])
    @pytest.mark.parametrize("restored", [RECORD, COPY])
    @pytest.mark.parametrize(
        "path", [ATTACHMENT, RECORD, f"{PHOTOS}/records", PHOTOS, "/buckets/blog"]
    )
    def test_a_deleted_attachment_also_in_another_record(
        self, app, on_day, path, restored, is_legacy
    ):
        attachment = upload(app)
        if is_legacy:
            make_legacy(app)
        app.delete(path, headers=ALICE)
        for collection in ("photos", "copies"):
            app.create_collection(collection=collection)
        write(app, restored, attachment)
        assert [link["record_uri"] for link in app.links()] == [restored]
        assert on_day(7.1) == [attachment["location"]]
        app.delete(restored, headers=ALICE)
        assert on_day(14.3) == []

    @pytest.mark.parametrize("method", ["put", "patch"])
    def test_what_an_earlier_plugin_linked_and_a_change_replaced(self, app, on_day, method):
        attachment = upload(app)
        make_legacy(app)
        getattr(app, f"{method}_json")(RECORD, {"data": {"attachment": None}}, headers=ALICE)
        write(app, RECORD, attachment)
        assert on_day(7.1) == [attachment["location"]]

    def test_files_that_were_queued_with_it_can_be_restored_as_well(self, app, on_day):
        first, other = upload(app), upload(app, OTHER)
        app.delete(f"{PHOTOS}/records", headers=ALICE)
        write(app, RECORD, first)
        write(app, OTHER, other)
        assert app.released() == []
        assert on_day(7.1) == sorted([first["location"], other["location"]])

    def test_after_the_setting_has_changed(self, app, on_day):
        attachment = upload(app)
        app.delete(RECORD, headers=ALICE)
        changed = App(app.folder, **(app.settings | {"kinto.attachment.delete_after": "0"}))
        write(changed, RECORD, attachment)
        assert [link["record_uri"] for link in app.links()] == [RECORD]
        assert app.released() == []
        assert on_day(7.1) == [attachment["location"]]

    def test_other_metadata_is_refused_as_ever(self, app):
        old = upload(app)
        upload(app)
        body = {"data": {"attachment": {**old, "size": 1}}}
        app.put_json(RECORD, body, headers=ALICE, status=400)

    def test_not_by_a_user_who_may_not_read_the_collection(self, app, on_day):
        """Who creates the record again may read it, which shows nothing."""
        attachment = upload(app)
        app.delete(RECORD, headers=ALICE)
        bob = app.get("/", headers=BOB).json["user"]["id"]
        app.patch_json(PHOTOS, {"permissions": {"record:create": [bob]}}, headers=ALICE)
        app.put_json(RECORD, {"data": {"attachment": attachment}}, headers=BOB, status=201)
        assert app.links() == []
        assert on_day(7.1) == []

    def test_not_by_a_user_who_may_write_that_record_only(self, app):
        old, new = upload(app), upload(app)
        bob = app.get("/", headers=BOB).json["user"]["id"]
        app.patch_json(RECORD, {"permissions": {"write": [bob]}}, headers=ALICE)
        body = {"data": {"attachment": old}}
        app.patch_json(RECORD, body, headers=BOB, status=400)
        assert [link["location"] for link in app.links()] == [new["location"]]

    def test_not_if_a_worker_is_deleting_it(self, app):
        attachment = upload(app)
        app.delete(RECORD, headers=ALICE)
        deletions = app.registry.attachments.deletions
        with transaction.manager:
            deletions.claim(deletions.entries_of(attachment["location"]))
        write(app, RECORD, attachment)
        assert app.links() == []

    def test_not_if_a_worker_begins_to_delete_it_meanwhile(self, app, monkeypatch):
        """The record does not refer to what is deleted a moment later."""
        attachment = upload(app)
        app.delete(RECORD, headers=ALICE)
        deletions = app.registry.attachments.deletions
        withdraw = deletions.withdraw

        def claim(entries):
            with transaction.manager:
                deletions.claim(entries)

        def too_late(key):
            entries = deletions.entries_of(key)
            thread = threading.Thread(target=claim, args=[entries])
            thread.start()
            thread.join()
            return withdraw(key)

        monkeypatch.setattr(deletions, "withdraw", too_late)
        body = {"data": {"attachment": attachment}}
        app.put_json(RECORD, body, headers=ALICE, status=409)
        app.get(RECORD, headers=ALICE, status=404)
        assert app.links() == []

    def test_not_after_a_flush(self, app, on_day):
        attachment = upload(app)
        app.post("/__flush__", headers=ALICE)
        app.create_collection(collection="photos")
        write(app, RECORD, attachment)
        assert app.links() == []
        assert on_day(7.1) == []


def test_a_flush_leaves_files_for_as_long_as_they_would_have_stayed(app, on_day):
    first = upload(app)["location"]
    app.delete(RECORD, headers=ALICE)
    on_day(2)
    second = upload(app)["location"]
    kept = upload(app, KEPT)["location"]
    upload(app, AT_ONCE)
    app.post("/__flush__", headers=ALICE)
    assert sorted(app.files()) == sorted([first, second, kept])
    assert on_day(6.9) == sorted([first, second, kept])
    assert on_day(7.1) == sorted([second, kept])
    assert on_day(9.1) == [kept]
    assert app.released() == []


def test_a_flush_counts_from_the_last_record(app, on_day):
    attachment = upload(app)
    write(app, COPY, attachment)
    app.delete(RECORD, headers=ALICE)
    on_day(6)
    app.post("/__flush__", headers=ALICE)
    assert on_day(12.9) == [attachment["location"]]
    assert on_day(13.1) == []


def test_a_waiting_file_keeps_its_name(app, on_day):
    upload(app, NAMED)
    app.delete(NAMED, headers=ALICE)
    assert upload(app, NAMED, file_part(b"new"))["location"] == "story-1.txt"
    assert on_day(7.1) == ["story-1.txt"]


def test_a_new_file_of_a_name_that_waits_is_not_deleted_in_its_place(app, on_day):
    upload(app, NAMED)
    app.delete(NAMED, headers=ALICE)
    (app.folder / "story.txt").unlink()
    upload(app, NAMED, file_part(b"new"))
    assert app.released() == []
    on_day(7.1)
    assert app.files() == {"story.txt": b"new"}


def test_a_worker_that_is_killed_before_the_time_holds_the_file_no_longer_than_any(app, on_day):
    upload(app)
    app.delete(RECORD, headers=ALICE)
    (entry,) = app.registry.storage.list_all(deletions.QUEUE, f"{deletions.QUEUE_PARENT}*")
    claim = app.registry.attachments.deletions.claim([entry])
    transaction.commit()
    assert deletions.is_claimed(claim, retention.now() - 1000)
    assert on_day(0.1) == []


def test_all_that_is_due_is_deleted_by_one_retry(app, on_day, monkeypatch):
    monkeypatch.setattr("kinto_attachment.deletions.MAX_RETRIED_AT_ONCE", 2)
    for number in range(5):
        upload(app, f"{PHOTOS}/records/r{number}")
        app.delete(f"{PHOTOS}/records/r{number}", headers=ALICE)
    assert len(on_day(6.9)) == 5
    assert on_day(7.1) == []
