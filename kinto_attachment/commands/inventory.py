"""What there is, put side by side: files, links, records and releases, in a database on the disk.

A million files take some hundred MB there, and hardly any memory. What it says is a hint: the
server goes on while it is filled.
"""

import contextlib
import math
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

from kinto_attachment import records
from kinto_attachment.commands import objects
from kinto_attachment.commands.report import Report
from kinto_attachment.commands.server import Server
from kinto_attachment.storage.contract import StoredFile


SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -32000;
CREATE TABLE files (name TEXT PRIMARY KEY, size INTEGER, modified REAL, is_dated INTEGER)
    WITHOUT ROWID;
CREATE TABLE others (name TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID;
CREATE TABLE links (
    record TEXT, location TEXT, attachment TEXT, modified REAL, PRIMARY KEY (record, location)
) WITHOUT ROWID;
CREATE TABLE records (
    record TEXT PRIMARY KEY, location TEXT, attachment TEXT, hash TEXT, size INTEGER, modified REAL
) WITHOUT ROWID;
CREATE TABLE releases (location TEXT PRIMARY KEY, id TEXT, modified REAL) WITHOUT ROWID;
"""

INDEXES = """
CREATE INDEX links_location ON links (location);
CREATE INDEX records_location ON records (location);
"""


class Inventory:
    """The database, filled: use it as a context.

    :ivar began: when, in seconds since 1970: what is younger was not looked at.
    :ivar listed: when all files had been listed, on the monotonic clock.
    :ivar unlocated: how many records have an attachment that is not one of this storage's.
    """

    def __init__(self, server: Server, report: Report):
        self._server = server
        self._report = report
        self._folder = tempfile.TemporaryDirectory(prefix="kinto-attachment-")
        path = os.path.join(self._folder.name, "inventory.sqlite")
        self._database = sqlite3.connect(path, isolation_level=None)
        self.began = time.time()
        self.listed = math.inf
        self.unlocated = 0

    def __enter__(self) -> "Inventory":
        try:
            self._fill()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._database.close()
        self._folder.cleanup()

    def rows(self, query: str, **values: Any) -> Iterator[tuple]:
        """Return what the database answers, row by row."""
        cursor = self._database.execute(query, values)
        try:
            # (`yield from` would close the cursor by itself.)
            for row in cursor:  # noqa: UP028
                yield row
        finally:
            # Where an error has closed the database, its cursors are closed as well.
            with contextlib.suppress(sqlite3.ProgrammingError):
                cursor.close()

    def count(self, table: str) -> int:
        """Return how many rows there are in a table."""
        return next(self.rows(f"SELECT count(*) FROM {table}"))[0]

    def add_others(self, files: Iterable[StoredFile]) -> None:
        """Add the files of another storage."""
        self._insert("others", ((file.key, file.size) for file in files))

    def _fill(self):
        self._database.executescript(SCHEMA)
        files = self._report.watched("files", self._server.files.files())
        rows = ((file.key, file.size, file.modified, file.is_dated) for file in files)
        self._insert("files", rows)
        self.listed = time.monotonic()
        self._insert("links", self._links())
        self._insert("records", self._records())
        self._insert("releases", self._releases())
        self._database.executescript(INDEXES)

    def _insert(self, table, rows):
        columns = len(list(self._database.execute(f"PRAGMA table_info({table})")))
        marks = ", ".join("?" * columns)
        self._database.execute("BEGIN")
        self._database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)
        self._database.execute("COMMIT")

    def _links(self):
        links = (link for page in objects.pages_of_links(self._server) for link in page)
        for link in self._report.watched("links", links):
            attachment = records.as_text(link["attachment"]) if "attachment" in link else None
            yield link["record_uri"], link["location"], attachment, link["last_modified"] / 1000

    def _records(self):
        pages = objects.pages_of_records(self._server)
        found = ((uri, record) for uri, page in pages for record in page)
        for collection_uri, record in self._report.watched("records", found):
            attachment = record["attachment"]
            if not attachment:
                continue
            record_uri = records.uri_of(collection_uri, record["id"])
            location = self._locate(record_uri, attachment)
            if location is None:
                # A younger one may have come after its link and its file were looked for.
                self.unlocated += record["last_modified"] / 1000 < self.began
                continue
            yield (
                record_uri,
                location,
                records.as_text(attachment),
                attachment.get("hash") if isinstance(attachment.get("hash"), str) else None,
                size_of(attachment),
                record["last_modified"] / 1000,
            )

    def _releases(self):
        for page in objects.pages_of_releases(self._server):
            for release in page:
                for location in release["locations"]:
                    yield location, release["id"], release["last_modified"] / 1000

    def _locate(self, record_uri, attachment):
        """Return the location in this storage that a record's attachment says, or ``None``.

        First what the record is linked with, then what there is, then what its URL says.
        """
        possible = records.possible_locations(attachment)
        for query in (
            "SELECT 1 FROM links WHERE record = :record AND location = :location",
            "SELECT 1 FROM files WHERE name = :location",
        ):
            for location in possible:
                if any(self.rows(query, record=record_uri, location=location)):
                    return location
        if not self._server.files.base_url:
            return None
        urls = ((location, self._server.files.url(location)) for location in possible)
        return next((location for location, url in urls if url == attachment["location"]), None)


def size_of(attachment: dict[str, Any]) -> int | None:
    """Return the size that metadata tell, ``None`` where no file has such a one."""
    size = attachment.get("size")
    # True is no number here, and what takes more than 64 bits nothing for a database.
    return size if type(size) is int and 0 <= size < 2**63 else None
