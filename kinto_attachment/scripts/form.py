"""The ``multipart/form-data`` body of an upload."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from urllib3.fields import RequestField

from kinto_attachment.scripts.content import CHUNK_BYTES
from kinto_attachment.scripts.errors import Failure


class Form:
    """A body with a file, which is read while the body is sent.

    It can be iterated over again, for a retry. ``len()`` returns its size in bytes.

    :param attributes: of the record.
    :param progress: is called with the number of bytes sent (negative before a retry).
    :ivar hash: SHA-256 of the file as it was sent last, hexadecimal.
    :ivar content_type: the header of the body.
    """

    def __init__(
        self,
        source: BinaryIO,
        filename: str,
        mimetype: str | None,
        attributes: dict[str, Any],
        progress: Callable[[int], None],
    ):
        boundary = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self.hash = ""
        self._source = source
        self._size = source.seek(0, os.SEEK_END)
        self._progress = progress
        self._sent = 0
        delimiter = f"--{boundary}".encode()
        self._head = b""
        if attributes:
            data = json.dumps(attributes).encode()
            self._head = delimiter + b"\r\n" + _part_head("data") + data + b"\r\n"
        self._head += delimiter + b"\r\n" + _part_head("attachment", filename, mimetype)
        self._tail = b"\r\n" + delimiter + b"--\r\n"

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        self._progress(-self._sent)
        self._sent = 0
        self._source.seek(0)
        digest = hashlib.sha256()
        yield self._head
        while chunk := self._read():
            digest.update(chunk)
            self._sent += len(chunk)
            yield chunk
            self._progress(len(chunk))
        self.hash = digest.hexdigest()
        yield self._tail

    def _read(self) -> bytes:
        try:
            chunk = self._source.read(CHUNK_BYTES)
        except OSError as error:
            # An OSError would be taken for one of the connection.
            raise Failure(error.strerror or str(error)) from error
        # Before the last boundary, without which the server stores nothing.
        left = self._size - self._sent
        if len(chunk) > left or (left and not chunk):
            raise Failure("was changed while it was sent")
        return chunk


def _part_head(name: str, filename: str | None = None, content_type: str | None = None) -> bytes:
    part = RequestField(name, b"", filename=filename)
    part.make_multipart(content_type=content_type)
    return part.render_headers().encode()
