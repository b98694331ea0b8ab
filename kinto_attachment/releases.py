"""Releases: stored files that records let go, written down until they are deleted.

What a transaction releases is written down with it, in Kinto's storage. What becomes of it is
decided after the commit, by one rule: *a written-down location without links goes*. So nobody has
to know who else lets go of the same file at the same moment, and what a crash or a storage that is
down leaves undone is found again without listing the storage.

A storage may hang: no transaction is open while it is asked, a process looks for the releases of
others once at a time, and stops at the first file that cannot be deleted.
"""

import logging
import threading
import time

import transaction
from kinto.core.storage.exceptions import IntegrityError

from kinto_attachment import locks, records
from kinto_attachment.background import in_background
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.unit_of_work import log_undeleted


logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 60
"""How often a process looks for the releases of others, and how old these are at least."""
MAX_TRIED_AT_ONCE = 100
TRIES_OF_A_CLAIM = 60
"""After so many times that long, a worker that claimed a release is taken to have been killed.

Far longer than a storage may hang: a late deletion would delete a new file of the same name.
"""


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
        # A flush deletes what is written down while it looks at what there is.
        locks.keep_flush_waiting(self._storage)
        written = self._written()
        # As many as take a storage one request, since a claim lasts for so long only.
        for start in range(0, len(locations), records.PAGE_SIZE):
            page = locations[start : start + records.PAGE_SIZE]
            written.append(records.add_release(self._storage, page))

    def take_name(self, location):
        """Take a new file out of the releases of an earlier one that had the same name.

        (A worker that was killed may have deleted that one and not yet struck it out.)

        :raises IntegrityError: a worker is deleting the earlier one.
        :raises StorageError: the new file was deleted in place of the earlier one.
        """
        while releases := records.releases_of(self._storage, location):
            for release in releases:
                if records.is_claimed(release, _claims_expired_before()):
                    raise IntegrityError(message=f"{location} is being deleted")
                locations = records.take_release(self._storage, release)
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
            if self.trying is not None and not self.trying.done():
                return
            self._tried_at = now
            self.trying = in_background(self._settle_earlier)

    def _written(self):
        """Return the releases that the running transaction has written down."""
        running = transaction.get()
        try:
            return running.data(self)
        except KeyError:
            releases = []
            running.set_data(self, releases)
            running.addAfterCommitHook(self._after_commit, args=(releases,))
            return releases

    def _after_commit(self, success, releases):
        if success and releases:
            # What a hook writes is undone (``Transaction._call_hooks``), and this thread's session
            # is the one of the transaction that ends.
            in_background(lambda: self._settle_all(releases)).result()

    def _settle_earlier(self):
        before = int((time.time() - SECONDS_BETWEEN_TRIES) * 1000)
        try:
            self._write_down_doubtful()
            with transaction.manager:
                found = records.releases_before(self._storage, before, MAX_TRIED_AT_ONCE)
        except Exception:
            logger.exception("The attachment files to be deleted cannot be looked for")
        else:
            expired_before = _claims_expired_before()
            self._settle_all([one for one in found if not records.is_claimed(one, expired_before)])

    def _write_down_doubtful(self):
        with self._lock:
            doubtful, self._doubtful = self._doubtful, []
        if not doubtful:
            return
        try:
            with transaction.manager:
                locks.keep_flush_waiting(self._storage)
                records.add_release(self._storage, doubtful)
        except BaseException:
            with self._lock:
                self._doubtful += doubtful
            raise

    def _settle_all(self, releases):
        for release in releases:
            # The client has its success, and the release is tried again.
            try:
                if self._settle(release):
                    return
            except Exception:
                logger.exception("The attachment files of %s could not be deleted", release)

    def _settle(self, release):
        """Delete the files of a release that nobody holds, and strike it out.

        :returns: those that could not be deleted, ``{location: StorageError}``.
        """
        with transaction.manager:
            claimed = records.claim_release(self._storage, release)
            if claimed is None:
                return {}
            left = records.without_links(self._storage, claimed["locations"])
        failed = dict.fromkeys(left)
        try:
            if left:
                failed = self._files.delete_many(left)
            log_undeleted(self._files, failed)
        finally:
            with transaction.manager:
                records.end_release(self._storage, claimed, failed)
        return failed


def _claims_expired_before():
    return int((time.time() - TRIES_OF_A_CLAIM * SECONDS_BETWEEN_TRIES) * 1000)
