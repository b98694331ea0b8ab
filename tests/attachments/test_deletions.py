"""The deletion queue: when its files are deleted, whatever happens in between."""

import threading
import time

import psycopg2
import pytest
import sqlalchemy
import transaction
from kinto.core.events import ResourceChanged

from kinto_attachment import deletions, locks
from kinto_attachment.background import in_background
from kinto_attachment.deletions import Deletions
from kinto_attachment.links import Links
from kinto_attachment.storage.contract import StorageError
from tests.support.app import RECORD, App
from tests.support.forms import file_part
from tests.support.postgresql import postgresql_backends, wait_for_lock
from tests.support.users import ALICE


# Each in a collection of its own: Kinto's changes of one collection wait for one another.
COPY = "/buckets/blog/collections/copies/records/copy"
THIRD = "/buckets/blog/collections/thirds/records/third"
SECONDS = 60


class Race:
    """Holds a request, with all that it has written, right before its commit.

    :ivar reached: is set when it is held.
    """

    def __init__(self):
        self.reached = threading.Event()
        self._go = threading.Event()

    def hold(self, event):
        self.reached.set()
        assert self._go.wait(SECONDS)

    def go(self):
        self._go.set()


class RacingApp(App):
    """A Kinto on PostgreSQL whose requests may be held."""

    def __init__(self, folder, url, **settings):
        plugins = "kinto.plugins.default_bucket kinto.plugins.flush kinto_attachment"
        backends = postgresql_backends(url)
        super().__init__(folder, **{"kinto.includes": plugins, **backends, **settings})
        self._held = {}
        self.registry.registerHandler(self._on_change, (ResourceChanged,))

    def _on_change(self, event):
        race = self._held.pop(event.request.headers.get("Held"), None)
        if race is not None:
            race.hold(event)

    def start(self, method, url, *args, **kwargs):
        """Return the future answer of a request in a thread, and what holds it."""
        race = Race()
        self._held[str(id(race))] = race
        headers = {**ALICE, "Held": str(id(race))}
        request = getattr(self, method)
        return in_background(lambda: request(url, *args, headers=headers, **kwargs)), race


@pytest.fixture(scope="module")
def make_racing_app(postgresql, tmp_path_factory):
    url = postgresql()
    folder = tmp_path_factory.mktemp("files")
    return lambda **settings: RacingApp(folder, url, **settings)


@pytest.fixture(scope="module")
def racing_app(make_racing_app):
    return make_racing_app()


@pytest.fixture
def app(racing_app):
    racing_app.post("/__flush__", headers=ALICE)
    transaction.abort()
    for name in racing_app.files():
        (racing_app.folder / name).unlink()
    for collection in ("photos", "copies", "thirds"):
        racing_app.create_collection(collection=collection)
    yield racing_app
    # What a test reads itself, it reads in a transaction of its own.
    transaction.abort()


@pytest.fixture
def killed(monkeypatch):
    """Have the worker killed after the commit, before it deletes anything."""
    with monkeypatch.context() as patch:
        patch.setattr(Deletions, "_process_later", lambda self, entries: None)
        yield patch


@pytest.fixture
def a_minute_later(monkeypatch):
    def pass_by():
        transaction.abort()
        monkeypatch.setattr("kinto_attachment.deletions.SECONDS_BETWEEN_RETRIES", 0)

    return pass_by


def left(app):
    """Return what there is, in a new transaction: files, links, releases."""
    transaction.abort()
    return sorted(app.files()), app.links(), app.released()


NOTHING = ([], [], [])


