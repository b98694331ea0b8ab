"""Requests on one upload at the same time, with the transactions of PostgreSQL."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kinto_attachment.resumable import completion
from kinto_attachment.resumable.completion import Completion
from tests.support.app import RECORD, App
from tests.support.postgresql import postgresql_backends
from tests.support.resumable import CONTENT, Client, states
from tests.support.users import ALICE


@pytest.fixture(scope="module")
def app(postgresql, tmp_path_factory):
    return App(tmp_path_factory.mktemp("races") / "files", **postgresql_backends(postgresql()))


@pytest.fixture
def client(app):
    app.reset()
    app.create_collection()
    return Client(app)


def at_once(*actions):
    """Return the statuses of requests that are sent at the same time."""
    start = threading.Barrier(len(actions))

    def act(action):
        start.wait()
        return action().status_code

    with ThreadPoolExecutor(len(actions)) as pool:
        return sorted(pool.map(act, actions))


def test_of_two_that_append_at_once_one_wins(app, client):
    for _ in range(5):
        path = client.begun()
        append = [lambda path=path: client.patch(path, 0, CONTENT, status="*")] * 3
        statuses = at_once(*append)
        assert statuses.count(204) == 1, statuses
        assert set(statuses) <= {204, 409, 423}
        assert app.stored(app.record()["attachment"]) == CONTENT
        assert client.offset(path) == 16
    app.wait_for_deletions()
    assert list(app.files().values()) == [CONTENT]


def test_of_two_that_complete_at_once_one_wins(app, client, monkeypatch):
    path = client.begun()
    with monkeypatch.context() as context:
        context.setattr(Completion, "_attach", lambda *args: 1 / 0)
        client.patch(path, 0, CONTENT, status=500)
    complete = [lambda: client.patch(path, 15, CONTENT[15:], status="*")] * 3
    statuses = at_once(*complete)
    assert statuses.count(204) == 1, statuses
    assert set(statuses) <= {204, 409, 423}
    assert app.stored(app.record()["attachment"]) == CONTENT
    assert len(app.links()) == 1


def test_an_upload_and_the_deletion_of_its_record_take_turns(app, client):
    for _ in range(5):
        app.create_collection()
        app.put_json(RECORD, headers=ALICE)
        path = client.begun()
        client.patch(path, 0, CONTENT[:5])
        at_once(
            lambda path=path: client.patch(path, 5, CONTENT[5:], status="*"),
            lambda: app.delete("/buckets/blog/collections/photos", headers=ALICE),
        )
        app.wait_for_deletions()
        app.registry.attachments.uploads.clear_expired()
        assert (app.files(), app.links()) == ({}, [])
        assert [state for state in states(app) if state["expires"]] == []


def test_a_claim_is_renewed_while_its_request_works(app, client, monkeypatch):
    monkeypatch.setattr(completion, "CLAIM_SECONDS", 0.3)
    path = client.begun()
    store = Completion._store
    renewed = threading.Event()
    save = app.registry.attachments.uploads.save

    def slow(self, upload, file):
        assert renewed.wait(30)
        return store(self, upload, file)

    def watch(upload, **changes):
        if threading.current_thread() is not request_thread:
            renewed.set()
        return save(upload, **changes)

    request_thread = threading.current_thread()
    monkeypatch.setattr(Completion, "_store", slow)
    monkeypatch.setattr(app.registry.attachments.uploads, "save", watch)
    client.patch(path, 0, CONTENT)
    assert client.offset(path) == 16
    assert states(app)[0]["completed_until"] == 0


def test_a_listener_that_fails_leaves_the_file_for_the_next_try(app, client):
    path = client.begun()
    failures = iter([RuntimeError("not today")])

    def listener(event):
        for failure in failures:
            raise failure

    app.listen(listener)
    client.patch(path, 0, CONTENT, status=500)
    (stored,) = [name for name, content in app.files().items() if content == CONTENT]
    assert client.offset(path) == 15
    client.patch(path, 15, CONTENT[15:])
    app.wait_for_deletions()
    assert app.files() == {stored: CONTENT}
    assert app.record()["attachment"]["location"] == stored


def test_users_have_no_more_than_they_may_at_once(app, client, monkeypatch):
    monkeypatch.setattr(app.registry.attachments.uploads, "_max_open", 2)
    # Of records of their own, whose locks do not keep them apart.
    clients = [Client(app, record=f"{RECORD}-{number}") for number in range(5)]
    begin = [lambda one=one: one.begin(status="*") for one in clients]
    assert at_once(*begin) == [201, 201, 429, 429, 429]


def test_the_events_after_a_commit_are_sent(app, client):
    from kinto.core.events import AfterResourceChanged

    events = []
    app.registry.registerHandler(events.append, (AfterResourceChanged,))
    client.completed()
    uris = [event.payload["uri"] for event in events]
    assert uris == [RECORD]
    assert set(events[0].payload) >= {"bucket_id", "collection_id", "record_id"}
    assert "upload_id" not in events[0].payload
