"""The resumable uploads of a server, in Kinto's storage."""

import dataclasses
import logging
import threading
import time
from collections.abc import Iterable
from typing import Any

import transaction
from kinto.core.storage import Filter
from kinto.core.storage.exceptions import ObjectNotFoundError
from kinto.core.utils import COMPARISON

from kinto_attachment import errors, locks, paging, unit_of_work
from kinto_attachment.background import Task
from kinto_attachment.deletions import Deletions
from kinto_attachment.form.gzip import GZIP_MIMETYPE
from kinto_attachment.kinto_internals import parents_beginning_with
from kinto_attachment.links import UPLOADS_PARENT
from kinto_attachment.resumable.upload import DISCARDED, DONE, Upload, now
from kinto_attachment.storage.contract import PartialFile


logger = logging.getLogger(__name__)

UPLOADS = "attachment-uploads"
ALL_PARENTS = parents_beginning_with(f"{UPLOADS_PARENT}/")

SECONDS_BETWEEN_CLEARINGS = 60


class Uploads:
    """The uploads that have begun, one object each. Whoever reads one has locked it.

    :param files: the storage of the attachments, which takes files in pieces (``ResumableFiles``)
        if there are any uploads.
    :param max_open: how many a user may have that are not done.
    :ivar clearing_is_due_at: on the monotonic clock.
    """

    def __init__(
        self,
        storage: Any,
        files: Any,
        deletions: Deletions,
        expires_seconds: int,
        max_open: int,
    ):
        self.files = files
        self.expires_seconds = expires_seconds
        self._storage = storage
        self._deletions = deletions
        self._max_open = max_open
        self._lock = threading.Lock()
        self.clearing_is_due_at = 0.0
        self._task = Task(self.clear_expired)

    def add(self, upload: Upload) -> Upload:
        """Begin an upload, and return it.

        :raises HTTPTooManyRequests: its user has too many.
        """
        locks.block_flush(self._storage)
        locks.lock_object(self._storage, f"{UPLOADS_PARENT} of {upload.user}")
        open_ones = [
            Filter("user", upload.user, COMPARISON.EQ),
            Filter("phase", DONE, COMPARISON.NOT),
            Filter("expires", now(), COMPARISON.GT),
        ]
        if self._storage.count_all(UPLOADS, ALL_PARENTS, open_ones) >= self._max_open:
            raise errors.too_many_uploads(self._max_open)
        return self._write(upload, expires=self._expiry())

    def get(self, record_uri: str, id_: str, user: str) -> Upload:
        """Return an upload, which is locked until the transaction ends.

        :raises HTTPNotFound: there is none, or not of that user.
        :raises HTTPGone: it has expired.
        """
        found = self._locked(record_uri, id_)
        if found is None or found.user != user or found.expires == DISCARDED:
            raise errors.unknown_upload()
        if found.expires <= now():
            raise errors.expired_upload()
        return found

    def save(self, upload: Upload, **changes: Any) -> Upload:
        """Change an upload that this request has taken over, and return it as it is then.

        :raises HTTPConflict: another request has taken over.
        """
        current = self.get(upload.record_uri, upload.id, upload.user)
        if current.generation != upload.generation:
            raise errors.superseded()
        return self._write(current, **{"expires": self._expiry(), **changes})

    def state_to_continue(self, upload: Upload) -> Any:
        """Return what the storage needs to continue the file, ``None`` if no request may.

        (Whatever was answered to a commit: what is saved is known by now.)
        """
        current = self._locked(upload.record_uri, upload.id)
        if current is None or current.expires <= now():
            return None
        return current.parts[upload.file_name]

    def take_over(
        self, upload: Upload, size: int | None = None, **changes: Any
    ) -> tuple[Upload, PartialFile]:
        """Return an upload and its file, both of which requests that began earlier find changed.

        :param size: what the file should have, as of :meth:`size`.
        :raises HTTPLocked: another request is completing it.
        :raises Superseded: the file has another size.
        :raises StorageError: the file cannot be resumed.
        """
        if upload.is_being_completed:
            raise errors.being_completed()
        generation = upload.generation + 1
        name = upload.file_name
        expected = size if upload.verified is None else None
        file = self.files.resume(name, upload.parts[name], generation, expected)
        try:
            if upload.verified is not None and file.size > upload.verified:
                file.rewind(upload.verified, upload.parts[name])
            return self.save(upload, generation=generation, **changes), file
        except BaseException:
            file.close()
            raise

    def size(self, upload: Upload) -> int:
        """Return how many bytes have been received and, if they have a checksum, verified."""
        name = upload.file_name
        size = self.files.partial_size(name, upload.parts[name])
        return size if upload.verified is None else min(size, upload.verified)

    def begin_compressed(self, upload: Upload) -> Any:
        """Return the storage's state of the file that is compressed at the end, without bytes."""
        return self.files.begin_partial(upload.wanted_key, GZIP_MIMETYPE, upload.is_unique)

    def discard(self, uploads: Iterable[Upload]) -> None:
        """Give up uploads: with the commit they are unknown, and after it their files go."""
        for upload in uploads:
            # A request may have stored the file since. And a flush leaves no state.
            current = self._locked(upload.record_uri, upload.id) or upload
            changes = {"expires": DISCARDED, "generation": current.generation + 1}
            self._write(current, **changes)
            unit_of_work.current().after_commit(self._task.wake)

    def release_below(self, object_uri: str) -> None:
        """Give up the uploads of all records of a bucket or a collection."""
        self._release(parents_beginning_with(f"{UPLOADS_PARENT}{object_uri}/"))

    def release_records(self, collection_uri: str, record_uris: set[str]) -> None:
        """Give up the uploads of records of a collection."""
        parent = parents_beginning_with(f"{UPLOADS_PARENT}{collection_uri}/")
        uris = sorted(record_uris - unit_of_work.current().links.without_uploads)
        for page in paging.split(uris):
            self._release(parent, paging.among(page, "record_uri"))

    def all(self) -> list[Upload]:
        """Return all uploads, also those that are done or expired."""
        return [upload_of(one) for one in paging.list_all(self._storage, UPLOADS, ALL_PARENTS)]

    def clear_sometimes(self) -> None:
        """Delete what is left of expired uploads, in the background, once a minute."""
        with self._lock:
            if time.monotonic() < self.clearing_is_due_at:
                return
            self.clearing_is_due_at = time.monotonic() + SECONDS_BETWEEN_CLEARINGS
        self._task.wake()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Return whether this process has deleted what it has given up, within so many seconds."""
        return self._task.wait_until_idle(timeout)

    def clear_expired(self) -> None:
        """Delete what is left of uploads that expired or were given up."""
        with transaction.manager:
            conditions = [Filter("expires", now(), COMPARISON.MAX)]
            expired = paging.list_all(self._storage, UPLOADS, ALL_PARENTS, conditions)
        for one in expired:
            try:
                self.clear(one["record_uri"], one["id"])
            except Exception:
                # It is tried again, as it stays expired.
                logger.exception("The rest of the upload %s could not be deleted", one["id"])

    def clear(self, record_uri: str, id_: str) -> None:
        """Delete an upload that has expired, and its stored file if no record got it.

        :raises StorageError: a partial file cannot be deleted.
        """
        with transaction.manager:
            upload = self._locked(record_uri, id_)
            if upload is None or upload.expires > now():
                return
            if upload.expires != DISCARDED:
                # No request may continue it any more.
                upload = self._write(upload, expires=DISCARDED)
        # What was compressed by a worker that was killed is in no state.
        begun = self.begin_compressed(upload)
        for name, state in {upload.compressed_name: begun, **upload.parts}.items():
            self.files.discard_partial(name, state, upload.generation, is_last=True)
        with transaction.manager:
            if self._locked(record_uri, id_) is not None:
                parent = UPLOADS_PARENT + record_uri
                self._storage.delete(UPLOADS, parent, id_, with_deleted=False)
                if upload.phase != DONE:
                    self._deletions.enqueue(upload.keys)

    def is_expired(self, record_uri: str, id_: str) -> bool:
        """Return whether there is an upload, and whether it has expired."""
        upload = self._locked(record_uri, id_)
        return upload is not None and upload.expires <= now()

    def stores(self, key: str) -> bool:
        """Return whether the file of this key is one that no record got yet."""
        conditions = [Filter("key", key, COMPARISON.EQ), Filter("phase", DONE, COMPARISON.NOT)]
        return bool(self._storage.list_all(UPLOADS, ALL_PARENTS, conditions))

    def _locked(self, record_uri: str, id_: str) -> Upload | None:
        locks.block_flush(self._storage)
        parent = UPLOADS_PARENT + record_uri
        locks.lock_object(self._storage, f"{parent} {id_}")
        try:
            return upload_of(self._storage.get(UPLOADS, parent, id_))
        except ObjectNotFoundError:
            return None

    def _release(self, parent: str, *filters: Filter) -> None:
        found = paging.list_all(self._storage, UPLOADS, parent, filters)
        self.discard(map(upload_of, found))

    def _write(self, upload: Upload, **changes: Any) -> Upload:
        changed = dataclasses.replace(upload, **changes)
        values = dataclasses.asdict(changed)
        self._storage.update(UPLOADS, UPLOADS_PARENT + upload.record_uri, upload.id, values)
        return changed

    def _expiry(self) -> int:
        return now() + self.expires_seconds * 1000


def upload_of(found: dict[str, Any]) -> Upload:
    """Return the upload of an object in Kinto's storage."""
    return Upload(**{field.name: found[field.name] for field in dataclasses.fields(Upload)})
