"""The contract of an attachment storage: what a storage and a staged file can do.

A key is the name of a file in the storage: relative, with slashes. Every storage is a utility
``IFileStorage`` of pyramid_storage with the methods below.
"""

import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, runtime_checkable


class StorageError(Exception):
    """The storage failed, and the request is not the cause."""


@dataclass(frozen=True)
class StoredFile:
    """A file as a storage lists it.

    :ivar size: in bytes, ``None`` if the storage does not report it.
    :ivar modified: when it was written, in seconds since 1970.
    :ivar is_dated: whether ``modified`` is known not to precede its publication.
    """

    key: str
    size: int | None
    modified: float
    is_dated: bool = True


class StagedFile(Protocol):
    """A file that is being written, invisible and not fetchable until it is published."""

    def write(self, chunk: bytes, /) -> None:
        """Append bytes.

        :raises StorageError: the storage does not accept them.
        """

    def publish(self) -> str:
        """Make it a stored file, and return its key.

        :raises StorageError: it cannot be stored.
        """
        ...

    def discard(self) -> None:
        """Discard it. Does nothing after :meth:`publish` or a first :meth:`discard`."""


class Storage(Protocol):
    """Where the files of attachments are stored.

    :ivar base_url: what :meth:`url` puts before a key, or ``""``.

    ``str()`` of a storage is its name for administrators.
    """

    base_url: str

    def stage(self, key: str, mimetype: str, unique: bool = False) -> StagedFile:
        """Return a staged file whose ``publish()`` takes a free key like the given one.

        :param unique: no other upload ever has this key, so that it is free.
        :raises StorageError: it cannot be written.
        """
        ...

    def replace(self, key: str, mimetype: str) -> StagedFile:
        """Return a staged file whose ``publish()`` takes this key, and replaces what has it.

        :raises StorageError: it cannot be written, or no stored file can have this key.
        """
        ...

    def open(self, key: str, /) -> BinaryIO:
        """Return a stored file, opened for reading.

        :raises FileNotFoundError: there is none.
        :raises StorageError: it cannot be read.
        :raises io.UnsupportedOperation: the storage cannot read files.
        """
        ...

    def exists(self, key: str, /) -> bool:
        """Return whether a stored file has this key.

        :raises StorageError: the storage does not answer that.
        """
        ...

    def delete(self, key: str, /) -> bool:
        """Delete a stored file, and return whether there was one.

        :raises StorageError: it cannot be deleted.
        """
        ...

    def delete_many(self, keys: Iterable[str], /) -> dict[str, StorageError]:
        """Delete stored files, and return those that could not be deleted.

        A file that does not exist is no failure.
        """
        ...

    def files(self) -> Iterator[StoredFile]:
        """Return all stored files, in no order, while they are read.

        :raises StorageError: they cannot be listed.
        :raises io.UnsupportedOperation: the storage cannot list files.
        """
        ...

    def incomplete_uploads(self) -> Iterator[StoredFile]:
        """Return all staged files, those of other processes included, while they are read.

        :raises StorageError: they cannot be listed.
        """
        ...

    def url(self, key: str, /) -> str:
        """Return the location of a stored file: the base URL and the percent-encoded key."""
        return self.base_url + urllib.parse.quote(key)


@runtime_checkable
class LocalFiles(Protocol):
    """A storage in a folder of this host. Any other may take long to answer.

    While one of those is called, no database connection should be in use.
    """

    def path(self, key: str, /) -> str:
        """Return the absolute path of a stored file.

        :raises FileNotFoundError: no stored file can have this key.
        """
        ...


def delete_one_by_one(delete: Callable[[str], Any], keys: Iterable[str]) -> dict[str, StorageError]:
    """Delete stored files, and return those that could not be deleted."""
    failed = {}
    for key in keys:
        try:
            delete(key)
        except StorageError as error:
            failed[key] = error
    return failed
