"""A canary for each undocumented use of Kinto: a new version that breaks one is named here.

Each test is called like its function in ``kinto_attachment.kinto_internals``. That nothing else
uses such things is held by ``tests/test_architecture.py``.
"""

import inspect

import pytest
import transaction
from kinto.core import initialization, resource
from kinto.core.events import ACTIONS, EventCollector
from kinto.core.storage import postgresql
from kinto.core.storage.exceptions import BackendError
from kinto.core.utils import build_request, sqlalchemy
from kinto.views.records import Record
from pyramid.httpexceptions import HTTPBadRequest, HTTPNotFound, HTTPPreconditionFailed

from kinto_attachment import kinto_internals
from kinto_attachment.kinto_internals import answers
from tests.support.app import App
from tests.support.postgresql import postgresql_backends
from tests.support.users import ALICE, BOB


COLLECTION = "/buckets/blog/collections/photos"


@pytest.fixture(scope="module")
def on_postgresql(tmp_path_factory, postgresql):
    return App(tmp_path_factory.mktemp("files"), **postgresql_backends(postgresql()))


@pytest.fixture
def contexts(app):
    """The contexts of the requests that the app has served."""
    seen = []
    app.registry.registerHandler(
        lambda event: seen.append(event.request.context),
        (kinto_internals_event(),),
    )
    return seen


def kinto_internals_event():
    from pyramid.interfaces import IContextFound

    return IContextFound


def test_max_fetched(on_postgresql, app):
    settings = {"kinto.storage_max_fetch_size": "7"}
    limited = App(on_postgresql.folder, **on_postgresql.settings | settings)
    assert kinto_internals.max_fetched(limited.registry.storage) == 7
    assert kinto_internals.max_fetched(app.registry.storage) == float("inf")


@pytest.mark.parametrize("backend", ["memory", "postgresql"])
def test_parents_beginning_with(app, on_postgresql, backend):
    storage = {"memory": app, "postgresql": on_postgresql}[backend].registry.storage
    for parent in ("a_b/1", "a_b/2", "axb/1"):
        storage.create("canary", parent, {"from": parent})
    found = storage.list_all("canary", kinto_internals.parents_beginning_with("a_b/"))
    assert sorted(one["from"] for one in found) == ["a_b/1", "a_b/2"]
    transaction.abort()


def test_execute(on_postgresql, app):
    storage = on_postgresql.registry.storage
    assert isinstance(storage, postgresql.Storage)
    transaction.begin()
    backends = {
        kinto_internals.execute(storage, "SELECT pg_backend_pid()", {}).scalar(),
        kinto_internals.execute(storage, "SELECT pg_backend_pid()", {}).scalar(),
    }
    several = kinto_internals.execute(storage, "SELECT 1; SELECT %(last)s", {"last": 2})
    # One connection, and so one transaction, the one that Kinto's own queries are in.
    assert len(backends) == 1
    assert several.scalar() == 2
    transaction.abort()
    assert kinto_internals.execute(app.registry.storage, "SELECT 1", {}) is None


def test_stream(on_postgresql, app, monkeypatch):
    """Rows are fetched as they are consumed, in the transaction that Kinto's queries are in."""
    monkeypatch.setattr(kinto_internals, "STREAMED_AT_ONCE", 2)
    storage = on_postgresql.registry.storage
    transaction.begin()
    pid = kinto_internals.execute(storage, "SELECT pg_backend_pid()", {}).scalar()
    query = "SELECT pg_backend_pid(), 1 / (4 - number) FROM generate_series(1, 4) AS number"
    found = kinto_internals.stream(storage, query)
    assert [tuple(next(found)) for _ in range(2)] == [(pid, 0), (pid, 0)]
    with pytest.raises(BackendError):
        list(found)
    transaction.abort()
    assert kinto_internals.stream(app.registry.storage, "SELECT 1") is None


def test_database_errors():
    assert issubclass(sqlalchemy.exc.OperationalError, kinto_internals.DATABASE_ERRORS)


def test_may_read(app):
    app.put_json(f"{COLLECTION}/records/a", {"data": {}}, headers=ALICE)
    answers = {}

    def ask(event):
        uri = f"{COLLECTION}/records/a"
        answers[event.request.prefixed_userid] = kinto_internals.may_read(event.request, [uri])

    app.registry.registerHandler(ask, (kinto_internals_event(),))
    app.get("/", headers=ALICE)
    app.get("/", headers=BOB)
    assert sorted(answers.values()) == [False, True]


def test_prefixed_principals(app, contexts):
    app.get(f"{COLLECTION}/records", headers=ALICE)
    (context,) = contexts
    assert "system.Authenticated" in context.get_prefixed_principals()


def test_record_request_and_change_record(app, contexts):
    """The request on the attachment made one on the record, as Kinto's resource needs it."""
    app.upload()
    (context,) = contexts
    made = context.record_request
    assert made.matched_route.name == "record-object"
    assert made.current_resource_name == "record"
    assert isinstance(kinto_internals.resource_of(context), Record)
    history = app.get(f"{COLLECTION}/records/first", headers=ALICE).json
    assert history["data"]["attachment"]["size"] == len(b"once upon a time")


def test_new_record_is_not_looked_for_again(app, monkeypatch):
    monkeypatch.setattr(resource.Resource, "_404_for_object", None)
    app.upload(status=201)


