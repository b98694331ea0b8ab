"""What uploads cost, and deleting many files at once: counted in queries and calls."""

import contextlib
import json
import threading

import pytest
import sqlalchemy
import transaction
from kinto.core.scripts import migrate

from kinto_attachment.unit_of_work import LinkSnapshot
from tests.support.app import App
from tests.support.forms import file_part
from tests.support.legacy import make_legacy
from tests.support.postgresql import postgresql_backends
from tests.support.users import ALICE


PHOTOS = "/buckets/many/collections/photos"


@pytest.fixture(scope="module")
def app(postgresql, tmp_path_factory):
    return App(tmp_path_factory.mktemp("files"), **postgresql_backends(postgresql()))


def fill(app, number):
    """Create a bucket of so many records with files."""
    app.create_collection("many", "photos")
    storage = app.registry.storage
    for index in range(number):
        id_, location = f"r{index}", f"{index}.txt"
        attachment = {"location": location, "size": 1}
        storage.update("record", PHOTOS, id_, {"attachment": attachment})
        app.registry.attachments.links.add(f"{PHOTOS}/records/{id_}", location, attachment)
        (app.folder / location).write_text("a")
    transaction.commit()


@contextlib.contextmanager
def queries(app):
    """Collect the statements that this thread sends to the database, with their parameters."""
    engine = app.registry.storage.client.session_factory().get_bind()
    statements = []
    thread = threading.get_ident()

    def collect(connection, cursor, statement, parameters, *args):
        if threading.get_ident() == thread:
            statements.append((statement, parameters))

    sqlalchemy.event.listen(engine, "before_cursor_execute", collect)
    yield statements
    sqlalchemy.event.remove(engine, "before_cursor_execute", collect)
    transaction.abort()


