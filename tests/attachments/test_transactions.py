"""The transactions of a request: none while the client sends, and another for each try."""

import contextlib
import json
import socket
import time

import pytest
import requests
import sqlalchemy
import transaction
from kinto.core.events import AfterResourceChanged, ResourceChanged
from kinto.core.metrics import IMetricsService, NoOpMetricsService
from kinto.core.storage.exceptions import BackendError, IntegrityError, UnicityError
from pyramid.events import NewRequest

from kinto_attachment import listeners, locks
from kinto_attachment.background import in_background
from kinto_attachment.kinto_internals import execute
from tests.support.app import ATTACHMENT, RECORD
from tests.support.forms import BOUNDARY, file_part, multipart
from tests.support.postgresql import postgresql_backends
from tests.support.resumable import Client
from tests.support.settings import unprefixed
from tests.support.users import ALICE, basic_auth


AUTH = ("alice", "secret")
COLLECTION = "/buckets/blog/collections/photos"
STATES = sqlalchemy.text(
    "SELECT state FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
ONE_CONNECTION = {"kinto.storage_pool_size": "1", "kinto.storage_max_overflow": "0"}


@pytest.fixture
def app(make_app, postgresql):
    return make_app(
        includes="kinto.plugins.default_bucket kinto.plugins.history kinto_attachment",
        **unprefixed(postgresql_backends(postgresql())),
    )


class Deadlock(Exception):
    pgcode = "40P01"


class Unreachable(Exception):
    pgcode = "08006"


def backend_error(driver_error):
    return BackendError(sqlalchemy.exc.OperationalError("UPDATE", {}, driver_error))


CONFLICTS = {
    "same timestamp": IntegrityError(ValueError("objects_timestamp")),
    "created at once": UnicityError("id"),
    "deadlock": backend_error(Deadlock()),
}


class Conflicts:
    """A listener that meets conflicts when the record is written, and then none."""

    def __init__(self, app, error, times, meanwhile=None):
        self.error = error
        self.left = times
        self.meanwhile = meanwhile
        self.told = 0
        app.listen(self)

    def __call__(self, event):
        self.told += 1
        if self.left:
            self.left -= 1
            if self.meanwhile:
                # By another transaction, once this one is undone and waits for nobody any more.
                transaction.get().addAfterAbortHook(self._change)
            raise self.error

    def _change(self):
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            in_background(lambda: self._commit(meanwhile)).result()

    def _commit(self, change):
        with transaction.manager:
            change()


class Counts(NoOpMetricsService):
    def __init__(self):
        self.counted = []

    def count(self, key, count=1, unique=None):
        if key.startswith("attachments"):
            self.counted.append((key, count))


@pytest.mark.parametrize("error", CONFLICTS.values(), ids=CONFLICTS)
def test_an_upload_that_conflicts_is_written_again_with_the_same_file(app, error):
    counts = Counts()
    app.registry.registerUtility(counts, IMetricsService)
    committed = []
    app.registry.registerHandler(committed.append, (AfterResourceChanged,))
    conflicts = Conflicts(app, error, times=3)
    attachment = app.upload(status=201).json
    assert conflicts.told == 4
    assert app.files() == {attachment["location"]: b"once upon a time"}
    assert [link["location"] for link in app.links()] == [attachment["location"]]
    assert app.record()["attachment"] == attachment
    assert [len(event.impacted_objects) for event in committed] == [1]
    entries = app.get("/buckets/blog/history?resource_name=record", headers=ALICE).json["data"]
    assert [entry["action"] for entry in entries] == ["create"]
    assert counts.counted == [("attachments_uploads", 1), ("attachments_bytes", 16)]


def test_a_replaced_file_goes_once_the_upload_has_met_no_conflict(app):
    app.upload()
    Conflicts(app, CONFLICTS["deadlock"], times=2)
    attachment = app.upload(file_part(b"the end"), status=200).json
    assert app.files() == {attachment["location"]: b"the end"}
    assert [link["location"] for link in app.links()] == [attachment["location"]]


@pytest.mark.parametrize("error", CONFLICTS.values(), ids=CONFLICTS)
def test_what_conflicts_again_and_again_is_refused_and_leaves_nothing(app, error, monkeypatch):
    monkeypatch.setattr("kinto_attachment.http.transactions.MAX_PAUSE_SECONDS", 0)
    app.upload()
    before = app.state()
    conflicts = Conflicts(app, error, times=1000)
    status = 409 if isinstance(error, IntegrityError) else 503
    app.upload(status=status)
    app.delete(ATTACHMENT, headers=ALICE, status=status)
    assert app.state() == before
    assert conflicts.told == 16


def test_a_database_that_is_away_is_not_asked_again(app):
    conflicts = Conflicts(app, backend_error(Unreachable()), times=1)
    app.upload(status=503)
    assert conflicts.told == 1
    assert app.files() == {}


def test_a_detachment_that_conflicts_is_tried_again(app):
    app.upload()
    conflicts = Conflicts(app, CONFLICTS["same timestamp"], times=2)
    app.delete(ATTACHMENT, headers=ALICE, status=204)
    assert conflicts.told == 3
    assert (app.files(), app.links(), app.record()["attachment"]) == ({}, [], None)


class TestConflictsBeforeTheView:
    """A batch that has written the timestamp of a new collection may wait for a record of it."""

    @pytest.fixture
    def conflicts(self, app, monkeypatch):
        storage, left = app.registry.storage, [CONFLICTS["deadlock"]] * 2
        ask = storage.resource_timestamp

        def resource_timestamp(resource_name, parent_id):
            if resource_name == "record" and left:
                raise left.pop()
            return ask(resource_name, parent_id)

        monkeypatch.setattr(storage, "resource_timestamp", resource_timestamp)
        return left

    def test_an_upload_is_tried_again(self, app, conflicts):
        committed = []
        app.registry.registerHandler(committed.append, (AfterResourceChanged,))
        attachment = app.upload(status=201).json
        assert conflicts == []
        assert [link["location"] for link in app.links()] == [attachment["location"]]
        assert len(committed) == 1

    def test_a_detachment_is_tried_again(self, app, conflicts):
        app.delete(ATTACHMENT, headers=ALICE, status=404)
        assert conflicts == []

    def test_a_resumable_upload_is_tried_again(self, app, conflicts):
        Client(app).begin()
        assert conflicts == []

    def test_a_request_of_a_batch_is_not(self, app, conflicts):
        batch = {"requests": [{"method": "DELETE", "path": ATTACHMENT}]}
        app.post_json("/batch", batch, headers=ALICE, status=503)
        assert len(conflicts) == 1


def test_a_conflict_within_a_batch_is_kintos_to_answer(app):
    app.upload()
    before = app.state()
    conflicts = Conflicts(app, CONFLICTS["same timestamp"], times=1)
    batch = {"requests": [{"method": "DELETE", "path": ATTACHMENT}]}
    app.post_json("/batch", batch, headers=ALICE, status=409)
    assert conflicts.told == 1
    assert app.state() == before


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_preconditions_are_looked_at_anew_with_each_try(app, method):
    app.upload()
    etag = app.get(RECORD, headers=ALICE).headers["ETag"]

    record = app.record()
    changed = {k: v for k, v in record.items() if k != "last_modified"}

    def meanwhile():
        app.registry.storage.update("record", COLLECTION, "first", changed)

    Conflicts(app, CONFLICTS["same timestamp"], times=1, meanwhile=meanwhile)
    headers = {**ALICE, "If-Match": etag}
    if method == "POST":
        app.upload(headers=headers, status=412)
    else:
        app.delete(ATTACHMENT, headers=headers, status=412)
    assert list(app.files().values()) == [b"once upon a time"]
    assert app.record()["attachment"] == record["attachment"]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_collection_that_is_gone_at_the_next_try_is_not_found(app, method):
    app.upload()

    def meanwhile():
        app.registry.storage.delete("collection", "/buckets/blog", "photos")

    Conflicts(app, CONFLICTS["same timestamp"], times=1, meanwhile=meanwhile)
    if method == "POST":
        app.upload(status=404)
    else:
        app.delete(ATTACHMENT, headers=ALICE, status=404)
    assert list(app.files().values()) == [b"once upon a time"]


def test_an_upload_waits_for_a_change_that_has_read_the_record(app, monkeypatch):
    app.put_json(RECORD, {"data": {"title": "a"}}, headers=ALICE)
    storage, uploads = app.registry.storage, []
    update = storage.update

    def update_after_an_upload_has_begun(*args, **kwargs):
        if not uploads:
            uploads.append(in_background(lambda: app.upload(status=200).json))
            wait_until_one_waits_for_a_lock(storage)
        return update(*args, **kwargs)

    monkeypatch.setattr(storage, "update", update_after_an_upload_has_begun)
    app.put_json(RECORD, {"data": {"title": "b"}}, headers=ALICE)
    attachment = uploads[0].result()
    record = app.record()
    assert (record["title"], record["attachment"]) == ("b", attachment)
    assert list(app.files()) == [attachment["location"]]


def wait_until_one_waits_for_a_lock(storage):
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with contextlib.closing(storage.client.session_factory().get_bind().connect()) as connection:
        while not connection.execute(sqlalchemy.text(query)).scalar():
            connection.rollback()
            time.sleep(0.01)


def test_the_row_of_a_record_that_was_created_meanwhile_is_locked_too(app):
    """Who deletes the list of records takes no other lock that a change of the record waits for."""
    storage = app.registry.storage
    query = "SELECT id FROM objects WHERE id = 'first' FOR UPDATE SKIP LOCKED"

    def others_may_change_it():
        with transaction.manager:
            locks.lock_record(storage, COLLECTION, "first")
            with storage.client.session_factory().get_bind().connect() as connection:
                return bool(connection.execute(sqlalchemy.text(query)).scalar())

    transaction.abort()
    with transaction.manager:
        locks.lock_record(storage, COLLECTION, "first")
        storage.create("record", COLLECTION, {"id": "first"})
        answer = in_background(others_may_change_it)
        wait_until_one_waits_for_a_lock(storage)
    assert not answer.result()


@pytest.mark.parametrize("record_id", ["first", "None"])
def test_a_record_is_locked_after_the_list_of_records_as_well(app, record_id):
    storage = app.registry.storage
    query = (
        "SELECT count(*) FROM pg_locks"
        " WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND mode = 'ExclusiveLock'"
    )
    transaction.abort()
    with transaction.manager:
        locks.lock_record(storage, COLLECTION)
        assert execute(storage, query, {}).scalar() == 0
        locks.lock_record(storage, COLLECTION, record_id)
        assert execute(storage, query, {}).scalar() == 1


class TestLostUpdates:
    """Code on the server that changes a record without a request on it, and so without its lock."""

    def change(self, app, before, after):
        """Write a record as it was read some time ago, and report the change."""
        request = app.app.request_factory.blank("/v1/")
        request.registry, request.bound_data = app.registry, {}
        with transaction.manager:
            app.registry.storage.update("record", COLLECTION, "first", dict(after))
            payload = {"bucket_id": "blog", "collection_id": "photos", "resource_name": "record"}
            changes = [{"old": before, "new": after}]
            event = ResourceChanged(payload | {"action": "update"}, changes, request)
            listeners.on_records_changed(event)

    @pytest.mark.parametrize("has_file", [True, False])
    def test_a_change_that_never_saw_the_file_of_now_is_refused(self, app, has_file):
        app.put_json(RECORD, {"data": {"title": "a"}}, headers=ALICE)
        if has_file:
            app.upload()
        before = app.record()
        transaction.abort()
        attachment = app.upload(file_part(b"the end"), status=200).json
        with pytest.raises(IntegrityError, match="got another attachment"):
            self.change(app, before, {**before, "title": "b"})
        assert app.record()["attachment"] == attachment
        assert list(app.files().values()) == [b"the end"]

    def test_a_change_that_saw_the_file_of_now_is_fine(self, app):
        app.upload()
        before = app.record()
        transaction.abort()
        self.change(app, before, {**before, "title": "b"})
        assert app.record()["title"] == "b"
        assert list(app.files().values()) == [b"once upon a time"]

    def test_a_change_that_saw_the_file_of_now_may_let_it_go(self, app):
        app.upload()
        before = app.record()
        transaction.abort()
        self.change(app, before, {"id": "first", "title": "b"})
        assert (app.files(), app.links()) == ({}, [])


def test_events_are_told_once_and_hooks_of_the_request_run_with_its_commit(app):
    told, hooks = [], []

    def on_request(event):
        running = transaction.get()
        running.addBeforeCommitHook(hooks.append, args=("before",))
        running.addAfterCommitHook(lambda success: hooks.append(success))

    app.registry.registerHandler(on_request, (NewRequest,))
    for kind in (ResourceChanged, AfterResourceChanged):
        app.registry.registerHandler(told.append, (kind,))
    app.upload()
    names = [(type(event).__name__, event.payload["resource_name"]) for event in told]
    assert sorted(set(names)) == sorted(names)
    assert ("ResourceChanged", "record") in names and ("AfterResourceChanged", "record") in names
    assert hooks == ["before", True]


# --- clients that send slowly


@pytest.fixture
def serve_postgresql(serve, postgresql):
    """Start a server on PostgreSQL, and return it with a function that tells what that does."""

    def start(**settings):
        url = postgresql()
        server = serve(**unprefixed({**postgresql_backends(url), **settings}))
        for path in ("/buckets/blog", COLLECTION):
            requests.put(server.url + path, auth=AUTH, timeout=30).raise_for_status()
        engine = sqlalchemy.create_engine(url)

        def states():
            with engine.connect() as connection:
                return connection.execute(STATES).scalars().all()

        return server, states

    return start


@contextlib.contextmanager
def slow_upload(server, content=b"slowly " * 300_000, url=ATTACHMENT):
    """Send all of an upload but its end, and return a function that sends that and the answer."""
    body = multipart(file_part(content))
    head = (
        f"POST /v1{url} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\nAuthorization: {basic_auth('alice')}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + body[:-10])

        def finish():
            connection.sendall(body[-10:])
            with connection.makefile("rb") as stream:
                answer = stream.read()
            return int(answer.split()[1]), json.loads(answer.split(b"\r\n\r\n", 1)[1])

        yield finish


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_slow_client_holds_no_transaction_and_no_connection(serve_postgresql, tmp_path):
    server, states = serve_postgresql(**ONE_CONNECTION)
    with slow_upload(server) as finish:
        wait_until(lambda: list((tmp_path / "files" / ".staging").iterdir()))
        # With the only connection of the server.
        requests.put(f"{server.url}{RECORD}", auth=AUTH, timeout=10).raise_for_status()
        wait_until(lambda: "idle in transaction" not in states())
        status, attachment = finish()
    # The record was created while the client sent.
    assert status == 200
    record = requests.get(f"{server.url}{RECORD}", auth=AUTH, timeout=10).json()["data"]
    assert record["attachment"] == attachment


@pytest.mark.parametrize("bucket", ["blog", "default"])
def test_a_slow_client_holds_nothing_with_a_small_file_either(serve_postgresql, bucket):
    includes = {"kinto.includes": "kinto.plugins.default_bucket kinto_attachment"}
    server, states = serve_postgresql(**ONE_CONNECTION, **includes)
    url = ATTACHMENT.replace("blog", bucket)
    with slow_upload(server, b"slowly", url) as finish:
        requests.put(f"{server.url}{RECORD}", auth=AUTH, timeout=10).raise_for_status()
        wait_until(lambda: "idle in transaction" not in states())
        status, _ = finish()
    assert status == (200 if bucket == "blog" else 201)


def test_a_slow_storage_of_small_files_holds_no_connection_either(
    make_app, postgresql, fake_bucket, monkeypatch
):
    url = postgresql()
    app = make_app(**fake_bucket.settings(), **unprefixed(postgresql_backends(url)))
    engine, states = sqlalchemy.create_engine(url), []
    bucket = app.registry.attachments.files.bucket
    call = bucket.call

    def watched(operation, **parameters):
        with engine.connect() as connection:
            states.append((operation, connection.execute(STATES).scalars().all()))
        return call(operation, **parameters)

    monkeypatch.setattr(bucket, "call", watched)
    app.upload()
    ((operation, others),) = states
    assert operation == "put_object"
    assert others
    assert "idle in transaction" not in others


def test_a_slow_client_that_is_refused_holds_no_connection_either(serve_postgresql):
    settings = {"kinto.attachment.extensions": "images"}
    server, states = serve_postgresql(**ONE_CONNECTION, **settings)
    with slow_upload(server) as finish:
        # No sign of the refusal is there to wait for, before the client has sent all.
        requests.put(f"{server.url}{RECORD}", auth=AUTH, timeout=10).raise_for_status()
        wait_until(lambda: "idle in transaction" not in states())
        status, answer = finish()
    assert (status, answer["message"]) == (400, "body: File extension is not allowed.")


def test_the_request_of_a_change_is_known_in_an_upload_too(app):
    found = []

    def listener(event):
        collected = event.request.bound_data["resource_events"]
        found.extend(collected.request_of(change) for change in event.impacted_objects)

    app.listen(listener)
    app.upload()
    assert len(found) == 1
    assert found[0] is not None
