"""What it costs to delete many files at once: counted in queries and calls."""

import contextlib
import os
import time

import pytest
import sqlalchemy
import transaction

from kinto_attachment import records
from tests.support import ALICE, App, postgresql_backends


PHOTOS = "/buckets/many/collections/photos"
MANY = int(os.environ.get("KINTO_ATTACHMENT_FILES", "2500"))


@pytest.fixture(scope="module")
def app(postgresql, tmp_path_factory):
    return App(tmp_path_factory.mktemp("files"), **postgresql_backends(postgresql()))


def fill(app, number, with_files=True):
    """Create a bucket of so many records, and return when that was done."""
    app.create_collection("many", "photos")
    storage = app.registry.storage
    for index in range(number):
        id_, location = f"r{index}", f"{index}.txt"
        attachment = {"location": location, "size": 1}
        storage.update("record", PHOTOS, id_, {"attachment": attachment} if with_files else {})
        if with_files:
            records.add_link(storage, f"{PHOTOS}/records/{id_}", location, attachment)
        (app.folder / location).write_text("a")
    transaction.commit()


@contextlib.contextmanager
def queries(app):
    """Collect the statements that Kinto sends to the database."""
    engine = app.registry.storage.client.session_factory().get_bind()
    statements = []

    def collect(connection, cursor, statement, *args):
        statements.append(statement)

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
    monkeypatch.setattr(records, "PAGE_SIZE", page_size)
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


@pytest.mark.skipif("KINTO_ATTACHMENT_FILES" not in os.environ, reason="prints figures only")
def test_figures(app):
    fill(app, MANY)
    begun = time.perf_counter()
    app.delete("/buckets/many", headers=ALICE)
    with_files = time.perf_counter() - begun
    assert app.files() == {}
    transaction.abort()
    fill(app, MANY, with_files=False)
    begun = time.perf_counter()
    app.delete("/buckets/many", headers=ALICE)
    for path in app.folder.glob("*.txt"):
        path.unlink()
    without = time.perf_counter() - begun
    print(f"{MANY}: with files {with_files:.2f} s, plain records and unlink {without:.2f} s")