def test_check_preconditions(app, contexts):
    app.upload()
    app.delete(f"{COLLECTION}/records/first/attachment", headers=ALICE)
    resource = kinto_internals.resource_of(contexts[-1])
    current = resource.model.get_object("first")
    kinto_internals.check_preconditions(resource, current, must_exist=True)
    resource.object_id = "missing"
    resource.context.current_object = None
    with pytest.raises(HTTPNotFound):
        kinto_internals.check_preconditions(resource, None, must_exist=True)
    resource.object_id = "no id!"
    with pytest.raises(HTTPBadRequest):
        kinto_internals.check_preconditions(resource, None, must_exist=False)
    resource.object_id = "first"
    resource.context.current_object = current
    resource.request.validated["header"] = {"If-Match": 1}
    with pytest.raises(HTTPPreconditionFailed):
        kinto_internals.check_preconditions(resource, current, must_exist=True)


def test_remove_attribute(tmp_path):
    """A merge patch with null removes an attribute which the schema does not allow to be null."""
    app = App(tmp_path / "files", **{"kinto.experimental_collection_schema_validation": "true"})
    schema = {"type": "object", "properties": {"attachment": {"type": "object"}}}
    app.create_collection(schema=schema)
    app.upload()
    app.delete(f"{COLLECTION}/records/first/attachment", headers=ALICE)
    assert "attachment" not in app.record()


def test_changes():
    assert list(inspect.signature(EventCollector.add_event).parameters)[1:] == [
        "resource_name",
        "parent_id",
        "action",
        "payload",
        "impacted",
        "request",
    ]
    changes, change, request = kinto_internals.Changes(), {"new": {"id": "a"}}, object()
    changes.add_event("record", COLLECTION, ACTIONS.CREATE, {}, [change], request)
    assert changes.request_of(change) is request
    assert [value[-1] for value in changes.event_dict.values()] == [request]


def test_collect_changes(app):
    """Kinto uses the collector that it finds, and resource events come out of it."""
    collectors = []
    app.listen(lambda event: collectors.append(event.request.bound_data["resource_events"]))
    app.put_json(f"{COLLECTION}/records/a", {"data": {}}, headers=ALICE)
    assert [type(one) for one in collectors] == [kinto_internals.Changes]


def test_objects_before_and_is_deleted(app):
    uri = f"{COLLECTION}/records/a"
    app.put_json(uri, {"data": {"title": "first"}}, headers=ALICE)
    seen = []

    def look(event):
        before = kinto_internals.objects_before(event.request, uri)
        deleted = kinto_internals.is_deleted(event.request, uri)
        seen.append(([one["title"] for one in before], deleted))

    app.listen(look)
    app.put_json(uri, {"data": {"title": "second"}}, headers=ALICE)
    app.delete(uri, headers=ALICE)
    assert seen == [(["first"], False), (["second"], True)]


def test_is_in_batch(app):
    seen = []
    app.registry.registerHandler(
        lambda event: seen.append(kinto_internals.is_in_batch(event.request)),
        (kinto_internals_event(),),
    )
    body = {"requests": [{"method": "GET", "path": "/"}]}
    app.post_json("/batch", body, headers=ALICE)
    assert seen == [False, True]
    assert "parent" in inspect.getsource(build_request)


def test_commit_hooks():
    calls = []
    first = transaction.begin()
    first.addBeforeCommitHook(calls.append, args=("before",))
    first.addAfterCommitHook(lambda success: calls.append(success))
    hooks = kinto_internals.CommitHooks()
    transaction.abort()
    assert calls == []
    hooks.add_to(transaction.begin())
    transaction.commit()
    assert calls == ["before", True]


@pytest.mark.parametrize("is_lost", [True, False])
def test_is_in_doubt(is_lost):
    class Failure(Exception):
        connection_invalidated = is_lost

    class Manager:
        transaction_manager = transaction.manager

        def tpc_begin(self, running):
            raise Failure

        def abort(self, running):
            pass

        tpc_abort = abort

        def sortKey(self):
            return "failing"

    answers = []
    running = transaction.begin()
    running.join(Manager())
    running.addAfterCommitHook(lambda success: answers.append(kinto_internals.is_in_doubt()))
    with pytest.raises(Failure):
        transaction.commit()
    transaction.abort()
    assert answers == [is_lost]


def test_announce_collection_and_create_default_parents(tmp_path):
    """An upload to the default bucket finds its collection announced, and then creates it."""
    includes = {"kinto.includes": "kinto.plugins.default_bucket kinto_attachment"}
    app = App(tmp_path / "files", **includes)
    app.upload(url="/buckets/default/collections/new/records/first/attachment")
    records = app.get("/buckets/default/collections/new/records", headers=ALICE).json["data"]
    assert [record["id"] for record in records] == ["first"]


def test_media_type(app):
    """Cornice finds the view of a Content-Type in other letters, and refuses another type."""
    boundary = "multipart/FORM-data; boundary=x"
    answer = app.post(
        f"{COLLECTION}/records/first/attachment",
        "--x--",
        headers=ALICE | {"Content-Type": boundary},
        status=400,
    )
    assert answer.json["message"] == "Attachment missing."
    assert answers.MediaType("a/b") == "A/B" != "a/c"


def test_no_content(app):
    app.upload()
    request = {"method": "DELETE", "path": f"{COLLECTION}/records/first/attachment"}
    answer = app.post_json("/batch", {"requests": [request]}, headers=ALICE)
    assert answer.json["responses"][0]["status"] == 204
    assert answer.json["responses"][0]["body"] == {}


def test_streamed_response():
    """Kinto's metrics ask for the length of ``body``, which would read all of a response."""
    assert "len(event.response.body" in inspect.getsource(initialization).replace("\n", "")
    response = answers.StreamedResponse(app_iter=iter([b"a file"]))
    assert response.body == b""
    assert list(response.app_iter) == [b"a file"]
