"""The file of a form: staged while it comes, and compressed on the way if configured."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from kinto_attachment import errors
from kinto_attachment.form.digests import Digest, Hashes
from kinto_attachment.form.gzip import GZIP_EXTENSION, GZIP_MIMETYPE, GzipWriter


HASH = "sha-256"


class StagedFile(Protocol):
    """Where the bytes of a file go (see :mod:`kinto_attachment.storage.contract`)."""

    def write(self, chunk: bytes) -> object: ...

    def publish(self) -> str: ...

    def discard(self) -> None: ...


@dataclass
class Description:
    """What a record says about a file.

    :ivar size: in bytes.
    :ivar hash: SHA-256 of the bytes, lower-case hexadecimal.
    """

    filename: str
    hash: str
    mimetype: str
    size: int


@dataclass
class Upload:
    """A file that has been received.

    :ivar description: of what is staged.
    :ivar original: of what was sent, if it is not what is staged.
    """

    description: Description
    original: Description | None
    staged: StagedFile


class FilePart:
    """A file that is being received."""

    def __init__(
        self,
        filename: str,
        mimetype: str,
        staged: StagedFile,
        max_bytes: int,
        digests: Iterable[Digest],
        gzip_level: int | None,
    ) -> None:
        self._filename = filename
        self._mimetype = mimetype
        self._staged = staged
        self._max_bytes = max_bytes
        self._sent = Hashes(digests, [HASH])
        self._compressed = Hashes(algorithms=[HASH])
        self._gzip = None
        if gzip_level is not None:
            self._gzip = GzipWriter(self._write_compressed, gzip_level)

    def write(self, chunk: bytes) -> None:
        self._sent.update(chunk)
        if 0 < self._max_bytes < self._sent.size:
            raise errors.file_too_large(self._sent.size, self._max_bytes)
        (self._gzip or self._staged).write(chunk)

    def end(self) -> None:
        self._sent.verify()
        if self._gzip is not None:
            self._gzip.close()

    def discard(self) -> None:
        if self._gzip is not None:
            self._gzip.abort()
        self._staged.discard()

    @property
    def upload(self) -> Upload:
        sent = _description(self._filename, self._mimetype, self._sent)
        if self._gzip is None:
            return Upload(sent, None, self._staged)
        filename = self._filename + GZIP_EXTENSION
        return Upload(_description(filename, GZIP_MIMETYPE, self._compressed), sent, self._staged)

    def _write_compressed(self, chunk: bytes) -> None:
        self._compressed.update(chunk)
        self._staged.write(chunk)


def _description(filename: str, mimetype: str, hashes: Hashes) -> Description:
    return Description(filename, hashes.hexdigest(HASH), mimetype, hashes.size)
