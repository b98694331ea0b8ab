"""The file of a form: staged while it comes, and compressed on the way if configured."""

from dataclasses import dataclass
from typing import Any, Protocol

from kinto_attachment import errors
from kinto_attachment.form.digests import Hashes
from kinto_attachment.form.gzip import GZIP_MIMETYPE, GzipWriter
from kinto_attachment.settings.values import GZIP_EXTENSION


HASH = "sha-256"


class Sink(Protocol):
    """Where the bytes of a file go."""

    def write(self, chunk: bytes) -> object: ...

    def discard(self) -> None: ...


class StagedFile(Sink, Protocol):
    """A sink that can be published (see :mod:`kinto_attachment.storage.contract`)."""

    def publish(self) -> str: ...


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
    staged: Sink

    def attachment(self, location: str) -> dict[str, Any]:
        """Return what its record says about it.

        :param location: the URL of the stored file.
        """
        original = {} if self.original is None else {"original": vars(self.original)}
        return {**vars(self.description), "location": location, **original}


@dataclass
class FilePart:
    """A file that is being received.

    :ivar max_bytes: 0 for a file of any size.
    :ivar gzip_level: ``None`` to not compress it.
    :ivar sent: the hashes of what is received.
    """

    filename: str
    mimetype: str
    staged: Sink
    max_bytes: int
    gzip_level: int | None
    sent: Hashes

    def __post_init__(self) -> None:
        self._gzip = None
        if self.gzip_level is not None:
            self._compressed = Hashes(algorithms=[HASH])
            self._gzip = GzipWriter(self._write_compressed, self.gzip_level)

    def write(self, chunk: bytes) -> None:
        self.sent.update(chunk)
        if 0 < self.max_bytes < self.sent.size:
            raise errors.file_too_large(self.sent.size, self.max_bytes)
        (self._gzip or self.staged).write(chunk)

    def end(self) -> None:
        self.sent.verify()
        if self._gzip is not None:
            self._gzip.close()

    def discard(self) -> None:
        if self._gzip is not None:
            self._gzip.abort()
        self.staged.discard()

    @property
    def upload(self) -> Upload:
        sent = _description(self.filename, self.mimetype, self.sent)
        if self._gzip is None:
            return Upload(sent, None, self.staged)
        filename = self.filename + GZIP_EXTENSION
        return Upload(_description(filename, GZIP_MIMETYPE, self._compressed), sent, self.staged)

    def _write_compressed(self, chunk: bytes) -> None:
        self._compressed.update(chunk)
        self.staged.write(chunk)


def _description(filename: str, mimetype: str, hashes: Hashes) -> Description:
    return Description(filename, hashes.hexdigest(HASH), mimetype, hashes.size)
