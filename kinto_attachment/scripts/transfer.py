"""The transfer of one file, from the server to its name in the folder."""

import threading
from functools import partial
from pathlib import Path

from kinto_attachment.scripts.collection import Collection
from kinto_attachment.scripts.compression import decompress
from kinto_attachment.scripts.content import has_content
from kinto_attachment.scripts.downloads import Download
from kinto_attachment.scripts.fetch import fetch
from kinto_attachment.scripts.folder import Folder
from kinto_attachment.scripts.journal import Entry
from kinto_attachment.scripts.report import Report


LOCKS = 64


class Transfer:
    """Transfers files. Any thread may use it.

    :raises Failure: (each method) the file is as it was before.
    :raises OSError: (each method) likewise.
    """

    def __init__(self, collection: Collection, folder: Folder, report: Report):
        self._collection = collection
        self._http = collection.http
        self._folder = folder
        self._report = report
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def transfer(self, download: Download) -> str:
        """Return ``downloaded``, or ``unchanged`` if the file is in the folder already."""
        # Two pages may list the same record, changed in between.
        with self._locks[hash(download.record_id) % LOCKS]:
            target = self._folder.target(download.name)
            if target.exists() and has_content(target, download.content):
                self._report.expect(-download.stored.size)
                return "unchanged"
            self.place(self.fetch(download), download)
        return "downloaded"

    def fetch(self, download: Download) -> Path:
        """Return the path of the complete file, which does not have its name yet."""
        path = self._folder.partial(*download.key)
        get = partial(self._collection.file, download.url, download.is_private)
        fetch(self._http, get, download.stored, path, self._report.advance)
        if download.original is None:
            return path
        decompressed = self._folder.partial(*download.key, "decompressed")
        try:
            decompress(path, decompressed, download.original, self._http.check)
        except BaseException:
            decompressed.unlink(missing_ok=True)
            raise
        return decompressed

    def place(self, complete: Path, download: Download) -> None:
        """Give a complete file its name."""
        try:
            # First, since only the journal knows the record if this run is killed.
            entry = Entry(download.record_id, download.name, download.content.hash)
            self._folder.journal.append(entry)
            self._folder.move(complete, download.name)
        finally:
            if download.original is not None:
                complete.unlink(missing_ok=True)
        self._folder.partial(*download.key).unlink(missing_ok=True)
