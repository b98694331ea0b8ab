"""The bytes that a request appends to a resumable upload."""

from collections.abc import Iterator
from typing import Any

from kinto_attachment import errors
from kinto_attachment.form.body import CHUNK_BYTES
from kinto_attachment.http import bodies, tus
from kinto_attachment.resumable.upload import Upload


CHUNK_TYPE = "application/offset+octet-stream"


class Chunk:
    """The body of a request, of which nothing is read yet.

    :ivar offset: where the upload has to end so far.
    :ivar hashes: of what is read, with the digests that were sent.
    :ivar length: in bytes, ``None`` if the server marks the end.
    :raises HTTPException: it cannot be read.
    """

    def __init__(self, request: Any, offset: int):
        bodies.refuse_unreadable(request)
        self.offset = offset
        self.hashes = tus.hashes(request)
        self.length = bodies.content_length(request)
        self._read = request.environ["wsgi.input"].read

    @property
    def verified(self) -> int | None:
        """Where the bytes begin that do not count before they are verified, if they are to be."""
        return self.offset if self.hashes.is_compared else None

    def check(self, upload: Upload, max_size: int) -> None:
        """Refuse a chunk that does not fit.

        :param max_size: of a file, 0 for any.
        :raises HTTPRequestEntityTooLarge: the upload would be larger than it may be.
        """
        self._refuse_end(upload, max_size, self.offset + (self.length or 0))

    def pieces(self, upload: Upload, max_size: int) -> Iterator[bytes]:
        """Yield all bytes.

        :raises HTTPException: there are too many, or the client is gone before it has sent all.
        """
        received = 0
        while self.length is None or received < self.length:
            size = CHUNK_BYTES if self.length is None else self.length - received
            try:
                piece = self._read(min(size, CHUNK_BYTES))
            except Exception as error:
                # Each server raises other exceptions when the client goes away.
                raise errors.chunk_cut_off(received, self.length) from error
            if not piece:
                break
            received += len(piece)
            self._refuse_end(upload, max_size, self.offset + received)
            yield piece
        if self.length is not None and received < self.length:
            raise errors.chunk_cut_off(received, self.length)

    def _refuse_end(self, upload: Upload, max_size: int, end: int) -> None:
        if upload.length is None:
            refuse_too_long(end, max_size)
        elif end > upload.length:
            raise errors.longer_than_declared(upload.length)


def check_type(request: Any) -> None:
    """:raises HTTPUnsupportedMediaType: the body of a request is no chunk."""
    if request.content_type.lower() != CHUNK_TYPE:
        raise errors.not_a_chunk()


def refuse_too_long(size: int, max_size: int) -> None:
    """:raises HTTPRequestEntityTooLarge: a file is larger than it may be."""
    if 0 < max_size < size:
        raise errors.file_too_large(size, max_size)
