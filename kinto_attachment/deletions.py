"""The deletion queue: stored files to be deleted as soon as no link refers to them.

A transaction that removes a link enqueues the file, in Kinto's storage, within that transaction.
After the commit one rule decides: *a queued file that no link refers to is deleted*. So it does not
matter what other transactions do to the same file at the same moment, and what a crash or a failing
storage leaves is found again without listing the storage. With ``delete_after``, the rule decides
when an entry is due, and an entry of the same file that is due later wins.

One thread of each worker deletes after the commit, and no request waits for it. A storage may hang:
no transaction is open while it is asked, and the thread stops at the first failure.
"""

import logging
import math
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import transaction
from kinto.core.storage import Filter, Sort
from kinto.core.storage.exceptions import IntegrityError
from kinto.core.utils import COMPARISON

from kinto_attachment import locks, paging, retention, unit_of_work
from kinto_attachment.background import Task
from kinto_attachment.kinto_internals import parents_beginning_with
from kinto_attachment.legacy_links import LINKS_PARENT
from kinto_attachment.links import Links
from kinto_attachment.retention import time_due
from kinto_attachment.storage.contract import Storage, StorageError
from kinto_attachment.storage.names import is_private
from kinto_attachment.unit_of_work import Link
from kinto_attachment.writes import Row, write


logger = logging.getLogger(__name__)

QUEUE = "attachment-releases"
QUEUE_PARENT = f"{LINKS_PARENT}/releases/"
"""Before the id of an entry: each has a parent of its own, as links have."""
ALL_PARENTS = parents_beginning_with(QUEUE_PARENT)

SECONDS_BETWEEN_BATCHES = 0.1
"""What is deleted in quick succession is deleted together: a batch takes two transactions."""

SECONDS_BETWEEN_RETRIES = 60
"""How often a process looks for the entries of others, and how old these are at least."""
MAX_RETRIED_AT_ONCE = 100
RETRIES_OF_A_CLAIM = 60
"""After so many times that long, a worker that claimed an entry is taken to have been killed.

Far longer than a storage may hang: a late deletion would delete a new file of the same name.
"""

Entry = dict[str, Any]
FIELD_OF_ENTRY = {"location": "locations", "record_uri": "records"}
"""Where an entry has the values that links have in a field."""

KeysByDue = dict[int | None, set[str]]
"""Keys by when they are to be deleted, in milliseconds since 1970, or ``None`` for at once."""