class TestTriedAgain:
    def test_at_the_start_of_a_worker(self, app, make_racing_app, killed, a_minute_later):
        location = app.upload().json["location"]
        app.delete(RECORD, headers=ALICE)
        killed.undo()
        assert left(app) == ([location], [], [location])
        a_minute_later()
        make_racing_app().retry_deletions()
        assert left(app) == NOTHING

    def test_after_a_minute(self, app, make_racing_app, killed, a_minute_later):
        location = app.upload().json["location"]
        app.delete(RECORD, headers=ALICE)
        killed.undo()
        make_racing_app().retry_deletions()
        assert left(app) == ([location], [], [location]), "it may be about to be deleted"
        a_minute_later()
        app.retry_deletions()
        assert left(app) == NOTHING

    def test_once_a_minute_and_not_more_often(self, app, monkeypatch):
        looked = []
        monkeypatch.setattr(Deletions, "_process_earlier", lambda self: looked.append(self))
        deletions = app.registry.attachments.deletions
        monkeypatch.setattr(deletions, "_retried_at", time.monotonic() - 61)
        app.retry_deletions()
        app.retry_deletions()
        assert looked == [deletions]

    def test_until_the_storage_works_again(self, app, monkeypatch, a_minute_later, caplog):
        with monkeypatch.context() as patch:
            patch.setattr(
                app.registry.attachments.files,
                "delete_many",
                lambda names: {name: StorageError("not today") for name in names},
            )
            location = app.upload().json["location"]
            app.delete(RECORD, headers=ALICE, status=200)
            assert left(app) == ([location], [], [location])
            assert f"The attachment file {location} could not be deleted" in caplog.text
            a_minute_later()
            app.retry_deletions()
            assert left(app) == ([location], [], [location])
        app.retry_deletions()
        assert left(app) == NOTHING

    def test_those_that_failed_and_no_others(self, app, monkeypatch):
        storage = app.registry.attachments.files
        locations = sorted(
            app.upload(url=f"{url}/attachment").json["location"] for url in (RECORD, COPY)
        )
        delete_many = storage.delete_many

        def fail_once(names):
            names = list(names)
            delete_many(names[1:])
            return {names[0]: StorageError("not today")}

        monkeypatch.setattr(storage, "delete_many", fail_once)
        app.delete("/buckets/blog", headers=ALICE)
        assert left(app) == (locations[:1], [], locations[:1])

    def test_whatever_the_storage_raises(self, app, monkeypatch, a_minute_later, caplog):
        def fail(names):
            raise RuntimeError("not even an error of the storage")

        with monkeypatch.context() as patch:
            patch.setattr(app.registry.attachments.files, "delete_many", fail)
            location = app.upload().json["location"]
            app.delete(RECORD, headers=ALICE, status=200)
            assert left(app) == ([location], [], [location])
        assert "could not be deleted" in caplog.text
        a_minute_later()
        app.retry_deletions()
        assert left(app) == NOTHING

    def test_one_that_fails_keeps_no_other_waiting(self, app, killed, monkeypatch, a_minute_later):
        first = app.upload().json["location"]
        app.delete(RECORD, headers=ALICE)
        app.upload(url=f"{COPY}/attachment")
        app.delete(COPY, headers=ALICE)
        storage = app.registry.attachments.files
        delete_many = storage.delete_many

        def fail(names):
            if first in names:
                raise RuntimeError("not even an error of the storage")
            return delete_many(names)

        killed.undo()
        a_minute_later()
        monkeypatch.setattr(storage, "delete_many", fail)
        app.retry_deletions()
        assert left(app) == ([first], [], [first])

    def test_a_file_that_a_record_holds_again_stays(self, app, killed, a_minute_later):
        attachment = app.upload().json
        app.put_json(COPY, {"data": {"attachment": attachment}}, headers=ALICE)
        app.delete(RECORD, headers=ALICE)
        killed.undo()
        assert app.released() == [attachment["location"]]
        a_minute_later()
        app.retry_deletions()
        files, links, released = left(app)
        assert (files, released) == ([attachment["location"]], [])
        assert [link["record_uri"] for link in links] == [COPY]

    def test_after_a_flush_that_deleted_what_was_written_down(self, app, killed):
        app.upload()
        app.delete(RECORD, headers=ALICE)
        killed.undo()
        app.post("/__flush__", headers=ALICE)
        assert left(app) == NOTHING

    def test_what_is_written_down_during_a_flush_waits_for_its_end(self, app, killed):
        """The bucket is gone, but not yet its file: a flush must not delete all that says so."""
        location = app.upload().json["location"]
        app.delete("/buckets/blog", headers=ALICE)
        (row,) = app.registry.storage.list_all(deletions.QUEUE, f"{deletions.QUEUE_PARENT}*")
        transaction.abort()
        locks.lock_object(app.registry.storage, locks.EVERYTHING)

        def write_down():
            with transaction.manager:
                app.registry.attachments.deletions.enqueue([location])

        writing = in_background(write_down)
        wait_for_lock(app)
        app.registry.storage.delete(
            deletions.QUEUE, deletions.QUEUE_PARENT + row["id"], row["id"], with_deleted=False
        )
        transaction.commit()
        writing.result(SECONDS)
        assert left(app) == ([location], [], [location])

    def test_a_server_that_is_read_only_deletes_nothing(
        self, app, make_racing_app, killed, a_minute_later
    ):
        location = app.upload().json["location"]
        app.delete(RECORD, headers=ALICE)
        killed.undo()
        a_minute_later()
        reading = make_racing_app(**{"kinto.readonly": "true"})
        reading.retry_deletions()
        assert left(app) == ([location], [], [location])


