"""Releases: stored files that records let go, written down until they are deleted.

What a transaction releases is written down with it, in Kinto's storage. What becomes of it is
decided after the commit, by one rule: *a written-down location without links goes*. So nobody has
to know who else lets go of the same file at the same moment, and what a crash or a storage that is
down leaves undone is found again without listing the storage.
"""

import logging
import threading
import time

import transaction

from kinto_attachment import records
from kinto_attachment.storage import StorageError, in_background, log_undeleted


logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 60
"""How often a process looks for the releases of others, and how old these are at least."""
MAX_TRIED_AT_ONCE = 100


class Releases:
    """The releases of a server, as one of its processes handles them.

    :param storage: Kinto's.
    :param files: the storage of the attachments.
    :ivar trying: the future of the last try to settle what was left, or ``None``.
    """

    def __init__(self, storage, files):
        self._storage = storage
        self._files = files
        self._lock = threading.Lock()
        self._tried_at = None
        self._doubtful = []
        self.trying = None

    def write_down(self, locations):
        """Have stored files deleted after the commit, those that no record holds then."""
        if not locations:
            return
        written = self._written()
        for start in range(0, len(locations), records.LINKS_PAGE_SIZE):
            page = locations[start : start + records.LINKS_PAGE_SIZE]
            written.append(records.add_release(self._storage, page))

    def take_name(self, location):
        """Take a new file out of the releases of an earlier one that had the same name.

        (A worker that was killed may have deleted that one and not yet struck it out.)

        :raises StorageError: the new file was deleted in place of the earlier one.
        """
        while ids := records.releases_of(self._storage, location):
            for id_ in ids:
                locations = records.take_release(self._storage, id_) or []
                self.write_down([other for other in locations if other != location])
        if not self._files.exists(location):
            raise StorageError(f"{location} was deleted with an earlier file of that name")

    def doubt(self, locations):
        """Remember new files of a transaction of which nobody knows whether it was committed.

        They are written down with the next try, since a server that has lost its client may still
        be committing.
        """
        logger.warning("Committed or not, with the attachment files %s?", ", ".join(locations))
        with self._lock:
            self._doubtful += locations

    def try_again(self):
        """Settle in the background what earlier transactions could not, once a minute."""
        with self._lock:
            now = time.monotonic()
            if self._tried_at is not None and now - self._tried_at < SECONDS_BETWEEN_TRIES:
                return
            self._tried_at = now
        self.trying = in_background(self._settle_earlier)

    def _written(self):
        """Return the ids of the releases that the running transaction has written down."""
        running = transaction.get()
        try:
            return running.data(self)
        except KeyError:
            ids = []
            running.set_data(self, ids)
            running.addAfterCommitHook(self._after_commit, args=(ids,))
            return ids

    def _after_commit(self, success, ids):
        if success and ids:
            # What a hook writes is undone (``Transaction._call_hooks``), and this thread's session
            # is the one of the transaction that ends.
            in_background(lambda: self._settle_all(ids)).result()

    def _settle_earlier(self):
        before = int((time.time() - SECONDS_BETWEEN_TRIES) * 1000)
        try:
            self._write_down_doubtful()
            with transaction.manager:
                ids = records.releases_before(self._storage, before, MAX_TRIED_AT_ONCE)
        except Exception:
            logger.exception("The attachment files to be deleted cannot be looked for")
        else:
            self._settle_all(ids)

    def _write_down_doubtful(self):
        with self._lock:
            doubtful, self._doubtful = self._doubtful, []
        if not doubtful:
            return
        try:
            with transaction.manager:
                records.add_release(self._storage, doubtful)
        except BaseException:
            with self._lock:
                self._doubtful += doubtful
            raise

    def _settle_all(self, ids):
        for id_ in ids:
            # The client has its success, and the release is tried again.
            try:
                self._settle(id_)
            except Exception:
                logger.exception("The attachment files of the release %s could not be deleted", id_)

    def _settle(self, id_):
        """Delete the files of a release that nobody holds, and strike it out."""
        with transaction.manager:
            locations = records.take_release(self._storage, id_)
            if locations is None:
                return
            left = records.without_links(self._storage, locations)
            failed = self._files.delete_many(left) if left else {}
            log_undeleted(self._files, failed)
            if failed:
                records.add_release(self._storage, sorted(failed))
