"""The downloader, which makes a folder match the attachments of a collection."""

import contextlib
from collections.abc import Iterator
from typing import Any

from kinto_attachment.scripts.collection import Collection
from kinto_attachment.scripts.content import DESCRIPTION_FIELDS, content_of
from kinto_attachment.scripts.downloads import Download, Planner
from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.folder import STATE, Folder, Obstructed
from kinto_attachment.scripts.report import Report
from kinto_attachment.scripts.state import State
from kinto_attachment.scripts.transfer import Transfer


HAS_ATTACHMENT = {"has_attachment.hash": "true"}
"""Kinto's filter for records with a file."""

Record = dict[str, Any]


class Downloader:
    """Downloads the files of a collection, and deletes obsolete ones.

    :param deletes: whether obsolete files may be deleted.
    :raises Failure: the server does not respond.
    """

    def __init__(
        self, folder: Folder, state: State, collection: Collection, report: Report, deletes: bool
    ):
        self._folder = folder
        self._state = state
        self._collection = collection
        self._report = report
        self._deletes = deletes
        self._planner = Planner(state, report, collection.server, collection.base_url())
        self._transfer = Transfer(collection, folder, report)
        self._timestamp: str | None = None
        self._failed: dict[str, int] = {}
        self._obstructed: dict[str, Record] = {}

    def download(self) -> bool:
        """Return whether the files of all changed records are in the folder.

        :raises Failure: the records cannot be listed.
        """
        since = self._state.timestamp
        self._download_changed(since)
        reason = since and self._reason_to_list_all(since)
        if reason:
            self._report.warn(STATE, f"{reason}: all records are listed")
            # Also by the next run, if this one does not finish.
            self._state.timestamp = None
            self._failed.clear()
            self._download_changed(None)
        self._download_obstructed()
        return not self._failed

    def delete_obsolete(self) -> bool:
        """Delete the files that no record refers to any more, and return whether none is left.

        The previous file of a record is kept if the new one has failed.
        """
        for name, obsolete in sorted(self._state.obsolete.items()):
            if obsolete.record_id not in self._failed:
                self._delete(name)
        return not self._state.obsolete

    def next_timestamp(self) -> str | None:
        """Return since when the next run lists records, so that it retries the failed ones."""
        if not self._failed:
            return self._timestamp or self._state.timestamp
        before = min(self._failed.values()) - 1
        return str(max(before, int(self._state.timestamp or 0)))

    def _reason_to_list_all(self, since: str) -> str | None:
        """Return why the changed records do not show all deletions, or ``None`` if they do.

        Kinto forgets deletions with ``kinto purge-deleted``, and when a collection is deleted.
        """
        if int(self._timestamp or 0) < int(since):
            return "the collection is older than it was at the last run"
        if not self._deletes:
            return None
        count = self._collection.count(HAS_ATTACHMENT)
        known = self._state.names.keys() | self._failed.keys() | self._obstructed.keys()
        if count is None or count == len(known):
            return None
        return "the server did not report all deletions"

    # Downloads

    def _download_changed(self, since: str | None) -> None:
        in_parallel = self._collection.http.in_parallel
        for download, done in in_parallel(self._transfer.transfer, self._changed(since)):
            try:
                self._succeed(download, done.result())
            except (Failure, OSError) as error:
                self._fail(download.record_id, download.name, download.last_modified, error)

    def _download_obstructed(self) -> None:
        """Download the files that obsolete ones are in the way of.

        These are deleted only now that all records are known, once the new file is complete.
        """
        in_parallel = self._collection.http.in_parallel
        for download, done in in_parallel(self._transfer.fetch, self._obstructed_downloads()):
            try:
                complete = done.result()
                self._clear_the_way(download.name)
                self._transfer.place(complete, download)
                self._succeed(download, "downloaded")
            except (Failure, OSError) as error:
                self._fail(download.record_id, download.name, download.last_modified, error)

    def _changed(self, since: str | None) -> Iterator[Download]:
        """Return what to download, and release the files that records do not refer to any more."""
        self._timestamp = None
        listed: set[str] = set()
        query = {"_since": since} if since else {}
        for timestamp, records in self._collection.pages(DESCRIPTION_FIELDS, **query):
            self._timestamp = self._timestamp or timestamp
            downloads = [found for record in records if (found := self._plan(record))]
            listed.update(record["id"] for record in records)
            self._report.expect(sum(found.stored.size for found in downloads))
            yield from downloads
        if not since:
            for record_id in self._state.names.keys() - listed:
                self._state.release(record_id)

    def _plan(self, record: Record) -> Download | None:
        """Return the download of a record, or ``None`` if there is none (yet)."""
        self._obstructed.pop(record["id"], None)
        if record.get("deleted") or not record.get("attachment"):
            self._state.release(record["id"])
            return None
        try:
            return self._planner.plan(record, self._folder.target)
        except (Failure, OSError) as error:
            if isinstance(error, Obstructed) and self._deletes:
                self._obstructed[record["id"]] = record
            else:
                self._fail_record(record, error)
        return None

    def _obstructed_downloads(self) -> Iterator[Download]:
        for record in self._obstructed.values():
            try:
                yield self._planner.plan(record, self._folder.check)
            except (Failure, OSError) as error:
                self._fail_record(record, error)

    # Outcomes

    def _succeed(self, download: Download, action: str) -> None:
        if action == "downloaded" or download.record_id in self._state.hashes:
            self._state.downloaded(download.record_id, download.name, download.content.hash)
        content = download.content
        details = {"record": download.record_id, "size": content.size, "hash": content.hash}
        self._report.done(action, download.name, **details)

    def _fail_record(self, record: Record, error: Failure | OSError) -> None:
        name = record["id"]
        with contextlib.suppress(Failure):
            name = content_of(record).filename or name
        self._fail(record["id"], name, record.get("last_modified"), error)

    def _fail(
        self, record_id: str, name: str, last_modified: Any, error: Failure | OSError
    ) -> None:
        since = last_modified if isinstance(last_modified, int) else 0
        self._failed[record_id] = min(since, self._failed.get(record_id, since))
        self._report.failed(name, error)

    # Deletions

    def _clear_the_way(self, name: str) -> None:
        """Delete the obsolete files above or below a name."""
        key = self._folder.key(name)
        for found, obsolete in sorted(self._state.obsolete.items()):
            other = self._folder.key(found)
            is_in_the_way = key.startswith(f"{other}/") or other.startswith(f"{key}/")
            if is_in_the_way and obsolete.record_id not in self._failed:
                self._delete(found)

    def _delete(self, name: str) -> None:
        try:
            if self._folder.remove(name, self._state.obsolete[name].hash):
                self._report.done("deleted", name)
        except OSError as error:
            self._report.failed(name, error)
            return
        except Failure as error:
            self._report.warn(name, f"{error}, and is kept")
        del self._state.obsolete[name]