class TestSeveralWorkers:
    def test_a_release_is_settled_once(self, app, killed, monkeypatch):
        location = app.upload().json["location"]
        app.delete(RECORD, headers=ALICE)
        killed.undo()
        (row,) = app.registry.storage.list_all(deletions.QUEUE, f"{deletions.QUEUE_PARENT}*")
        transaction.abort()
        storage = app.registry.attachments.files
        deleted, race = [], Race()
        delete_many = storage.delete_many

        def delete_slowly(names):
            deleted.extend(names)
            race.hold(None)
            return delete_many(names)

        monkeypatch.setattr(storage, "delete_many", delete_slowly)
        workers = [
            Deletions(app.registry.storage, storage, Links(app.registry.storage)) for _ in range(3)
        ]
        first = in_background(lambda: workers[0].process([row]))
        race.reached.wait(SECONDS)
        for worker in workers[1:]:
            in_background(lambda w=worker: w.process([row])).result(SECONDS)
        race.go()
        first.result(SECONDS)
        assert deleted == [location]
        assert left(app) == NOTHING

    def test_a_release_whose_worker_was_killed_is_another_ones(
        self, app, killed, monkeypatch, a_minute_later
    ):
        location = app.upload().json["location"]
        app.delete(RECORD, headers=ALICE)
        killed.undo()
        (row,) = app.registry.storage.list_all(deletions.QUEUE, f"{deletions.QUEUE_PARENT}*")
        claimed = app.registry.attachments.deletions.claim([row])
        assert claimed["locations"] == [location]
        transaction.commit()
        monkeypatch.setattr("kinto_attachment.deletions.SECONDS_BETWEEN_RETRIES", 0.001)
        monkeypatch.setattr("kinto_attachment.deletions.RETRIES_OF_A_CLAIM", 1_000_000)
        app.retry_deletions()
        assert left(app) == ([location], [], [location])
        a_minute_later()
        app.retry_deletions()
        assert left(app) == NOTHING


