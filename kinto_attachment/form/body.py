"""The body of a request: bytes that are counted and hashed while they are read."""

import logging
from collections.abc import Callable, Iterator

from pyramid.httpexceptions import HTTPException

from kinto_attachment import errors
from kinto_attachment.form.digests import Hashes


logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024


class Body:
    """The bytes of a request, counted to tell a body that is cut off from a malformed one.

    :ivar ended: whether there was nothing to read although more was expected.
    :ivar form_has_begun: whether a part has been seen.
    """

    def __init__(self, read: Callable[[int], bytes], length: int | None, hashes: Hashes) -> None:
        self._read = read
        self._length = length
        self._hashes = hashes
        self.ended = False
        self.form_has_begun = False

    def chunks(self) -> Iterator[bytes]:
        """Yield all bytes.

        The first chunk is a full one: what the parser makes of a preamble depends on where it is
        cut.

        :raises HTTPException: the client is gone, or no part begins in the first chunk.
        """
        first = bytearray()
        while chunk := self._some(CHUNK_BYTES - len(first)):
            first += chunk
        chunk = bytes(first)
        while chunk:
            yield chunk
            chunk = self._some(CHUNK_BYTES)
            if chunk and not self.form_has_begun:
                raise errors.form_too_large(f"no part begins in its first {CHUNK_BYTES} bytes")
        self.ended = self._hashes.size != self._length

    def _some(self, size: int) -> bytes:
        """Return some of the next bytes, none at the end."""
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
