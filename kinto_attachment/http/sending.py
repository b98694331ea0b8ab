"""Responses with a stored file, or a part of it, that are never in memory as a whole."""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

from pyramid.httpexceptions import HTTPNotFound

from kinto_attachment import errors
from kinto_attachment.http.byte_range import ByteRange, Unsatisfiable, requested_range
from kinto_attachment.http.conditions import Outcome, evaluate, range_applies
from kinto_attachment.http.representation import (
    SAMPLE_BYTES,
    SECURITY_HEADERS,
    Representation,
    charset_of,
)
from kinto_attachment.kinto_internals.answers import StreamedResponse
from kinto_attachment.storage.contract import Storage, StorageError
from kinto_attachment.storage.ranges import BLOCK_BYTES


logger = logging.getLogger(__name__)


@contextlib.contextmanager
def read_errors() -> Iterator[None]:
    """Answer what a storage raises in the context by an error of Kinto."""
    try:
        yield
    except FileNotFoundError as error:
        raise HTTPNotFound() from error
    except io.UnsupportedOperation as error:
        raise errors.cannot_read() from error
    except StorageError as error:
        logger.exception("The attachment could not be read")
        raise errors.storage_unreadable() from error


def respond(request: Any, files: Storage, file: Representation, more: dict[str, str]) -> Any:
    """Return the response on a GET or HEAD of a file: 200, 206 or 304.

    :param more: headers of the response, beside those of the file.
    :raises HTTPException: a condition fails, there is no such range, or no such file.
    """
    outcome = evaluate(request.headers, file.tag, file.modified)
    if outcome is Outcome.FAILED:
        raise errors.file_changed()
    if outcome is Outcome.NOT_MODIFIED:
        # Caches replace what they have by all of these headers, and Kinto's own allow more.
        return _response(304, [], {**file.validators, **SECURITY_HEADERS, **more})
    part = _requested_part(request, file)
    with read_errors():
        if request.method == "HEAD":
            headers = {**file.headers(charset(files, file)), "Content-Length": str(file.size)}
            return _response(200, [], headers | more)
        sent = part or ByteRange(0, file.size)
        body, found = _opened(files, file, sent)
    headers = {**file.headers(found), "Content-Length": str(sent.length), **more}
    if part:
        headers["Content-Range"] = part.content_range(file.size)
    return _response(206 if part else 200, body, headers)


class Body:
    """The blocks of a stream, which is closed with it.

    :param head: what was read of it already.
    :raises StorageError: while they are consumed: the stream ends too early, or cannot be read.
    """

    def __init__(self, stream: BinaryIO, length: int, head: bytes):
        self._stream = stream
        self._left = length
        self._head = head

    def __iter__(self) -> Iterator[bytes]:
        block = self._head
        while self._left:
            block = block or self._stream.read(BLOCK_BYTES)
            if not block:
                # The client has to see that something is missing.
                raise StorageError(f"A file is {self._left} bytes shorter than its metadata says")
            self._left -= len(block)
            yield block
            block = b""

    def close(self) -> None:
        """Free the stream, which the server calls also if the client is gone."""
        self._stream.close()


def _requested_part(request: Any, file: Representation) -> ByteRange | None:
    # For no other method, a Range has a meaning (RFC 9110, section 14.2).
    if request.method != "GET" or not range_applies(request.headers, file.tag, file.modified):
        return None
    try:
        return requested_range(request.headers.get("Range", ""), file.size)
    except Unsatisfiable as error:
        raise errors.no_such_range(file.size) from error


def _opened(files: Storage, file: Representation, part: ByteRange) -> tuple[Body, str | None]:
    """Return the bytes to send, the first of them read: the storage has answered by then."""
    found = charset(files, file) if part.first and file.is_text else None
    stream = files.open_range(file.key, part.first, part.length)
    try:
        head = stream.read(min(part.length, SAMPLE_BYTES))
    except BaseException:
        stream.close()
        raise
    if not part.first and file.is_text:
        found = charset_of(head, len(head) == file.size)
    return Body(stream, part.length, head), found


def charset(files: Storage, file: Representation) -> str | None:
    """Return the charset of a text, ``None`` if it is none, or not UTF-8.

    :raises FileNotFoundError: there is no such file, text or not.
    """
    if not file.is_text:
        if not files.exists(file.key):
            raise FileNotFoundError(file.key)
        return None
    with files.open_range(file.key, 0, SAMPLE_BYTES) as stream:
        sample = stream.read(SAMPLE_BYTES)
    return charset_of(sample, len(sample) == file.size)


def _response(status: int, body: Any, headers: dict[str, str]) -> Any:
    return StreamedResponse(app_iter=body, status=status, headerlist=list(headers.items()))