class TestStorageThatHangs:
    @pytest.fixture
    def hanging(self, app, killed, monkeypatch, a_minute_later):
        """Two releases, and a storage that hangs at the first one and then fails."""
        for url in (RECORD, COPY):
            app.upload(url=f"{url}/attachment")
            app.delete(url, headers=ALICE)
        killed.undo()
        a_minute_later()
        race, app.asked = Race(), []

        def hang(names):
            app.asked.append(names)
            race.hold(None)
            return {name: StorageError("too late") for name in names}

        monkeypatch.setattr(app.registry.attachments.files, "delete_many", hang)
        yield race
        race.go()

    def test_no_transaction_is_open_meanwhile(self, app, hanging):
        app.get("/__lbheartbeat__")
        assert hanging.reached.wait(SECONDS)
        open_transactions = "SELECT state FROM pg_stat_activity WHERE state LIKE '%in transaction%'"
        engine = app.registry.storage.client.session_factory().get_bind()
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text(open_transactions)).all() == []

    def test_no_other_try_begins(self, app, hanging):
        app.get("/__lbheartbeat__")
        assert hanging.reached.wait(SECONDS)
        app.get("/__lbheartbeat__")
        assert len(app.asked) == 1
        hanging.go()
        app.wait_for_deletions()
        assert len(app.asked) == 2

    def test_the_try_ends_with_the_first_failure(self, app, hanging):
        hanging.go()
        app.retry_deletions()
        assert len(app.asked) == 1
        assert len(left(app)[2]) == 2

    def test_a_process_that_ends_begins_no_other_deletion(self, app, hanging, monkeypatch):
        monkeypatch.setattr("kinto_attachment.paging.PAGE_SIZE", 1)
        monkeypatch.setattr("kinto_attachment.background.THREADS.is_ending", True)
        app.retry_deletions()
        assert app.asked == []
        monkeypatch.undo()
        assert len(left(app)[2]) == 2


class TestLastHolders:
    @pytest.fixture
    def attachment(self, app):
        attachment = app.upload().json
        app.put_json(COPY, {"data": {"attachment": attachment}}, headers=ALICE)
        return attachment

    def test_two_that_let_go_at_once_leave_no_file(self, app, attachment):
        first, first_race = app.start("delete", RECORD)
        second, second_race = app.start("delete", COPY)
        for race in (first_race, second_race):
            assert race.reached.wait(SECONDS)
        for future, race in ((first, first_race), (second, second_race)):
            race.go()
            assert future.result(SECONDS).status_code == 200
        assert left(app) == NOTHING

    def test_the_file_stays_until_the_last_one_has_committed(self, app, attachment):
        first, race = app.start("delete", RECORD)
        assert race.reached.wait(SECONDS)
        app.delete(COPY, headers=ALICE)
        assert list(app.files()) == [attachment["location"]], "the first may still be undone"
        race.go()
        first.result(SECONDS)
        assert left(app) == NOTHING

    def test_a_file_that_passes_to_another_record_meanwhile_stays(self, app, attachment):
        body = {
            "requests": [
                {"method": "DELETE", "path": COPY},
                {"method": "PUT", "path": THIRD, "body": {"data": {"attachment": attachment}}},
            ]
        }
        moving, race = app.start("post_json", "/batch", body)
        assert race.reached.wait(SECONDS)
        app.delete(RECORD, headers=ALICE)
        race.go()
        moving.result(SECONDS)
        files, links, released = left(app)
        assert (files, released) == ([attachment["location"]], [])
        assert [link["record_uri"] for link in links] == [THIRD]

    def test_a_copy_of_what_passes_to_another_record_meanwhile_has_the_file(self, app):
        attachment = app.upload().json
        body_of_copy = {"data": {"attachment": attachment}}
        body = {
            "requests": [
                {"method": "PUT", "path": THIRD, "body": body_of_copy},
                {"method": "DELETE", "path": RECORD},
            ]
        }
        moving, race = app.start("post_json", "/batch", body)
        assert race.reached.wait(SECONDS)
        copying = in_background(lambda: app.put_json(COPY, body_of_copy, headers=ALICE))
        wait_for_lock(app)
        race.go()
        moving.result(SECONDS)
        assert copying.result(SECONDS).status_code == 201
        files, links, released = left(app)
        assert (files, released) == ([attachment["location"]], [])
        assert sorted(link["record_uri"] for link in links) == [COPY, THIRD]


def as_earlier_plugins_linked(app):
    """Have the links be like those of earlier plugins."""
    storage = app.registry.storage
    for link in app.links():
        names = ("location", "record_uri", "collection_uri", "bucket_uri")
        storage.create("attachments", "__attachments__", {name: link[name] for name in names})
        app.registry.attachments.links.change([], [link])
    transaction.commit()


