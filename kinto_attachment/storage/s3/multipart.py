"""Multipart uploads: objects that are sent part by part."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

from kinto_attachment.background import in_background
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.running import RUNNING
from kinto_attachment.storage.s3.bucket import Bucket
from kinto_attachment.storage.s3.client import S3Error
from kinto_attachment.storage.s3.transport import Body


logger = logging.getLogger(__name__)

PARTS_IN_FLIGHT = 2
MAX_PARTS = 10_000
"""A limit of S3 ("Amazon S3 multipart upload limits")."""


class MultipartUpload:
    """An object that is sent part by part, and does not exist until it is completed."""

    def __init__(self, bucket: Bucket, key: str, parameters: Mapping[str, Any]):
        self._bucket = bucket
        self._parts: list[Future[str]] = []
        self._failed = False
        self._abandoned = threading.Event()
        answer = bucket.call("create_multipart_upload", Key=key, **parameters)
        self._target = {"Key": key, "UploadId": bucket.field(answer, "UploadId")}
        RUNNING.track(self)

    @property
    def max_silent_seconds(self) -> float:
        """How long :meth:`abort` waits for parts if S3 sends nothing."""
        return self._bucket.client.max_silent_seconds

    def send(self, body: bytes | bytearray) -> None:
        """Send the next part in the background. Waits while two are in flight.

        :raises StorageError: a part could not be sent.
        """
        # Popped, so that its memory is free before a thread that waits for the part continues.
        bodies = [body]
        self._add(lambda number: self._send(number, bodies.pop()))

    def wait_for_turn(self) -> None:
        """Wait until fewer than two parts are in flight.

        :raises StorageError: a part could not be sent.
        """
        if len(self._parts) >= PARTS_IN_FLIGHT:
            self._etag(self._parts[-PARTS_IN_FLIGHT])

    def copy(self, source: str, first: int, last: int) -> None:
        """Let S3 copy the next part from another object, bytes ``first`` to ``last``.

        :raises StorageError: a part could not be copied.
        """
        self._add(lambda number: self._copy(number, source, first, last))

    def complete(self) -> None:
        """Make the object, and replace what has its key.

        :raises StorageError: S3 refuses, or a part could not be sent.
        """
        parts = [
            {"PartNumber": number, "ETag": self._etag(part)}
            for number, part in enumerate(self._parts, start=1)
        ]
        with self._failure_noted():
            self._bucket.call(
                "complete_multipart_upload", MultipartUpload={"Parts": parts}, **self._target
            )
        RUNNING.untrack(self)

    def abandon(self) -> None:
        """Stop sending the parts that are in flight."""
        self._abandoned.set()

    def abort(self) -> None:
        """Delete all parts. If that fails, the lifecycle rule of the bucket does."""
        self.abandon()
        # A part that arrives after the abort would stay.
        wait(self._parts, timeout=self.max_silent_seconds)
        try:
            self._bucket.call("abort_multipart_upload", **self._target)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                logger.warning("The multipart upload %s stays: %s", self._target, error)
        RUNNING.untrack(self)

    def discard(self) -> None:
        """Abort; in the background after a failure of S3."""
        if self._failed:
            in_background(self.abort)
        else:
            self.abort()

    def _add(self, transfer: Callable[[int], str]) -> None:
        number = len(self._parts) + 1
        if number > MAX_PARTS:
            raise StorageError(
                f"{self._bucket} takes no more than {MAX_PARTS} parts of a file: "
                "kinto.attachment.aws.part_size_bytes is too small for it"
            )
        self.wait_for_turn()
        self._parts.append(in_background(partial(transfer, number)))

    def _send(self, number: int, body: bytes | bytearray) -> str:
        answer = self._bucket.call(
            "upload_part",
            PartNumber=number,
            Body=Body(body, self._abandoned),
            **self._target,
            **self._bucket.checksum(body),
        )
        return self._bucket.field(answer, "ETag")

    def _copy(self, number: int, source: str, first: int, last: int) -> str:
        answer = self._bucket.call(
            "upload_part_copy",
            PartNumber=number,
            CopySource={"Bucket": self._bucket.name, "Key": source},
            CopySourceRange=f"bytes={first}-{last}",
            **self._target,
        )
        return self._bucket.field(answer, "CopyPartResult", "ETag")

    def _etag(self, part: "Future[str]") -> str:
        with self._failure_noted():
            return part.result()

    @contextlib.contextmanager
    def _failure_noted(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._failed = True
            raise
