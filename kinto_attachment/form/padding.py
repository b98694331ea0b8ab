"""Transport padding: white space at the end of the line of a boundary (RFC 2046, section 5.1.1).

Receivers must accept it; the parser does not. A body without any, as nearly all are, is passed on
as it is.
"""

import re
from collections.abc import Callable


class Unpadded:
    """A body whose transport padding is removed, if its first bytes have some."""

    def __init__(self, read: Callable[[int], bytes], boundary: bytes) -> None:
        """Read from ``read``, which returns at most so many bytes of a body, none at its end."""
        self._read = read
        self._delimiter = b"\r\n--" + boundary
        escaped = re.escape(b"--" + boundary)
        self._padded = re.compile(rb"(\A|\r\n)(" + escaped + rb")[ \t]+(?=\r\n)")
        self._padding = re.compile(rb"(\r\n" + escaped + rb")[ \t]+(?=\r\n)")
        self._possible_padding = re.compile(rb"\r\n" + escaped + rb"[ \t]*\r?\Z")
        self._has_begun = False
        self._is_padded = False
        self._held_back = b""

    def read(self, size: int) -> bytes:
        """Return some bytes, none at the end."""
        if not self._has_begun:
            return self._begin(size)
        return self._unpadded(size) if self._is_padded else self._read(size)

    def _begin(self, size: int) -> bytes:
        self._has_begun = True
        chunk = self._read(size)
        self._is_padded = self._padded.search(chunk) is not None
        if not self._is_padded:
            return chunk
        return self._hold_back(self._padded.sub(rb"\1\2", chunk)) or self._unpadded(size)

    def _unpadded(self, size: int) -> bytes:
        while chunk := self._read(size):
            if chunk := self._hold_back(self._padding.sub(rb"\1", self._held_back + chunk)):
                return chunk
        rest, self._held_back = self._held_back, b""
        return rest

    def _hold_back(self, chunk: bytes) -> bytes:
        """Return a chunk without its end, if that may be the beginning of a padded boundary."""
        end = self._end(chunk)
        self._held_back = chunk[end:]
        return chunk[:end]

    def _end(self, chunk: bytes) -> int:
        start = chunk.rfind(self._delimiter)
        if start >= 0 and self._possible_padding.match(chunk, start):
            return start
        for length in range(len(self._delimiter) - 1, 0, -1):
            if chunk.endswith(self._delimiter[:length]):
                return len(chunk) - length
        return len(chunk)
