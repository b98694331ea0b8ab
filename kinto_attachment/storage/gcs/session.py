"""Resumable sessions: objects that are sent part by part."""

import logging
from typing import Any

import google_crc32c
import requests
from google.api_core.exceptions import ServiceUnavailable, from_http_response

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.gcs.bucket import Bucket, encoded_crc32c
from kinto_attachment.storage.running import RUNNING


logger = logging.getLogger(__name__)

BLOCK_BYTES = 256 * 1024
"""What is hashed at once, since google_crc32c reads no bytearray."""

COMPLETE = (200, 201)
INCOMPLETE = 308
CANCELLED = (499, 404, 410)


class UploadSession:
    """An object that is sent part by part, and does not exist before the last one is stored.

    ("Resumable uploads" in the documentation of Cloud Storage.)

    :param uri: whoever knows it can send parts.
    :ivar stored: how many bytes GCS has.
    """

    def __init__(self, bucket: Bucket, uri: str):
        self._bucket = bucket
        self._uri = uri
        self._crc32c = 0
        self._is_uncertain = False
        self.stored = 0
        self.max_silent_seconds = bucket.max_silent_seconds
        RUNNING.track(self)

    def send(self, part: bytes | bytearray, is_last: bool = False) -> None:
        """Send the next part: a multiple of 256 KiB, unless it is the last one.

        :raises StorageError: GCS does not take it, or has another checksum of the object.
        """
        start, end = self.stored, self.stored + len(part)
        for block in range(0, len(part), BLOCK_BYTES):
            content = bytes(part[block : block + BLOCK_BYTES])
            self._crc32c = google_crc32c.extend(self._crc32c, content)
        is_complete = False
        with self._bucket.errors():
            while not is_complete and (is_last or self.stored < end):
                is_complete = self._bucket.retry(self._send)(part, start, end if is_last else None)
        if is_last:
            RUNNING.untrack(self)

    def abandon(self) -> None:
        """Do nothing: GCS ends the requests of a cancelled session."""

    def abort(self) -> None:
        """Cancel the session. If that fails, GCS forgets it after a week."""
        try:
            self._request("DELETE", *CANCELLED)
        except Exception as error:
            logger.warning("%s: a session stays: %s", self._bucket, type(error).__name__)
        RUNNING.untrack(self)

    def _send(self, part: bytes | bytearray, start: int, total: int | None) -> bool:
        """Return whether the object is complete.

        Sends what GCS lacks of the part that begins at ``start``. After a failure, asks what that
        is, by sending nothing.
        """
        rest = part if self.stored == start else part[self.stored - start :]
        if self._is_uncertain:
            rest = b""
        span = f"{self.stored}-{self.stored + len(rest) - 1}" if rest else "*"
        headers = {"Content-Range": f"bytes {span}/{total or '*'}"}
        checksum = encoded_crc32c(self._crc32c)
        if total:
            headers["X-Goog-Hash"] = f"crc32c={checksum}"
        self._is_uncertain = True
        response = self._request("PUT", INCOMPLETE, *COMPLETE, data=rest, headers=headers)
        self._is_uncertain = False
        if response.status_code in COMPLETE:
            # GCS has compared the header, unless that was lost on its way.
            if response.json().get("crc32c") != checksum:
                raise StorageError(f"{self._bucket} has received a file with another CRC32C")
            return True
        stored = int(response.headers.get("Range", "0--1").partition("-")[2]) + 1
        if stored < self.stored + bool(rest):
            raise ServiceUnavailable(f"{stored} bytes are stored, and no more of them")
        self.stored = stored
        return False

    def _request(self, method: str, *accepted: int, **kwargs: Any) -> requests.Response:
        response = self._bucket.session.request(
            method, self._uri, timeout=self.max_silent_seconds, **kwargs
        )
        if response.status_code not in accepted:
            raise from_http_response(response)
        return response
