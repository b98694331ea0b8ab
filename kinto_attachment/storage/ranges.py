"""A part of a stored file, as a stream."""

import contextlib
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, cast


BLOCK_BYTES = 256 * 1024


def part_of(
    stream: Any,
    length: int,
    errors: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> BinaryIO:
    """Return the next bytes of a stream, as a stream that closes it.

    :param length: how many bytes there are at most.
    :param errors: raises the errors of a read in its context as a ``StorageError``.
    """
    return cast(BinaryIO, _Part(stream, length, errors))


def skip(stream: Any, length: int) -> None:
    """Move to a position of a new stream, if need be by reading what is before it."""
    with contextlib.suppress(OSError, AttributeError):  # io.UnsupportedOperation is one.
        stream.seek(length)
        return
    while length and (block := stream.read(min(length, BLOCK_BYTES))):
        length -= len(block)


class _Part(io.RawIOBase):
    def __init__(
        self, stream: Any, length: int, errors: Callable[[], AbstractContextManager[None]]
    ):
        self._stream = stream
        self._left = length
        self._errors = errors

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(BLOCK_BYTES), b""))
        size = min(size, self._left)
        if not size:
            return b""
        with self._errors():
            block = self._stream.read(size)
        self._left -= len(block)
        return block

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
