"""Gzip, beside the reading: a thread compresses what has come while the next bytes come."""

import queue
import threading
from collections.abc import Callable

from zlib_ng import zlib_ng


BLOCK_BYTES = 256 * 1024
MAX_QUEUED_BLOCKS = 4

GZIP_WINDOW = 16 + 15
"""The largest window, and a gzip header (without time and name) and trailer around the data."""


class GzipWriter:
    """A writer that hands what it is given on to another, compressed (RFC 1952).

    Equal bytes give equal bytes, whatever the pieces they come in: what zlib-ng makes of them
    depends on the pieces it is given, and so it is given blocks of one size. The thread ends with
    :meth:`close` or :meth:`abort`, of which one has to be called.
    """

    def __init__(self, write: Callable[[bytes], None], level: int):
        """Compress to ``write``, which is called in another thread, at a level from 1 to 9."""
        self._write = write
        self._compressor = zlib_ng.compressobj(level, zlib_ng.DEFLATED, GZIP_WINDOW)
        self._block = bytearray()
        self._blocks: queue.Queue = queue.Queue(MAX_QUEUED_BLOCKS)
        self._failure: BaseException | None = None
        self._aborted = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, chunk: bytes) -> None:
        """Append these bytes, or wait while there are many blocks that are not yet compressed.

        :raises Exception: what the other writer raised, now or before.
        """
        self._raise_failure()
        self._block += chunk
        while len(self._block) >= BLOCK_BYTES:
            self._blocks.put(bytes(self._block[:BLOCK_BYTES]))
            del self._block[:BLOCK_BYTES]

    def close(self) -> None:
        """Wait until all is written.

        :raises Exception: what the other writer raised.
        """
        self._blocks.put(bytes(self._block))
        self._end()
        self._raise_failure()

    def abort(self) -> None:
        """Forget what is not yet written. Does nothing after an end."""
        self._aborted = True
        self._end()

    def _end(self):
        if self._thread.is_alive():
            self._blocks.put(None)
            self._thread.join()

    def _raise_failure(self):
        if self._failure is not None:
            raise self._failure

    def _run(self):
        # To the end even after a failure: whoever writes may be waiting for a place in the queue.
        while (block := self._blocks.get()) is not None:
            self._pass_on(self._compressor.compress, block)
        self._pass_on(self._compressor.flush)

    def _pass_on(self, compress, *block):
        if self._aborted or self._failure is not None:
            return
        try:
            compressed = compress(*block)
            if compressed:
                self._write(compressed)
        except BaseException as error:
            self._failure = error
