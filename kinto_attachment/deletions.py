"""The deletion queue: stored files to be deleted as soon as no link refers to them.

A transaction that removes a link enqueues the file, in Kinto's storage, within that transaction.
After the commit one rule decides: *a queued file that no link refers to is deleted*. So it does not
matter what other transactions do to the same file at the same moment, and what a crash or a failing
storage leaves is found again without listing the storage.

One thread of each worker deletes after the commit, and no request waits for it. A storage may hang:
no transaction is open while it is asked, and the thread stops at the first failure.
"""

import logging
import math
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import transaction
from kinto.core.storage import Filter, Sort
from kinto.core.storage.exceptions import IntegrityError, ObjectNotFoundError
from kinto.core.utils import COMPARISON

from kinto_attachment import locks, paging, unit_of_work
from kinto_attachment.background import Task
from kinto_attachment.kinto_internals import parents_beginning_with
from kinto_attachment.legacy_links import LINKS_PARENT
from kinto_attachment.links import Links
from kinto_attachment.storage.contract import Storage, StorageError


logger = logging.getLogger(__name__)

QUEUE = "attachment-releases"
QUEUE_PARENT = f"{LINKS_PARENT}/releases/"
"""Before the id of an entry: each has a parent of its own, as links have."""
ALL_PARENTS = parents_beginning_with(QUEUE_PARENT)

SECONDS_BETWEEN_RETRIES = 60
"""How often a process looks for the entries of others, and how old these are at least."""
MAX_RETRIED_AT_ONCE = 100
RETRIES_OF_A_CLAIM = 60
"""After so many times that long, a worker that claimed an entry is taken to have been killed.

Far longer than a storage may hang: a late deletion would delete a new file of the same name.
"""

Entry = dict[str, Any]


class Deletions:
    """The deletion queue of a server, as one of its processes handles it.

    An entry is ``{"id", "locations", "claimed", "last_modified"}``: keys, and whether a worker is
    deleting them. A claim is written, and not held as a lock: no transaction stays open while a
    storage is asked.

    :param storage: Kinto's.
    :param files: the storage of the attachments.
    """

    def __init__(self, storage: Any, files: Storage, links: Links):
        self._storage = storage
        self._files = files
        self._links = links
        self._lock = threading.Lock()
        self._task = Task(self._process_all)
        self._committed: list[Entry] = []
        self._retried_at = -math.inf
        self._is_retry_due = False
        self._in_doubt: list[str] = []

    def enqueue(self, keys: list[str]) -> None:
        """Delete stored files after the commit, those that no link refers to then."""
        if not keys:
            return
        # A flush deletes what is queued while it looks at what there is.
        locks.block_flush(self._storage)
        work = unit_of_work.current()
        enqueued = work.enqueued[self]
        if not enqueued:
            work.after_commit(self._process_later, enqueued)
        # As many as take a storage one request, since a claim lasts for so long only.
        enqueued += [self.add(page) for page in paging.split(keys)]

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
                self.enqueue([other for other in self.take(entry) if other != key])
        if not self._files.exists(key):
            raise StorageError(f"{key} was deleted with an earlier file of that name")

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

    def process(self, entries: Iterable[Entry]) -> Mapping[str, Any]:
        """Delete the files of entries, up to the first that cannot be deleted.

        :returns: those that could not be deleted, as ``{key: error}``.
        """
        for batch in _batches(entries):
            if self._task.is_ending:
                break
            try:
                if failed := self._process_batch(batch):
                    return failed
            except Exception:
                logger.exception("The attachment files of %s could not be deleted", batch)
        return {}

    def queued(self) -> list[str]:
        """Return the keys of all files in the queue."""
        pages = paging.pages(self._storage, QUEUE, ALL_PARENTS)
        return [key for page in pages for entry in page for key in entry["locations"]]

    def entries_of(self, key: str) -> list[Entry]:
        """Return the entries that a stored file is in."""
        filters = [Filter("locations", [key], COMPARISON.CONTAINS)]
        return paging.list_all(self._storage, QUEUE, ALL_PARENTS, filters)

    def take(self, entry: Entry) -> list[str]:
        """Remove an entry, and return its keys: none if another worker was first."""
        return entry["locations"] if self._remove(entry) else []

    def claim(self, entries: list[Entry]) -> Entry | None:
        """Return one entry in place of several, so that this worker alone deletes their files.

        ``None`` if they are gone, since other workers have claimed them.
        """
        # In one order, so that workers that claim the same ones do not wait for one another.
        entries = sorted(entries, key=lambda entry: entry["id"])
        keys = {key for entry in entries for key in self.take(entry)}
        return self.add(sorted(keys), claimed=True) if keys else None

    def add(self, keys: list[str], **fields: Any) -> Entry:
        """Write an entry, and return it."""
        id_ = str(uuid.uuid4())
        entry = {"locations": keys, **fields}
        return self._storage.update(QUEUE, QUEUE_PARENT + id_, id_, entry)

    def _remove(self, entry: Entry) -> bool:
        try:
            parent = QUEUE_PARENT + entry["id"]
            self._storage.delete(QUEUE, parent, entry["id"], with_deleted=False)
        except ObjectNotFoundError:
            return False
        return True

    def _process_later(self, entries: list[Entry]) -> None:
        with self._lock:
            self._committed += entries
        self._task.wake()

    def _process_all(self) -> None:
        """Process what was committed in the meantime, in as few batches as possible."""
        with self._lock:
            entries, self._committed = self._committed, []
            is_retry_due, self._is_retry_due = self._is_retry_due, False
        if not self.process(entries) and is_retry_due:
            self._process_earlier()

    def _process_earlier(self) -> None:
        before = int((time.time() - SECONDS_BETWEEN_RETRIES) * 1000)
        try:
            self._enqueue_in_doubt()
            with transaction.manager:
                found = self._entries_before(before)
        except Exception:
            logger.exception("The queue of attachment files to be deleted cannot be read")
        else:
            expired_before = _claims_expired_before()
            self.process(entry for entry in found if not is_claimed(entry, expired_before))

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
        failed: Mapping[str, Any] = dict.fromkeys(unreferenced)
        try:
            failed = self.discard(unreferenced) if unreferenced else {}
        finally:
            with transaction.manager:
                left = [key for key in claimed["locations"] if key in failed]
                if self._remove(claimed) and left:
                    self.add(left)
        return failed

    def _delete(self, keys: list[str]) -> dict[str, Exception]:
        try:
            return dict(self._files.delete_many(keys))
        except Exception as error:
            # A file with which a backend cannot cope must not keep the others of its batch.
            if len(keys) == 1:
                return {keys[0]: error}
            return {key: one for page in keys for key, one in self._delete([page]).items()}


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield entries together whose files take a storage one request: a claim lasts for so long."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        size += len(entry["locations"])
        if batch and size > paging.PAGE_SIZE:
            yield batch
            batch, size = [], len(entry["locations"])
        batch.append(entry)
    if batch:
        yield batch


def is_claimed(entry: Entry, expired_before: int) -> bool:
    """Return whether a worker is deleting the files of an entry.

    :param expired_before: in milliseconds since 1970. Who claimed it before that was killed.
    """
    return entry.get("claimed", False) and entry["last_modified"] > expired_before


def _claims_expired_before() -> int:
    return int((time.time() - RETRIES_OF_A_CLAIM * SECONDS_BETWEEN_RETRIES) * 1000)