@pytest.mark.parametrize(
    ("path", "many", "page_size"),
    [
        ("", 2500, 1000),
        ("/collections/photos", 250, 100),
        ("/collections/photos/records", 250, 100),
    ],
)
def test_queries_grow_with_the_pages_of_links_and_not_with_the_records(
    app, path, many, page_size, monkeypatch
):
    monkeypatch.setattr("kinto_attachment.paging.PAGE_SIZE", page_size)
    monkeypatch.setattr("kinto_attachment.links.LINKS_PAGE_SIZE", page_size)
    counted = {}
    for number in (many // 5, many):
        fill(app, number)
        with queries(app) as statements:
            app.delete(f"/buckets/many{path}", headers=ALICE, status=200)
        assert (app.files(), app.links(), app.released()) == ({}, [], [])
        transaction.abort()
        counted[number] = len(statements)
    more_pages = 2
    assert 0 < counted[many] - counted[many // 5] <= 12 * more_pages, counted


@pytest.mark.parametrize("path", ["/buckets/many", PHOTOS, "/buckets/many/collections"])
def test_the_links_of_what_is_deleted_are_in_memory_for_a_batch_only(app, path, monkeypatch):
    remembered = []

    def remember(snapshot, record_uri, links):
        remembered.append(record_uri)

    monkeypatch.setattr(LinkSnapshot, "remember", remember)
    counted = []
    for is_batch in (False, True):
        remembered.clear()
        fill(app, 3)
        if is_batch:
            request = {"method": "DELETE", "path": path}
            app.post_json("/batch", {"requests": [request]}, headers=ALICE)
        else:
            app.delete(path, headers=ALICE)
        assert (app.files(), app.links()) == ({}, [])
        counted.append(len(remembered))
        app.delete("/buckets/many", headers=ALICE, status="*")
    assert counted == [0, 3]


def plan(app, statement, parameters):
    """Return how the database would do it where there is too much to read it all."""
    with app.registry.storage.client.connect(readonly=True) as session:
        session.execute(sqlalchemy.text("SET LOCAL enable_seqscan = off"))
        cursor = session.connection().connection.cursor()
        cursor.execute(f"EXPLAIN {statement}", parameters)
        return "\n".join(line for (line,) in cursor.fetchall())


@pytest.mark.parametrize("change", ["bucket", "collection", "a look for releases"])
def test_what_others_have_is_not_read(app, change):
    fill(app, 30)
    with queries(app) as statements:
        if change == "a look for releases":
            app.registry.attachments.deletions._entries_before(1)
            app.registry.attachments.deletions.entries_of("a.txt")
        else:
            path = {"bucket": "/buckets/many", "collection": PHOTOS}[change]
            app.delete(path, headers=ALICE, status=200)
    of_parents = [one for one in statements if "parent_id LIKE" in one[0]]
    ours = [one for one in of_parents if one[1]["parent_id"].startswith(r"\_")]
    plans = [plan(app, *one) for one in ours]
    assert plans and all("(parent_id >= '" in text for text in plans), plans
    assert not any(one[1]["parent_id"].startswith("_") for one in of_parents)
    app.delete("/buckets/many", headers=ALICE, status="*")


@pytest.fixture(scope="module")
def without_plugin(app, tmp_path_factory):
    """A Kinto without the plugin on the same database."""
    settings = {**app.settings, "kinto.includes": "kinto.plugins.default_bucket"}
    return App(tmp_path_factory.mktemp("none"), **settings)


RECORD = f"{PHOTOS}/records/0"
JSON = {**ALICE, "Content-Type": "application/json"}
CHANGE = {"data": {"title": "a"}}
ALL = [{"method": "PUT", "path": f"{PHOTOS}/records/{id_}", "body": CHANGE} for id_ in range(4)]


@pytest.mark.parametrize(
    ("method", "path", "body", "more"),
    [
        ("GET", RECORD, {}, 0),
        ("GET", f"{PHOTOS}/records", {}, 0),
        ("PUT", f"{PHOTOS}/records/new", CHANGE, 1),
        ("PUT", RECORD, CHANGE, 1),
        ("PATCH", RECORD, CHANGE, 1),
        ("DELETE", RECORD, {}, 1),
        ("POST", "/batch", {"requests": ALL}, len(ALL)),
        # The locks, the links, the uploads, and whether there are links of earlier plugins.
        ("DELETE", f"{PHOTOS}/records", {}, 4),
    ],
)
def test_changes_of_plain_records_take_one_more_query_than_without_the_plugin(
    app, without_plugin, method, path, body, more
):
    counted = []
    for one in (app, without_plugin):
        app.reset()
        one.create_collection("many", "photos")
        one.post_json("/batch", {"requests": ALL[:-1]}, headers=ALICE)
        with queries(app) as statements:
            one.request(path, method=method, body=json.dumps(body).encode(), headers=JSON)
        counted.append(len(statements))
    assert counted[0] == counted[1] + more, counted


def test_changes_of_files_take_hardly_more_queries_than_those_of_plain_records(app):
    app.create_collection("many", "photos")
    attachment = f"{RECORD}/attachment"
    counted = {}
    app.put_json(RECORD, CHANGE, headers=ALICE)
    for name, change in {
        "patch plain": lambda: app.patch_json(RECORD, CHANGE, headers=ALICE),
        "delete plain": lambda: app.delete(RECORD, headers=ALICE),
        "attach": lambda: app.upload(url=attachment, status=201),
        "patch": lambda: app.patch_json(RECORD, CHANGE, headers=ALICE),
        "replace": lambda: app.upload(url=attachment, status=200),
        "detach": lambda: app.delete(attachment, headers=ALICE),
        "attach again": lambda: app.upload(url=attachment, status=200),
        "delete": lambda: app.delete(RECORD, headers=ALICE),
    }.items():
        with queries(app) as statements:
            change()
        counted[name] = len(statements)
    assert counted["patch"] <= counted["patch plain"] + 1, counted
    assert counted["replace"] <= counted["patch"], counted
    assert counted["detach"] <= counted["patch"], counted
    # What the record is by now; links and queue.
    assert counted["delete"] <= counted["delete plain"] + 2, counted


def test_a_small_upload_takes_no_more_queries_than_a_record(app):
    app.create_collection("many", "photos")
    counted = []
    # The first one of each kind also finds out things for those that follow.
    for id_ in ("first", "second"):
        record = f"{PHOTOS}/records/{id_}"
        with queries(app) as for_record:
            app.put_json(f"{record}-plain", {"data": {"size": 1}}, headers=ALICE, status=201)
        for size in (1, 1024**2):
            with queries(app) as for_upload:
                part = file_part(b"x" * size)
                app.upload(part, url=f"{record}-{size}/attachment", status=201)
            counted.append((len(for_record), len(for_upload)))
    # Two more, a lock and the link. But what Kinto asks of a collection twice, it asks once here.
    for plain, upload in counted[-2:]:
        assert 0 < upload <= plain, counted


def test_a_migration_takes_no_query_for_each_link(app):
    counted = set()
    for number in (5, 50):
        app.delete("/buckets/many", headers=ALICE, status="*")
        fill(app, number)
        make_legacy(app)
        with queries(app) as statements:
            migrate({"registry": app.registry})
        assert len(app.links()) == number
        transaction.abort()
        counted.add(len(statements))
    assert len(counted) == 1
