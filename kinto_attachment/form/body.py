"""The body of a request: bytes that are counted and hashed while they are read."""

import logging
from collections.abc import Callable

from pyramid.httpexceptions import HTTPException

from kinto_attachment import errors
from kinto_attachment.form.digests import Hashes


logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024


class Body:
    """The bytes of a request, counted to tell a body that is cut off from a malformed one.

    The first chunk is a full one: what the parser makes of a preamble depends on where it is cut.

    :ivar ended: whether there was nothing to read although more was expected.
    :ivar form_has_begun: whether a part has been seen.
    """

    def __init__(self, read: Callable[[int], bytes], length: int | None, hashes: Hashes) -> None:
        self._read = read
        self._length = length
        self._hashes = hashes
        self.ended = False
        self.form_has_begun = False

    def read(self, size: int) -> bytes:
        """Return some bytes, none at the end.

        :raises HTTPException: the client is gone, or no part begins in the first chunk.
        """
        if self._hashes.size:
            chunk = self._some(size)
            if chunk and not self.form_has_begun:
                raise errors.form_too_large(f"no part begins in its first {CHUNK_BYTES} bytes")
        else:
            chunk = self._all(size)
        self.ended = size > 0 and not chunk and self._hashes.size != self._length
        return chunk

    def _all(self, size: int) -> bytes:
        chunks = bytearray()
        while len(chunks) < size and (chunk := self._some(size - len(chunks))):
            chunks += chunk
        return bytes(chunks)

    def _some(self, size: int) -> bytes:
        if self._length is not None:
            size = min(size, self._length - self._hashes.size)
        if not size:
            return b""
        try:
            chunk = self._read(size)
        except Exception as error:
            # Each server raises other exceptions when the client goes away.
            raise self.truncated() from error
        self._hashes.update(chunk)
        return chunk

    def truncated(self) -> HTTPException:
        """Return the refusal of a body that is cut off."""
        logger.info("Upload ended after %d of %s bytes", self._hashes.size, self._length)
        total = "" if self._length is None else f" of {self._length}"
        return errors.truncated(self._hashes.size, total)
