"""The fetching of a file, which resumes where it broke off."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from kinto_attachment.scripts.content import CHUNK_BYTES, Content
from kinto_attachment.scripts.disk import open_for_update
from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.http_client import TRANSIENT_ERRORS, HttpClient
from kinto_attachment.scripts.responses import check_status


class Partial:
    """A file that is being downloaded, and remains from run to run until it is complete.

    :param progress: is called with the number of bytes added (negative if they are removed).
    :ivar size: in bytes.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: Path, progress: Callable[[int], None]):
        self._progress = progress
        self._file = open_for_update(path)
        self._digest = hashlib.sha256()
        self.size = 0
        while chunk := self._file.read(CHUNK_BYTES):
            self._count(chunk)

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._file.close()

    @property
    def hash(self) -> str:
        return self._digest.hexdigest()

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._count(chunk)

    def restart(self) -> None:
        """Remove all bytes."""
        self._file.seek(0)
        self._file.truncate()
        self._progress(-self.size)
        self._digest = hashlib.sha256()
        self.size = 0

    def _count(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.size += len(chunk)
        self._progress(len(chunk))


Get = Callable[[dict[str, str]], requests.Response]
"""Returns the response to a request for a file, with these headers."""


def fetch(
    http: HttpClient, get: Get, stored: Content, path: Path, progress: Callable[[int], None]
) -> None:
    """Complete a partial file, which may exist already, with the server's.

    :raises Failure: it could not be completed, and remains for another run; or it has another
        content, and is removed.
    :raises OSError: it cannot be written.
    """
    with Partial(path, progress) as partial:
        is_resumed = partial.size > 0
        _complete(http, get, stored.size, partial)
        if partial.hash != stored.hash and is_resumed:
            partial.restart()
            _complete(http, get, stored.size, partial)
        if partial.hash != stored.hash:
            path.unlink()
            raise Failure(f"its hash is {partial.hash} instead of {stored.hash}")


def _complete(http: HttpClient, get: Get, size: int, partial: Partial) -> None:
    if partial.size > size:
        partial.restart()
    attempt = 0
    farthest = partial.size
    while partial.size != size:
        with _request(get, partial.size) as response:
            reason = _receive(http, response, size, partial)
        if partial.size > farthest:
            # The attempts count from the last progress, so that a large file over a line that
            # breaks now and then is completed.
            farthest = partial.size
            attempt = 0
        if partial.size < size:
            http.wait_before_retry(attempt, reason)
            attempt += 1


def _request(get: Get, start: int) -> requests.Response:
    # Encoded for the transfer, it would be other bytes, with another hash and other ranges.
    headers = {"Accept-Encoding": "identity"}
    if start:
        # Without If-Range: the hash shows whether it is still the same file.
        headers["Range"] = f"bytes={start}-"
    return check_status(get(headers), 200, *((206, 416) if start else ()))


def _receive(
    http: HttpClient, response: requests.Response, size: int, partial: Partial
) -> Exception | str:
    """Return why a file is incomplete, if it is, once a response has been appended to it."""
    if response.status_code == 416:
        partial.restart()
        return "the file on the server is shorter than what was downloaded"
    if response.status_code == 200 and partial.size:
        partial.restart()
    content_range = response.headers.get("Content-Range", "")
    if response.status_code == 206 and not content_range.startswith(f"bytes {partial.size}-"):
        raise Failure("the server sent another range than requested")
    try:
        for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
            http.check()
            if partial.size + len(chunk) > size:
                partial.restart()
                raise Failure(f"the server sends more than the {size} bytes of the file")
            partial.append(chunk)
    except TRANSIENT_ERRORS as error:
        return error
    return "the server sent less than the whole file"
