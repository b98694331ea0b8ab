"""The inventory: all files, links, records, uploads, deletions, in an SQLite database on the disk.

A million files take about a gigabyte there, and little memory. The server goes on while the
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
from kinto_attachment.commands import rows, scan
from kinto_attachment.commands.server import Server
from kinto_attachment.console import Console
from kinto_attachment.resumable.upload import DONE
from kinto_attachment.retention import time_due
from kinto_attachment.storage.contract import StoredFile
from kinto_attachment.storage.names import PRIVATE_FOLDER


SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA cache_size = -32000;
CREATE TABLE files (key TEXT PRIMARY KEY, size INTEGER, modified REAL, is_dated INTEGER)
    WITHOUT ROWID;
CREATE TABLE others (key TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID;
CREATE TABLE links (
    key TEXT, record TEXT, attachment TEXT, hash TEXT, mimetype TEXT, modified REAL,
    PRIMARY KEY (key, record)
) WITHOUT ROWID;
CREATE TABLE records (
    key TEXT, record TEXT, attachment TEXT, hash TEXT, mimetype TEXT, size INTEGER, modified REAL,
    PRIMARY KEY (key, record)
) WITHOUT ROWID;
CREATE TABLE deletions (key TEXT PRIMARY KEY, due REAL) WITHOUT ROWID;
CREATE TABLE uploads (
    key TEXT, id TEXT PRIMARY KEY, record TEXT, is_done INTEGER, expires REAL
) WITHOUT ROWID;
"""

# The key that a record's location refers to, or ''. A key of its links comes first, and of these
# the shortest, as in possible_keys. The function would find it as well, but takes longer.
# Of a private location, only a link says the key; without one, it is that of the folder.
LOCATED_KEY = f"""
CASE
    WHEN is_private(unsorted.key, unsorted.record)
    THEN coalesce(
        (
            SELECT min(links.key) FROM links
            WHERE links.record = unsorted.record AND links.key GLOB '{PRIVATE_FOLDER}*'
                AND links.hash = unsorted.hash
        ),
        (
            SELECT min(links.key) FROM links
            WHERE links.record = unsorted.record AND links.key GLOB '{PRIVATE_FOLDER}*'
        ),
        '{PRIVATE_FOLDER}'
    )
    ELSE coalesce(
        (
            SELECT links.key FROM links
            WHERE links.record = unsorted.record
                AND substr('/' || unsorted.key, -length(links.key) - 1) = '/' || links.key
            ORDER BY length(links.key)
            LIMIT 1
        ),
        locate(unsorted.key, unsorted.record),
        ''
    )
END
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
        self._database.create_function("locate", 2, self._locate)
        self._database.create_function("is_private", 2, _is_private)
        files = self._console.track("files", self._server.files.files())
        listed = ((file.key, file.size, file.modified, file.is_dated) for file in files)
        self._insert("files", listed)
        self.listed = time.monotonic()
        # Before the links: a file has a link from the moment on that it is no upload's any more.
        self._insert("uploads", self._uploads())
        self._database.execute("CREATE INDEX uploads_key ON uploads (key)")
        self._insert("links", self._console.track("links", rows.links(self._server)))
        self._database.execute("CREATE INDEX links_record ON links (record)")
        found = self._console.track("records", rows.records(self._server))
        self._insert("records", found, key=LOCATED_KEY)
        self._remove_unlocated()
        self._database.execute("CREATE INDEX records_record ON records (record)")
        self._insert("deletions", self._deletions())

    def _insert(self, table: str, rows: Iterable[tuple[Any, ...]], key: str = "key") -> None:
        """Insert rows, of which the last one with a primary key is kept.

        They are sorted first: in any other order, each row touches another page of the disk.

        :param key: gives the key of an unsorted row.
        """
        columns = [name for _, name, *_ in self.rows(f"PRAGMA table_info({table})")]
        execute = self._database.execute
        execute(f"CREATE TABLE unsorted AS SELECT * FROM {table}")
        execute("BEGIN")
        marks = ", ".join("?" * len(columns))
        self._database.executemany(f"INSERT INTO unsorted VALUES ({marks})", rows)
        execute("COMMIT")
        execute(
            f"INSERT OR REPLACE INTO {table} SELECT {', '.join([key, *columns[1:]])} "
            "FROM unsorted ORDER BY 1, 2, rowid"
        )
        execute("DROP TABLE unsorted")

    def _uploads(self) -> Iterator[tuple[Any, ...]]:
        for upload in scan.all_uploads(self._server):
            is_done = upload.phase == DONE
            yield upload.key, upload.id, upload.record_uri, is_done, upload.expires / 1000

    def _deletions(self) -> Iterator[tuple[Any, ...]]:
        for deletion in scan.all_deletions(self._server):
            for key in deletion["locations"]:
                yield key, time_due(deletion) / 1000

    def _remove_unlocated(self) -> None:
        # A younger record may have been written after links and files were read.
        older = "SELECT count(*) FROM records WHERE key = '' AND modified < :began"
        self.unlocated = next(self.rows(older, began=self.began))[0]
        self._database.execute("DELETE FROM records WHERE key = ''")

    def _locate(self, location: str | None, record_uri: str) -> str | None:
        """Return the key in this storage that a location refers to, or ``None``.

        A key of the record's links comes first, then one of a file, then the one of its URL.
        """
        possible = metadata.possible_keys({"location": location})
        for query in (
            "SELECT 1 FROM links WHERE key = :key AND record = :record",
            "SELECT 1 FROM files WHERE key = :key",
        ):
            for key in possible:
                if self.has(query, key=key, record=record_uri):
                    return key
        if not self._server.files.base_url:
            return None
        return next((key for key in possible if self._server.files.url(key) == location), None)


def _is_private(location: str | None, record_uri: str) -> bool:
    return metadata.is_private_location({"location": location}, record_uri)
