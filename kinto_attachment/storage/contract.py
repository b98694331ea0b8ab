"""The contract of an attachment storage: what a storage and a staged file can do.

A key is the name of a file in the storage: relative, with slashes. What a storage cannot do,
because it is full or out of reach for example, raises a :class:`StorageError`.
"""

import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, runtime_checkable


class StorageError(Exception):
    """The storage failed, and the request is not the cause."""


class Superseded(Exception):
    """Another request has taken over the file."""


@dataclass(frozen=True)
class StoredFile:
    """A file as a storage lists it.

    :ivar size: in bytes, ``None`` if the storage does not report it.
    :ivar modified: when it was written, in seconds since 1970.
    :ivar is_dated: whether it is known that it was not published after ``modified``.
    """

    key: str
    size: int | None
    modified: float
    is_dated: bool = True


class StagedFile(Protocol):
    """A file that is being written, and cannot be fetched until it is published."""

    def write(self, chunk: bytes, /) -> None:
        """Append bytes."""

    def publish(self) -> str:
        """Make it a stored file, and return its key."""
        ...

    def discard(self) -> None:
        """Discard it. Does nothing after :meth:`publish` or a first :meth:`discard`."""


class Storage(Protocol):
    """Where the files of attachments are stored. ``str()`` is its name for administrators.

    :ivar base_url: the URL of the folder of all files, or ``""``.
    """

    base_url: str

    def stage(self, key: str, mimetype: str, unique: bool = False) -> StagedFile:
        """Return a staged file whose ``publish()`` takes a free key like the given one.

        :param unique: no other upload has this key: it is free.
        """
        ...

    def replace(self, key: str, mimetype: str) -> StagedFile:
        """Return a staged file whose ``publish()`` takes this key, and replaces what has it."""
        ...

    def open(self, key: str, /) -> BinaryIO:
        """Return a stored file, opened for reading.

        :raises FileNotFoundError: there is none.
        :raises io.UnsupportedOperation: the storage cannot read files.
        """
        ...

    def open_range(self, key: str, first: int, length: int, /) -> BinaryIO:
        """Return some bytes of a stored file, without reading what is before them.

        They end where the file does. A read that the storage fails raises a :class:`StorageError`.

        :param first: the position of the first of them.
        :raises FileNotFoundError: there is no such file.
        :raises io.UnsupportedOperation: the storage cannot read files.
        """
        ...

    def exists(self, key: str, /) -> bool:
        """Return whether a stored file has this key."""
        ...

    def delete(self, key: str, /) -> bool:
        """Delete a stored file, and return whether there was one."""
        ...

    def delete_many(self, keys: Iterable[str], /) -> dict[str, StorageError]:
        """Delete stored files, if they exist, and return those that could not be deleted."""
        failed = {}
        for key in keys:
            try:
                self.delete(key)
            except StorageError as error:
                failed[key] = error
        return failed

    def files(self) -> Iterator[StoredFile]:
        """Return all stored files, in no order, while they are read.

        :raises io.UnsupportedOperation: the storage cannot list files.
        """
        ...

    def incomplete_uploads(self) -> Iterator[StoredFile]:
        """Return all staged files, also those of other processes, while they are read."""
        ...

    def url(self, key: str, /) -> str:
        """Return the location of a stored file: the base URL and the percent-encoded key."""
        return self.base_url + urllib.parse.quote(key)


@runtime_checkable
class LocalFiles(Protocol):
    """A storage in a folder of this host.

    Any other may take long to answer: no database connection should wait for it.
    """

    def path(self, key: str, /) -> str:
        """Return the absolute path of a stored file.

        :raises FileNotFoundError: no stored file can have this key.
        """
        ...


@runtime_checkable
class PresignedFiles(Protocol):
    """A storage with URLs of its own that need no credentials, and end."""

    def bucket_url(self) -> str:
        """Return what they begin with."""
        ...

    def presigned_url(self, key: str, since: int, expires: int, headers: dict[str, str], /) -> str:
        """Return a URL of a stored file, the same one for the same arguments. Nothing is sent.

        :param since: when it begins to be valid, in seconds since 1970, not in the future.
        :param expires: when it ends.
        :param headers: those of the response, lower-case: ``content-disposition``,
            ``content-type``, ``cache-control``.
        :raises StorageError: there are no credentials to sign it with.
        """
        ...


class PartialFile(Protocol):
    """A file that comes in pieces, as the request writes it that has taken it over.

    It outlives the request and the process. What another one has taken over since raises
    :class:`Superseded`.

    :ivar size: how many bytes it has.
    :ivar state: JSON that the storage needs to go on from here, see :class:`ResumableFiles`.
    """

    size: int
    state: Any

    def write(self, chunk: bytes, /) -> None:
        """Append bytes."""

    def flush(self) -> None:
        """Make all bytes survive this process. The state changes with it."""

    def rewind(self, size: int, state: Any, /) -> None:
        """Drop all bytes after these, unless the state refers to them.

        :param state: the one that a request would go on from, ``None`` if none may.
        """

    def open(self) -> BinaryIO:
        """Return the whole file, opened for reading, to which nothing is appended any more."""
        ...

    def sha256(self) -> str | None:
        """Return the SHA-256 in hexadecimal, ``None`` if all bytes have to be read for that."""
        return None

    def free_key(self, key: str, /) -> str:
        """Return a key like this one that it can be published under."""
        ...

    def publish(self, key: str, /) -> bool:
        """Return whether it is the stored file of this key now, or was before; else it is taken."""
        ...

    def close(self) -> None:
        """Free what it takes in this process. After that, nothing of it arrives any more."""


@runtime_checkable
class ResumableFiles(Protocol):
    """What a storage needs beside :class:`Storage` to take files in pieces.

    A partial file has a name of its own, and a state, which is kept elsewhere for the storage.
    """

    def begin_partial(self, key: str, mimetype: str, unique: bool, /) -> Any:
        """Return the state of a file without bytes, to be published under a key like this one.

        If that has a ``target``, the file may get that key before it is published.

        :param unique: no other upload has this key: it is free.
        """
        ...

    def partial_size(self, name: str, state: Any, /) -> int:
        """Return how many bytes a partial file has."""
        ...

    def resume(
        self, name: str, state: Any, generation: int, size: int | None = None, /
    ) -> PartialFile:
        """Return a partial file, and take it over from other generations.

        :raises Superseded: its size is another than this one.
        """
        ...

    def discard_partial(
        self, name: str, state: Any, generation: int, /, is_last: bool = False
    ) -> None:
        """Delete what is left of a partial file, published or not, but for a stored file.

        :param state: that of a file without bytes if it was not saved.
        :param generation: the last one.
        :param is_last: whether what no state refers to is looked for as well.
        """
