"""Staged files of a bucket."""

import logging
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kinto_attachment.background import in_background
from kinto_attachment.storage.contract import StagedFile
from kinto_attachment.storage.names import REMOTE_NUMBERED_IN_ORDER, candidate_keys
from kinto_attachment.storage.s3.bucket import Bucket, parameters_of
from kinto_attachment.storage.s3.client import S3Error, UnexpectedAnswer
from kinto_attachment.storage.s3.multipart import MultipartUpload
from kinto_attachment.storage.s3.transport import Body


logger = logging.getLogger(__name__)

STAGING_FOLDER = ".staging/"
"""Where a large file is complete before it is copied to a free key."""

MAX_COPIED_AT_ONCE_BYTES = 5 * 1024**3
"""The limit of CopyObject. Not every store has UploadPartCopy, which copies what is larger."""

MIN_COPIED_PART_BYTES = 64 * 1024**2


class S3StagedFile(StagedFile):
    """A file that stays in memory until it is published, or is larger than a part.

    A larger one is sent part by part while it is written, as a multipart upload.

    :param parameters: of the object: its headers and its ACL.
    :param part_size: how many bytes stay in memory, or make a part.
    :param unique: whether the key is free, or is to be taken in any case.
    :param replaces: whether the key may be that of a file that must not be deleted.
    """

    def __init__(
        self,
        bucket: Bucket,
        key: str,
        parameters: Mapping[str, str],
        part_size: int,
        unique: bool,
        replaces: bool = False,
    ):
        self._bucket = bucket
        self._key = key
        self._parameters = parameters_of(key, parameters)
        self._part_size = part_size
        self._unique = unique
        self._replaces = replaces
        # An upload needs its key at the beginning: only a unique one is still free at the end.
        self._upload_key = key if unique else f"{STAGING_FOLDER}{uuid.uuid4()}"
        self._size = 0
        self._buffer = bytearray()
        self._filled = 0
        self._upload: MultipartUpload | None = None

    def write(self, chunk: bytes) -> None:
        self._size += len(chunk)
        remaining = memoryview(chunk)
        while remaining:
            if self._filled == self._part_size:
                self._send_part()
            room = self._part_size - self._filled
            self._fill(remaining[:room])
            remaining = remaining[room:]

    def publish(self) -> str:
        del self._buffer[self._filled :]
        if self._upload is None:
            key = self._put()
        else:
            self._send_part()
            key = self._complete(self._upload)
        self._buffer = bytearray()
        return key

    def discard(self) -> None:
        self._buffer = bytearray()
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.discard()

    def _fill(self, piece: memoryview) -> None:
        end = self._filled + len(piece)
        if end > len(self._buffer):
            self._grow(end)
        self._buffer[self._filled : end] = piece
        self._filled = end

    def _grow(self, size: int) -> None:
        """Make room for so many bytes. (A bytearray that grows by itself takes an eighth more.)

        While two parts are in flight, there is room for half of the next one: enough to have it
        ready soon after, and with other memory less than three parts in all.
        """
        part = self._part_size
        if self._upload is None:
            size = min(max(size, 2 * len(self._buffer)), part)
        elif size <= part // 2:
            size = part // 2
        else:
            self._upload.wait_for_turn()
            size = part
        grown = bytearray(size)
        grown[: len(self._buffer)] = self._buffer
        self._buffer = grown

    def _send_part(self) -> None:
        if self._upload is None:
            parameters = dict(self._parameters)
            if not self._unique:
                parameters.pop("ACL", None)
            self._upload = MultipartUpload(self._bucket, self._upload_key, parameters)
        # The part is sent from its buffer: the bytes that follow go into another one.
        part, self._buffer, self._filled = self._buffer, bytearray(), 0
        self._upload.send(part)

    def _put(self) -> str:
        parameters = {
            "Body": Body(self._buffer),
            **self._parameters,
            **self._bucket.checksum(self._buffer),
        }
        if not self._unique:
            return self._to_free_key(lambda key: self._bucket.put_if_absent(Key=key, **parameters))
        try:
            self._bucket.call("put_object", Key=self._key, **parameters)
        except S3Error as error:
            if error.status not in range(400, 500):
                self._delete_possible_leftover()
            raise
        return self._key

    def _complete(self, upload: MultipartUpload) -> str:
        try:
            upload.complete()
        except S3Error:
            # The outcome is unknown, whatever the error: a retry is answered with NoSuchUpload.
            self._delete_possible_leftover()
            raise
        self._upload = None
        return self._key if self._unique else self._copy_to_free_key()

    def _delete_possible_leftover(self) -> None:
        """Delete what S3 may have stored although the answer is lost."""
        if not self._replaces:
            in_background(partial(self._delete_leftovers, [self._upload_key]))

    def _delete_leftovers(self, keys: list[str]) -> None:
        for key, error in self._bucket.delete_many(keys).items():
            logger.warning("%s: %s of a failed upload may stay: %s", self._bucket, key, error)

    def _copy_to_free_key(self) -> str:
        made = [self._upload_key]
        try:
            # An empty object reserves the key. (Completing an upload with If-None-Match would do,
            # but is not atomic in every store.)
            key = self._to_free_key(lambda key: self._bucket.put_if_absent(Key=key, Body=Body(b"")))
            made.append(key)
            parameters = (self._size, self._parameters, self._part_size)
            copy_object(self._bucket, self._upload_key, key, *parameters)
        except BaseException:
            in_background(partial(self._delete_leftovers, made))
            raise
        self._bucket.delete_many([self._upload_key])
        return key

    def _to_free_key(self, put_if_absent: Callable[[str], bool]) -> str:
        for key in candidate_keys(self._key, REMOTE_NUMBERED_IN_ORDER):
            # Checked first, for stores without If-None-Match.
            if not self._bucket.exists(key) and put_if_absent(key):
                return key
        raise UnexpectedAnswer(f"{self._bucket}: every key like {self._key} is taken")


def copy_object(
    bucket: Bucket,
    source: str,
    key: str,
    size: int,
    parameters: Mapping[str, Any],
    part_size: int,
) -> None:
    """Copy an object of so many bytes to another key, with these parameters."""
    if size > MAX_COPIED_AT_ONCE_BYTES:
        _copy_in_parts(bucket, source, key, size, parameters, part_size)
        return
    answer = bucket.call(
        "copy_object",
        Key=key,
        CopySource={"Bucket": bucket.name, "Key": source},
        MetadataDirective="REPLACE",
        **parameters,
    )
    # A store without the operation may take it for the upload of an empty file.
    bucket.field(answer, "CopyObjectResult", "ETag")


def _copy_in_parts(
    bucket: Bucket,
    source: str,
    key: str,
    size: int,
    parameters: Mapping[str, Any],
    part_size: int,
) -> None:
    part_size = max(MIN_COPIED_PART_BYTES, part_size)
    upload = MultipartUpload(bucket, key, parameters)
    try:
        for first in range(0, size, part_size):
            upload.copy(source, first, min(first + part_size, size) - 1)
        upload.complete()
    except BaseException:
        upload.discard()
        raise
