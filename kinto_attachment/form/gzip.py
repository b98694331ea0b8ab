"""Gzip in a thread, which compresses what has come while the next bytes are read."""

import queue
from collections.abc import Callable

from zlib_ng import zlib_ng

from kinto_attachment.background import in_background


GZIP_MIMETYPE = "application/x-gzip"

BLOCK_BYTES = 256 * 1024
MAX_QUEUED_BLOCKS = 4

GZIP_WINDOW = 16 + 15
"""The largest window, and a gzip header (without time and name) and trailer around the data."""


class GzipWriter:
    """A writer that passes bytes on to another one, compressed (RFC 1952).

    Equal bytes give equal output, whatever pieces they come in: the output of zlib-ng depends on
    the pieces, so it gets blocks of one size. The thread is free after :meth:`close` or
    :meth:`abort`, of which one has to be called.
    """

    def __init__(self, write: Callable[[bytes], None], level: int) -> None:
        """Compress to ``write``, which is called in another thread, at a level from 1 to 9."""
        self._write = write
        self._compressor = zlib_ng.compressobj(level, zlib_ng.DEFLATED, GZIP_WINDOW)
        self._block = bytearray()
        self._blocks: queue.Queue[bytes | None] = queue.Queue(MAX_QUEUED_BLOCKS)
        self._failure: BaseException | None = None
        self._aborted = False
        self._end_of_writing = in_background(self._run)

    def write(self, chunk: bytes) -> None:
        """Append bytes. Wait while many blocks are not yet compressed.

        :raises Exception: what the other writer raised, now or before.
        """
        self._raise_failure()
        self._block += chunk
        while len(self._block) >= BLOCK_BYTES:
            self._blocks.put(bytes(self._block[:BLOCK_BYTES]))
            del self._block[:BLOCK_BYTES]

    def close(self) -> None:
        """Wait until everything is written.

        :raises Exception: what the other writer raised.
        """
        self._blocks.put(bytes(self._block))
        self._end()
        self._raise_failure()

    def abort(self) -> None:
        """Drop what is not yet written. Does nothing after :meth:`close`."""
        self._aborted = True
        self._end()

    def _end(self) -> None:
        if not self._end_of_writing.done():
            self._blocks.put(None)
            self._end_of_writing.result()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        # To the end even after a failure: the writing thread may wait for a place in the queue.
        while (block := self._blocks.get()) is not None:
            self._pass_on(self._compressor.compress, block)
        self._pass_on(self._compressor.flush)

    def _pass_on(self, compress: Callable[..., bytes], *block: bytes) -> None:
        if self._aborted or self._failure is not None:
            return
        try:
            compressed = compress(*block)
            if compressed:
                self._write(compressed)
        except BaseException as error:
            self._failure = error