class Deletions:
    """The deletion queue of a server, as one of its processes handles it.

    An entry is ``{"id", "locations", "due", "links", "records", "shared", "claimed",
    "last_modified"}``: keys, when they are to be deleted (in milliseconds since 1970, or missing:
    at once), the links that were removed, the records of those to private files, whether there were
    others (if that is later), and whether a worker is deleting the files. Its timestamp is not
    before that time, so that only entries that are due are read. A claim is written, and not held
    as a lock: no transaction stays open while a storage is asked.

    :param storage: Kinto's.
    :param files: the storage of the attachments.
    """

    def __init__(self, storage: Any, files: Storage, links: Links):
        self._storage = storage
        self._files = files
        self._links = links
        self._lock = threading.Lock()
        self._task = Task(self._process_all, SECONDS_BETWEEN_BATCHES)
        self._committed: list[Entry] = []
        self._retried_at = -math.inf
        self._is_retry_due = False
        self._in_doubt: list[str] = []

    def enqueue(self, keys: list[str], due: int | None = None, links: Sequence[Link] = ()) -> None:
        """Delete stored files after the commit, those that no link refers to then.

        :param due: in milliseconds since 1970, to do that later.
        :param links: those to the files that were removed, for :meth:`removed_links`.
        """
        write(self._storage, self.prepared(keys, due, links))

    def prepared(
        self, keys: list[str], due: int | None = None, links: Sequence[Link] = ()
    ) -> list[Row]:
        """Return what is to be written now to enqueue stored files."""
        if not keys:
            return []
        # A flush deletes what is queued while it looks at what there is.
        locks.block_flush(self._storage)
        work = unit_of_work.current()
        enqueued = work.enqueued[self]
        if not enqueued:
            work.after_commit(self._process_later, enqueued)
        # As many as take a storage one request, since a claim lasts for so long only.
        unshared = keys if due is None else self._links.unreferenced(keys)
        if due and any("due" not in entry for entry in enqueued):
            # Their links are gone as well, and may have been to the same files.
            unshared = []
        shared = sorted(set(keys).difference(unshared))
        entries = []
        for some, is_shared in ((unshared, False), (shared, True)):
            for page in paging.split(some):
                own = [link for link in links if link["location"] in page]
                more = {"links": own, "shared": is_shared} if due else {}
                if records := {one["record_uri"] for one in own if is_private(one["location"])}:
                    more["records"] = sorted(records)
                entries.append(_new_entry(page, due, **more))
        enqueued += entries
        return [_row(entry) for entry in entries]

    def enqueue_files_of(self, links: list[Link], due: int | None) -> None:
        """Delete the files of links that were removed, as :meth:`enqueue` does."""
        for page in paging.split(links):
            keys = {link["location"] for link in page}
            self.enqueue(sorted(keys), due, () if due is None else page)

    def reclaim(self, key: str) -> None:
        """Take a new file out of the queue that holds an earlier one of the same name.

        (A worker that was killed may have deleted that one before it removed the entry.)

        :raises IntegrityError: a worker is deleting the earlier one.
        :raises StorageError: the new file was deleted in place of the earlier one.
        """
        while entries := self.entries_of(key):
            for entry in entries:
                if is_claimed(entry, _claims_expired_before()):
                    raise IntegrityError(message=f"{key} is being deleted")
                self._take_out(key, entry)
        if not self._files.exists(key):
            raise StorageError(f"{key} was deleted with an earlier file of that name")

    def withdraw(self, key: str) -> bool:
        """Take a file to which a record refers again out of the queue.

        :returns: whether it was there, and no worker was deleting it.
        """
        taken = [self._take_out(key, one) for one in self._unclaimed(self.entries_of(key))]
        return any(taken)

    def removed_links(self, values: list[str], field: str = "location") -> list[Link]:
        """Return the removed links with one of these values, to files that are to be deleted later.

        :param field: ``location``, or ``record_uri`` for links to private files.
        """
        # One by one: CONTAINS_ANY takes PostgreSQL several times as long.
        return [
            link
            for value in values
            for entry in self._unclaimed(self.entries_of(value, FIELD_OF_ENTRY[field]))
            for link in entry.get("links", ())
            if link[field] == value
        ]

    def are_delayed(self) -> bool:
        """Return whether there are files that are to be deleted later."""
        filters = [Filter("last_modified", retention.now(), COMPARISON.GT)]
        return bool(self._storage.list_all(QUEUE, ALL_PARENTS, filters=filters, limit=1))

    def keep_in_doubt(self, keys: list[str]) -> None:
        """Remember the new files of a transaction that is in doubt.

        They are enqueued with the next retry, since a server that has lost its client may still be
        committing.
        """
        logger.warning("Commit outcome unknown; keeping attachment files: %s", ", ".join(keys))
        with self._lock:
            self._in_doubt += keys

    def discard(self, keys: list[str]) -> dict[str, Exception]:
        """Delete stored files now, and return those that could not be deleted, which are logged."""
        failed = self._delete(keys)
        for key, error in failed.items():
            logger.error(
                "The attachment file %s could not be deleted", self._files.url(key), exc_info=error
            )
        return failed

    def retry_pending(self) -> None:
        """Process in the background what earlier transactions could not, once a minute."""
        with self._lock:
            now = time.monotonic()
            if now - self._retried_at < SECONDS_BETWEEN_RETRIES:
                return
            self._retried_at = now
            self._is_retry_due = True
        self._task.wake()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Return whether this process has deleted what it has committed, within so many seconds.

        (Or has tried to: the storage or the database may fail.)
        """
        return self._task.wait_until_idle(timeout)

    def process(self, entries: Iterable[Entry]) -> bool:
        """Delete the files of entries that no worker has claimed, up to the first failure.

        :returns: whether there was none. It is logged.
        """
        is_fine = True
        # Files that take a storage one request: a claim lasts for so long only.
        for batch in paging.batches(self._unclaimed(entries), lambda one: len(one["locations"])):
            if self._task.is_ending:
                return False
            try:
                if self._process_batch(batch):
                    return False
            except Exception:
                logger.exception("The attachment files of %s could not be deleted", batch)
                is_fine = False
        return is_fine

    def queued(self) -> KeysByDue:
        """Return all files in the queue."""
        found: KeysByDue = {}
        for page in paging.pages(self._storage, QUEUE, ALL_PARENTS):
            for entry in page:
                found.setdefault(entry.get("due"), set()).update(entry["locations"])
        return found

    def entries_of(self, value: str, field: str = "locations") -> list[Entry]:
        """Return the entries that a stored file is in, or a record in ``records``."""
        filters = [Filter(field, [value], COMPARISON.CONTAINS)]
        return paging.list_all(self._storage, QUEUE, ALL_PARENTS, filters)

    def due_entries_of(self, key: str) -> list[Entry]:
        """Return the entries that a stored file is in, and that are due."""
        return [entry for entry in self.entries_of(key) if time_due(entry) <= retention.now()]

    def take(self, entry: Entry) -> list[str]:
        """Remove an entry, and return its keys: none if another worker was first."""
        return entry["locations"] if self._remove(entry) else []

    def claim(self, entries: list[Entry]) -> Entry | None:
        """Return one entry in place of several, so that this worker alone deletes their files.

        ``None`` if they are gone, since other workers have claimed them.
        """
        # In one order, so that workers that claim the same ones do not wait for one another.
        rows = [_row(entry) for entry in sorted(entries, key=lambda entry: entry["id"])]
        taken = write(self._storage, [], rows)
        keys = {key for entry in entries if entry["id"] in taken for key in entry["locations"]}
        due = min(retention.now(), *(time_due(entry) for entry in entries))
        shared = any(entry.get("shared") for entry in entries)
        return self.add(sorted(keys), due, claimed=True, shared=shared) if keys else None

    def add(self, keys: list[str], due: int | None = None, **fields: Any) -> Entry:
        """Write an entry, and return it."""
        entry = _new_entry(keys, due, **fields)
        write(self._storage, [_row(entry)])
        return entry

    def _take_out(self, key: str, entry: Entry) -> bool:
        """Take a file out of an entry, and return whether this transaction did."""
        taken = self.take(entry)
        others = [other for other in taken if other != key]
        self.enqueue(others, entry.get("due"), entry.get("links", ()))
        return key in taken

    def _unclaimed(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        expired_before = _claims_expired_before()
        return (entry for entry in entries if not is_claimed(entry, expired_before))

    def _remove(self, entry: Entry) -> bool:
        return bool(write(self._storage, [], [_row(entry)]))

    def _process_later(self, entries: list[Entry]) -> None:
        if due := [entry for entry in entries if time_due(entry) <= retention.now()]:
            with self._lock:
                self._committed += due
            self._task.wake()

    def _process_all(self) -> None:
        """Process what was committed in the meantime, in as few batches as possible."""
        with self._lock:
            entries, self._committed = self._committed, []
            is_retry_due, self._is_retry_due = self._is_retry_due, False
        if self.process(entries) and is_retry_due:
            try:
                self._process_earlier()
            except Exception:
                logger.exception("The queue of attachment files to be deleted cannot be read")

    def _process_earlier(self) -> None:
        before = retention.now() - int(SECONDS_BETWEEN_RETRIES * 1000)
        self._enqueue_in_doubt()
        is_fine = True
        while is_fine:
            with transaction.manager:
                found = self._entries_before(before)
            is_fine = self.process(found) and len(found) == MAX_RETRIED_AT_ONCE

    def _entries_before(self, timestamp: int) -> list[Entry]:
        """Return entries written at a time (in milliseconds since 1970) or before, oldest first."""
        return self._storage.list_all(
            QUEUE,
            ALL_PARENTS,
            filters=[Filter("last_modified", timestamp, COMPARISON.MAX)],
            sorting=[Sort("last_modified", 1)],
            limit=MAX_RETRIED_AT_ONCE,
        )

    def _enqueue_in_doubt(self) -> None:
        with self._lock:
            keys, self._in_doubt = self._in_doubt, []
        if not keys:
            return
        try:
            with transaction.manager:
                locks.block_flush(self._storage)
                self.add(keys)
        except BaseException:
            with self._lock:
                self._in_doubt += keys
            raise

    def _process_batch(self, entries: list[Entry]) -> Mapping[str, Any]:
        """Delete the files of entries that no link refers to, and remove the entries.

        :returns: those that could not be deleted, as keys.
        """
        with transaction.manager:
            claimed = self.claim(entries)
            if claimed is None:
                return {}
            unreferenced = self._links.unreferenced(claimed["locations"])
            # Since the settings have changed, or by links of earlier plugins, which have no origin.
            later = self._due_later(unreferenced, Filter("shared", True, COMPARISON.EQ))
            for entry in entries:
                if entry.get("shared"):
                    later |= self._due_later(entry["locations"])
            unreferenced = [key for key in unreferenced if key not in later]
        failed: Mapping[str, Any] = dict.fromkeys(unreferenced)
        try:
            failed = self.discard(unreferenced) if unreferenced else {}
        finally:
            with transaction.manager:
                left = [key for key in claimed["locations"] if key in failed]
                if self._remove(claimed) and left:
                    self.add(left, claimed["due"])
        return failed

    def _due_later(self, keys: list[str], *conditions: Filter) -> set[str]:
        """Return the files of which an entry is due later: that of the last record decides."""
        filters = [
            Filter("last_modified", retention.now(), COMPARISON.GT),
            Filter("locations", keys, COMPARISON.CONTAINS_ANY),
            *conditions,
        ]
        later = paging.list_all(self._storage, QUEUE, ALL_PARENTS, filters)
        return {key for entry in later for key in entry["locations"]}

    def _delete(self, keys: list[str]) -> dict[str, Exception]:
        try:
            return dict(self._files.delete_many(keys))
        except Exception as error:
            # A file with which a backend cannot cope must not keep the others of its batch.
            if len(keys) == 1:
                return {keys[0]: error}
            return {key: one for page in keys for key, one in self._delete([page]).items()}


def _new_entry(keys: list[str], due: int | None, **fields: Any) -> Entry:
    entry = {"id": str(uuid.uuid4()), "locations": keys, "last_modified": retention.now(), **fields}
    if due is not None:
        entry |= {"due": due, "last_modified": max(due, retention.now())}
    return entry


def _row(entry: Entry) -> Row:
    return QUEUE, QUEUE_PARENT + entry["id"], entry


def is_claimed(entry: Entry, expired_before: int) -> bool:
    """Return whether a worker is deleting the files of an entry.

    :param expired_before: in milliseconds since 1970. Who claimed it before that was killed.
    """
    return entry.get("claimed", False) and entry["last_modified"] > expired_before


def _claims_expired_before() -> int:
    return retention.now() - int(RETRIES_OF_A_CLAIM * SECONDS_BETWEEN_RETRIES * 1000)
