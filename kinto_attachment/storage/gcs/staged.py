"""Staged files of a Google Cloud Storage bucket."""

import contextlib
import io
import logging
import uuid
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial

from google.cloud.storage import Blob

from kinto_attachment.background import in_background
from kinto_attachment.storage.contract import StagedFile, StorageError
from kinto_attachment.storage.gcs.bucket import Bucket, GCSError
from kinto_attachment.storage.gcs.session import UploadSession
from kinto_attachment.storage.names import REMOTE_NUMBERED_IN_ORDER, candidate_keys


logger = logging.getLogger(__name__)

STAGING_FOLDER = ".staging/"
"""Where a large file is complete before it is copied to a free key."""

UPLOAD_ID = "upload-id"
"""The metadata of an object that tells which upload has made it."""

PRECONDITION_FAILED = 412


class GCSStagedFile(StagedFile):
    """A file that stays in memory until it is published, or is larger than a part.

    A larger one is sent in a resumable session while it is written: a part is filled while the
    previous one is sent.

    :param part_size: in bytes, a multiple of 256 KiB.
    :param unique: whether the key is free, or is to be taken in any case.
    :param replaces: whether the key may be that of a file that must not be deleted.
    """

    def __init__(
        self,
        bucket: Bucket,
        key: str,
        mimetype: str,
        part_size: int,
        unique: bool,
        replaces: bool = False,
    ):
        self._bucket = bucket
        self._key = key
        self._mimetype = mimetype
        self._part_size = part_size
        self._unique = unique
        self._replaces = replaces
        self._id = str(uuid.uuid4())
        # A session needs its key at the beginning: only a unique one is still free at the end.
        self._upload_key = key if unique else f"{STAGING_FOLDER}{self._id}"
        self._made: list[str] = []
        self._buffer = bytearray()
        self._filled = 0
        self._sent = bytearray()
        self._session: UploadSession | None = None
        self._in_flight: Future[None] | None = None

    def write(self, chunk: bytes) -> None:
        remaining = memoryview(chunk)
        while remaining:
            if self._filled == self._part_size:
                self._send_part()
            piece = remaining[: self._part_size - self._filled]
            self._buffer[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            remaining = remaining[len(piece) :]

    def publish(self) -> str:
        try:
            key = self._publish()
        except BaseException:
            if not self._replaces:
                in_background(self._delete_leftovers)
            raise
        self._buffer, self._sent = bytearray(), bytearray()
        return key

    def discard(self) -> None:
        self._buffer, self._sent = bytearray(), bytearray()
        session, self._session = self._session, None
        if session is not None:
            in_background(session.abort)

    def _publish(self) -> str:
        del self._buffer[self._filled :]
        if self._session is not None:
            self._wait_for_part()
            self._session.send(self._buffer, is_last=True)
            self._session = None
            return self._key if self._unique else self._copy_to_free_key()
        content, self._buffer = bytes(self._buffer), bytearray()
        if self._unique:
            return self._put(content, [self._key]).name
        return self._put_at_free_key(content).name

    def _send_part(self) -> None:
        if self._session is None:
            self._session = self._begin_session()
        self._wait_for_part()
        # The buffer of the previous part is filled again: there are two, however large the file.
        free = self._sent or bytearray(self._part_size)
        self._sent, self._buffer, self._filled = self._buffer, free, 0
        self._in_flight = in_background(partial(self._session.send, self._sent))

    def _wait_for_part(self) -> None:
        if self._in_flight is not None:
            self._in_flight.result()

    def _begin_session(self) -> UploadSession:
        acl = self._bucket.acl_of(self._key) if self._unique else None
        begin = self._blob(self._upload_key).create_resumable_upload_session
        return UploadSession(self._bucket, self._bucket.call(begin, predefined_acl=acl))

    def _blob(self, key: str) -> Blob:
        """Return the object that this upload makes, and deletes if it fails."""
        self._made.append(key)
        blob = self._bucket.blob(key, self._mimetype)
        blob.metadata = {UPLOAD_ID: self._id}
        return blob

    def _put_at_free_key(self, content: bytes) -> Blob:
        keys = candidate_keys(self._key, REMOTE_NUMBERED_IN_ORDER)
        return self._put(content, keys, if_generation_match=0)

    def _put(self, content: bytes, keys: Iterable[str], **condition: int) -> Blob:
        """Return the object that was made, of the first key for which the condition holds."""
        file, size, acl = io.BytesIO(content), len(content), self._bucket.acl_of(self._key)
        for key in keys:
            blob = self._blob(key)
            upload = partial(blob.upload_from_file, file, size=size, predefined_acl=acl)
            try:
                self._bucket.call(upload, rewind=True, **condition)
                return blob
            except GCSError as error:
                if error.status != PRECONDITION_FAILED:
                    raise
            # It is ours if the answer to an earlier try was lost.
            if (own := self._find_own(key)) is not None:
                return own
        raise StorageError(f"{self._bucket}: every key like {self._key} is taken")

    def _copy_to_free_key(self) -> str:
        # An empty object reserves the key, and its generation is that of no other one.
        reserved = self._put_at_free_key(b"")
        staged, copy = self._bucket.blob(self._upload_key), self._blob(reserved.name)
        token, is_done = None, False
        while not is_done:
            token, *_ = self._bucket.call(
                copy.rewrite, staged, token=token, if_generation_match=reserved.generation
            )
            is_done = token is None
        self._bucket.save_acl(copy)
        # If it cannot be deleted, it is an incomplete upload.
        with contextlib.suppress(StorageError):
            self._bucket.call(staged.delete)
        return copy.name

    def _find_own(self, key: str) -> Blob | None:
        blob = self._bucket.find(key)
        is_own = blob is not None and (blob.metadata or {}).get(UPLOAD_ID) == self._id
        return blob if is_own else None

    def _delete_leftovers(self) -> None:
        """Delete what GCS may have stored although the answer is lost."""
        for key in self._made:
            try:
                if (blob := self._find_own(key)) is not None:
                    self._bucket.call(blob.delete, if_generation_match=blob.generation)
            except StorageError as error:
                logger.warning("%s: %s of a failed upload may stay: %s", self._bucket, key, error)
