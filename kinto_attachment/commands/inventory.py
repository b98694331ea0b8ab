"""The inventory: files, links, records and queued deletions, in an SQLite database on the disk.

A million files take some hundred MB there, and hardly any memory. The server goes on while the
inventory is read, so what it shows needs confirmation.
"""

import contextlib
import math
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

from kinto_attachment import metadata
from kinto_attachment.commands import scan
from kinto_attachment.commands.server import Server
from kinto_attachment.console import Console
from kinto_attachment.storage.contract import StoredFile


SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -32000;
CREATE TABLE files (key TEXT PRIMARY KEY, size INTEGER, modified REAL, is_dated INTEGER)
    WITHOUT ROWID;
CREATE TABLE others (key TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID;
CREATE TABLE links (
    record TEXT, key TEXT, attachment TEXT, modified REAL, PRIMARY KEY (record, key)
) WITHOUT ROWID;
CREATE TABLE records (
    record TEXT PRIMARY KEY, key TEXT, attachment TEXT, hash TEXT, size INTEGER, modified REAL
) WITHOUT ROWID;
CREATE TABLE deletions (key TEXT PRIMARY KEY, modified REAL) WITHOUT ROWID;
"""

INDEXES = """
CREATE INDEX links_key ON links (key);
CREATE INDEX records_key ON records (key);
"""


class Inventory:
    """A context in which the inventory exists.

    :ivar began: when reading began, in seconds since 1970.
    :ivar listed: when all files had been listed, on the monotonic clock.
    :ivar unlocated: how many records have an attachment that is not in this storage.
    """

    def __init__(self, server: Server, console: Console):
        self._server = server
        self._console = console
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

    def rows(self, query: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        """Return the rows of a query."""
        cursor = self._database.execute(query, values)
        try:
            # (`yield from` would close the cursor by itself.)
            for row in cursor:  # noqa: UP028
                yield row
        finally:
            # If an error has closed the database, its cursors are closed as well.
            with contextlib.suppress(sqlite3.ProgrammingError):
                cursor.close()

    def has(self, query: str, **values: Any) -> bool:
        """Return whether a query has any row."""
        return next(self.rows(query, **values), None) is not None

    def count(self, table: str) -> int:
        """Return the number of rows in a table."""
        return next(self.rows(f"SELECT count(*) FROM {table}"))[0]

    def add_others(self, files: Iterable[StoredFile]) -> None:
        """Add the files of another storage."""
        self._insert("others", ((file.key, file.size) for file in files))

    def _fill(self) -> None:
        self._database.executescript(SCHEMA)
        files = self._console.track("files", self._server.files.files())
        rows = ((file.key, file.size, file.modified, file.is_dated) for file in files)
        self._insert("files", rows)
        self.listed = time.monotonic()
        self._insert("links", self._links())
        self._insert("records", self._records())
        self._insert("deletions", self._deletions())
        self._database.executescript(INDEXES)

    def _insert(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        columns = len(list(self._database.execute(f"PRAGMA table_info({table})")))
        marks = ", ".join("?" * columns)
        self._database.execute("BEGIN")
        self._database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)
        self._database.execute("COMMIT")

    def _links(self) -> Iterator[tuple[Any, ...]]:
        for link in self._console.track("links", scan.all_links(self._server)):
            attachment = metadata.as_text(link["attachment"]) if "attachment" in link else None
            yield link["record_uri"], link["location"], attachment, link["last_modified"] / 1000

    def _records(self) -> Iterator[tuple[Any, ...]]:
        found = scan.all_records(self._server)
        for record_uri, record in self._console.track("records", found):
            attachment = record["attachment"]
            if not attachment:
                continue
            key = self._locate(record_uri, attachment)
            if key is None:
                # A younger record may have been written after links and files were read.
                self.unlocated += record["last_modified"] / 1000 < self.began
                continue
            yield (
                record_uri,
                key,
                metadata.as_text(attachment),
                attachment.get("hash") if isinstance(attachment.get("hash"), str) else None,
                size_of(attachment),
                record["last_modified"] / 1000,
            )

    def _deletions(self) -> Iterator[tuple[Any, ...]]:
        for deletion in scan.all_deletions(self._server):
            for key in deletion["locations"]:
                yield key, deletion["last_modified"] / 1000

    def _locate(self, record_uri: str, attachment: Any) -> str | None:
        """Return the key in this storage that an attachment refers to, or ``None``.

        A key of the record's links comes first, then one of a file, then the one of its URL.
        """
        possible = metadata.possible_keys(attachment)
        for query in (
            "SELECT 1 FROM links WHERE record = :record AND key = :key",
            "SELECT 1 FROM files WHERE key = :key",
        ):
            for key in possible:
                if self.has(query, record=record_uri, key=key):
                    return key
        if not self._server.files.base_url:
            return None
        url = attachment["location"]
        return next((key for key in possible if self._server.files.url(key) == url), None)


def size_of(attachment: dict[str, Any]) -> int | None:
    """Return the size in metadata, or ``None`` if no file can have it."""
    size = attachment.get("size")
    # True is an int in Python, and SQLite has no integers of more than 64 bits.
    return size if type(size) is int and 0 <= size < 2**63 else None