@pytest.mark.parametrize("make_links", [lambda app: None, as_earlier_plugins_linked])
class TestCopyAtTheLastRelease:
    def body(self, attachment):
        return {"data": {"attachment": attachment}}

    def test_who_copies_first_has_the_file(self, app, make_links):
        attachment = app.upload().json
        make_links(app)
        copying, race = app.start("put_json", COPY, self.body(attachment))
        assert race.reached.wait(SECONDS)
        deleting = in_background(lambda: app.delete(RECORD, headers=ALICE))
        wait_for_lock(app)
        race.go()
        assert copying.result(SECONDS).status_code == 201
        assert deleting.result(SECONDS).status_code == 200
        files, links, released = left(app)
        assert (files, released) == ([attachment["location"]], [])
        assert [link["record_uri"] for link in links] == [COPY]

    def test_who_copies_later_has_no_file_and_holds_none(self, app, make_links):
        attachment = app.upload().json
        make_links(app)
        deleting, race = app.start("delete", RECORD)
        assert race.reached.wait(SECONDS)
        copying = in_background(
            lambda: app.put_json(COPY, self.body(attachment), headers=ALICE, status="*")
        )
        wait_for_lock(app)
        race.go()
        deleting.result(SECONDS)
        assert copying.result(SECONDS).status_code == 201
        assert left(app) == NOTHING

    def test_the_copy_has_the_file_where_the_release_is_undone(self, app, make_links, monkeypatch):
        attachment = app.upload().json
        make_links(app)
        deleting, race = app.start("delete", RECORD, status=500)

        def fail(event):
            race.reached.set()
            race._go.wait(SECONDS)
            raise RuntimeError("not today")

        monkeypatch.setattr(race, "hold", fail)
        assert race.reached.wait(SECONDS)
        copying = in_background(lambda: app.put_json(COPY, self.body(attachment), headers=ALICE))
        wait_for_lock(app)
        race.go()
        deleting.result(SECONDS)
        assert copying.result(SECONDS).status_code == 201
        files, links, released = left(app)
        assert (files, released) == ([attachment["location"]], [])
        assert sorted(link["record_uri"] for link in links) == [COPY, RECORD]

    def test_another_holder_is_a_source_as_well(self, app, make_links):
        attachment = app.upload().json
        app.put_json(THIRD, self.body(attachment), headers=ALICE)
        make_links(app)
        deleting, race = app.start("delete", RECORD)
        other, other_race = app.start("delete", THIRD)
        for one in (race, other_race):
            assert one.reached.wait(SECONDS)
        copying = in_background(lambda: app.put_json(COPY, self.body(attachment), headers=ALICE))
        wait_for_lock(app)
        race.go()
        deleting.result(SECONDS)
        other_race.go()
        other.result(SECONDS)
        assert copying.result(SECONDS).status_code == 201
        assert left(app) == NOTHING


@pytest.mark.parametrize("kind", ["collection", "collections", "bucket", "buckets"])
def test_a_deletion_beside_a_flush_ends_in_no_deadlock(app, monkeypatch, kind):
    app.upload()
    flush, is_locked, go = app.registry.storage.flush, threading.Event(), threading.Event()

    def flush_later():
        is_locked.set()
        assert go.wait(SECONDS)
        flush()

    monkeypatch.setattr(app.registry.storage, "flush", flush_later)
    flushing = in_background(lambda: app.post("/__flush__", headers=ALICE, status="*"))
    assert is_locked.wait(SECONDS)
    url = {
        "collection": "/buckets/blog/collections/photos",
        "collections": "/buckets/blog/collections",
        "bucket": "/buckets/blog",
        "buckets": "/buckets",
    }[kind]
    deleting = in_background(lambda: app.delete(url, headers=ALICE, status="*"))
    wait_for_lock(app)
    go.set()
    assert flushing.result(SECONDS).status_code == 202
    assert deleting.result(SECONDS).status_code in (200, 403, 404)
    assert left(app) == NOTHING


class TestManyHolders:
    def test_files_that_many_records_hold_stay(self, postgresql, tmp_path):
        limited = RacingApp(tmp_path, postgresql(), **{"kinto.storage_max_fetch_size": "2"})
        limited.create_collection()
        photos = "/buckets/blog/collections/photos/records"
        for name in ("a", "b"):
            attachment = limited.upload(url=f"{photos}/{name}0/attachment").json
            for number in range(1, 6):
                body = {"data": {"attachment": attachment}}
                limited.put_json(f"{photos}/{name}{number}", body, headers=ALICE)
        requests = [{"method": "DELETE", "path": f"{photos}/{name}0"} for name in ("a", "b")]
        limited.post_json("/batch", {"requests": requests}, headers=ALICE)
        files, links, released = left(limited)
        assert (len(files), released) == (2, [])

    @pytest.mark.parametrize("deleted", ["/buckets/blog/collections/photos", "/buckets/blog"])
    def test_all_go_with_their_parent_however_few_kinto_deletes_at_once(
        self, tmp_path, postgresql, deleted
    ):
        limited = RacingApp(tmp_path, postgresql(), **{"kinto.storage_max_fetch_size": "2"})
        limited.create_collection()
        photos = "/buckets/blog/collections/photos"
        for name in ("a", "b"):
            attachment = limited.upload(url=f"{photos}/records/{name}9/attachment").json
            # Written in another order than they are listed in.
            for number in (3, 8, 1, 6, 2, 7, 5, 4):
                body = {"data": {"attachment": attachment}}
                limited.put_json(f"{photos}/records/{name}{number}", body, headers=ALICE)
        limited.create_collection(collection="photos2")
        limited.upload(url=f"{photos}2/records/other/attachment")
        limited.create_collection("blog2")
        limited.upload(url="/buckets/blog2/collections/photos/records/other/attachment")
        limited.delete(deleted, headers=ALICE, status=200)
        files, links, released = left(limited)
        expected = 2 if deleted == photos else 1
        assert (len(files), len(links), released) == (expected, expected, [])
        # Nor are any records back in a new collection.
        limited.create_collection()
        assert limited.get(f"{photos}/records", headers=ALICE).json["data"] == []
        others = [link["record_uri"] for link in links]
        assert [limited.get(uri, headers=ALICE).status_code for uri in others] == [200] * expected


@pytest.fixture(scope="module")
def plain_names(make_racing_app):
    return make_racing_app(**{"kinto.attachment.randomize": "false"})


class TestNamesThatAreUsedAgain:
    """A worker that was killed after it deleted a file, and before it struck its release out."""

    @pytest.fixture
    def named(self, app, plain_names, killed):
        """A server whose free name ``story.txt`` is written down to be deleted."""
        plain_names.upload(url=f"{COPY}/attachment")
        plain_names.delete(COPY, headers=ALICE)
        killed.undo()
        (plain_names.folder / "story.txt").unlink()
        assert left(plain_names) == ([], [], ["story.txt"])
        return plain_names

    def settle(self, app):
        (row,) = app.registry.storage.list_all(deletions.QUEUE, f"{deletions.QUEUE_PARENT}*")
        transaction.abort()
        return in_background(lambda: app.registry.attachments.deletions.process([row]))

    def test_the_new_file_stays(self, named, a_minute_later):
        named.upload(file_part(b"new"))
        assert named.released() == []
        a_minute_later()
        named.retry_deletions()
        assert named.files() == {"story.txt": b"new"}

    def test_the_others_of_that_release_go(self, named, a_minute_later):
        transaction.begin()
        named.registry.attachments.deletions.add(["story.txt", "other.txt"])
        transaction.commit()
        (named.folder / "other.txt").write_text("other")
        named.upload(file_part(b"new"))
        assert named.files() == {"story.txt": b"new"}
        assert left(named)[2] == []

    def test_the_release_stays_where_the_upload_is_undone(self, named, monkeypatch):
        uploading, race = named.start("upload", file_part(b"new"), status=500)
        monkeypatch.setattr(race, "hold", lambda event: 1 / 0)
        uploading.result(SECONDS)
        assert left(named) == ([], [], ["story.txt"])

    def test_who_settles_while_it_is_uploaded_leaves_it_alone(self, named):
        uploading, race = named.start("upload", file_part(b"new"))
        assert race.reached.wait(SECONDS)
        settling = self.settle(named)
        wait_for_lock(named)
        race.go()
        assert uploading.result(SECONDS).status_code == 201
        settling.result(SECONDS)
        assert named.files() == {"story.txt": b"new"}
        assert left(named)[2] == []

    def test_a_file_that_was_taken_for_the_earlier_one_is_refused(self, named, monkeypatch):
        storage = named.registry.attachments.files
        delete_many, race = storage.delete_many, Race()

        def delete_slowly(names):
            race.hold(None)
            return delete_many(names)

        monkeypatch.setattr(storage, "delete_many", delete_slowly)
        settling = self.settle(named)
        assert race.reached.wait(SECONDS)
        tries, is_claimed = [], deletions.is_claimed

        def end_after_the_first_try(*args):
            if tries:
                race.go()
                settling.result(SECONDS)
            tries.append(args)
            return is_claimed(*args)

        monkeypatch.setattr(deletions, "is_claimed", end_after_the_first_try)
        answer = in_background(lambda: named.upload(file_part(b"new"), status="*")).result(SECONDS)
        assert (answer.status_code, answer.json["errno"]) == (503, 201)
        named.get(RECORD, headers=ALICE, status=404)
        assert left(named) == NOTHING

    def test_a_name_that_is_being_deleted_for_long_is_a_conflict(self, named, monkeypatch):
        monkeypatch.setattr("kinto_attachment.http.transactions.MAX_PAUSE_SECONDS", 0)
        (row,) = named.registry.storage.list_all(deletions.QUEUE, f"{deletions.QUEUE_PARENT}*")
        named.registry.attachments.deletions.claim([row])
        transaction.commit()
        answer = named.upload(file_part(b"new"), status=409)
        assert answer.headers["Retry-After"]
        assert left(named) == ([], [], ["story.txt"])


def test_new_doubts_while_others_are_written_down_are_kept(app, monkeypatch, a_minute_later):
    for name in ("first.txt", "second.txt"):
        (app.folder / name).write_text("x")
    releases = app.registry.attachments.deletions
    releases.keep_in_doubt(["first.txt"])
    add = releases.add

    def another_worker_thread(keys):
        monkeypatch.undo()
        releases._enqueue_in_doubt()
        releases.keep_in_doubt(["second.txt"])
        return add(keys)

    monkeypatch.setattr(releases, "add", another_worker_thread)
    releases._enqueue_in_doubt()
    releases._enqueue_in_doubt()
    assert left(app) == (["first.txt", "second.txt"], [], ["first.txt", "second.txt"])


def test_doubts_that_cannot_be_written_down_are_kept(app, monkeypatch):
    releases = app.registry.attachments.deletions
    releases.keep_in_doubt(["first.txt"])
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(releases, "add", None)
        releases._enqueue_in_doubt()
    releases._enqueue_in_doubt()
    assert left(app) == ([], [], ["first.txt"])


@pytest.mark.parametrize("happens", [True, False])
def test_a_file_of_a_commit_whose_answer_is_lost_stays_until_the_database_tells(
    app, monkeypatch, a_minute_later, happens
):
    def commit_without_answer(connection):
        connection.commit() if happens else connection.rollback()
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    dialect = app.registry.storage.client.session_factory().get_bind().dialect
    with monkeypatch.context() as patch:
        patch.setattr(dialect, "do_commit", commit_without_answer)
        answer = app.upload(status=503)
    assert answer.json["errno"] == 201
    assert answer.headers["Retry-After"]
    (location,) = app.files()
    a_minute_later()
    app.retry_deletions()  # It is written down now,
    app.retry_deletions()  # and decided on here.
    record = app.get(RECORD, headers=ALICE, status=200 if happens else 404).json
    if happens:
        assert record["data"]["attachment"]["location"] == location
    assert left(app)[::2] == ([location] if happens else [], [])
