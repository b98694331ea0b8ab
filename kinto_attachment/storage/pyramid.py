"""Files in any other backend of pyramid_storage, staged in a temporary file."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from kinto_attachment.storage.contract import StagedFile, Storage, StorageError, StoredFile
from kinto_attachment.storage.folders import Folders
from kinto_attachment.storage.local import files_in
from kinto_attachment.storage.names import REMOTE_NUMBERED_IN_ORDER, candidate_keys
from kinto_attachment.storage.ranges import part_of, skip


IN_MEMORY_BYTES = 1024**2
"""Up to which size a staged file needs no disk."""


class PyramidStorage(Storage):
    """A backend that can save a whole file (``IFileStorage`` of pyramid_storage).

    That interface cannot open and list files: this is possible if the backend has the methods
    ``open`` and ``files``, or ``path`` like the local one.

    :ivar backend: what the module of ``kinto.attachment.backend`` has registered.
    """

    def __init__(self, backend: Any, base_url: str = "", folders: Folders | None = None):
        self.backend = backend
        self._folders = folders or Folders()
        self.base_url = base_url or getattr(backend, "base_url", "") or ""
        self._has_own_base_url = bool(base_url)

    def __str__(self) -> str:
        return f"{type(self.backend).__module__}.{type(self.backend).__qualname__}"

    def url(self, key: str) -> str:
        return super().url(key) if self._has_own_base_url else self.backend.url(key)

    def stage(self, key: str, mimetype: str, unique: bool = False) -> "SpooledFile":
        find = candidate_keys if unique else self._folders.candidate_keys
        keys = find(key, REMOTE_NUMBERED_IN_ORDER)
        return SpooledFile(self.backend, key, mimetype, keys, unique)

    def replace(self, key: str, mimetype: str) -> "SpooledFile":
        """Return a staged file that replaces what has its key.

        (By deleting that first: no backend has another way.)
        """
        return SpooledFile(self.backend, key, mimetype, iter(()), unique=True, replace=True)

    def open(self, key: str) -> BinaryIO:
        if hasattr(self.backend, "open"):
            return self.backend.open(key)
        return open(self._path(key), "rb")

    def open_range(self, key: str, first: int, length: int) -> BinaryIO:
        """Return some bytes of a stored file. What is before them is read if it cannot be skipped.

        (A backend may have a method ``open_range`` of its own.)
        """
        if hasattr(self.backend, "open_range"):
            return self.backend.open_range(key, first, length)
        stream = self.open(key)
        with _storage_errors():
            skip(stream, first)
        return part_of(stream, length, _storage_errors)

    def exists(self, key: str) -> bool:
        with _storage_errors():
            return bool(self.backend.exists(key))

    def delete(self, key: str) -> bool:
        existed = self.exists(key)
        if existed:
            with _storage_errors():
                self.backend.delete(key)
        return existed

    def files(self) -> Iterator[StoredFile]:
        if hasattr(self.backend, "files"):
            # The meaning of its dates is unknown.
            return (
                StoredFile(file.key, file.size, file.modified, is_dated=False)
                for file in self.backend.files()
            )
        return files_in(self._path(""), self._folders)

    def incomplete_uploads(self) -> Iterator[StoredFile]:
        """Return nothing: a temporary file vanishes with its process."""
        return iter(())

    def _path(self, key: str) -> str:
        if not hasattr(self.backend, "path"):
            raise io.UnsupportedOperation(f"{self} has no path of a file")
        return self.backend.path(key)


class SpooledFile(StagedFile):
    """A file that is being written, in memory while it is small, and then on the local disk.

    :param keys: the keys to try until a free one is found.
    :param unique: whether no other upload has the key.
    """

    def __init__(
        self,
        backend: Any,
        key: str,
        mimetype: str,
        keys: Iterator[str],
        unique: bool,
        replace: bool = False,
    ):
        self._backend = backend
        self._key = key
        self._mimetype = mimetype
        self._keys = keys
        self._unique = unique
        self._replace = replace
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)

    def write(self, chunk: bytes) -> None:
        with _storage_errors():
            self._file.write(chunk)

    def publish(self) -> str:
        with _storage_errors():
            key = self._save_over() if self._replace else self._save(self._free_key())
            self._file.close()
            return key

    def discard(self) -> None:
        self._file.close()

    def _save_over(self) -> str:
        if self._backend.exists(self._key):
            self._backend.delete(self._key)
        key = self._save(self._key)
        if key != self._key:
            self._backend.delete(key)
            raise StorageError(f"{self._key} would become {key}")
        return key

    def _free_key(self) -> str:
        # If a name is taken, one backend takes another, one overwrites, and one saves nothing.
        for key in self._keys:
            if not self._backend.exists(key):
                return key
        raise StorageError(f"Every name like {self._key} is taken")

    def _save(self, key: str) -> str:
        folder, basename = os.path.split(key)
        # The settings have allowed the extension. Backends differ in what `()` or `None` allows.
        extension = os.path.splitext(basename)[1][1:].lower()
        try:
            return self._backend.save_file(
                self._file,
                basename,
                folder=folder,
                extensions=(extension,),
                headers={"Content-Type": self._mimetype},
            )
        except Exception:
            # A part may be stored. If another upload may have the key by now, it is left alone.
            if self._unique:
                with contextlib.suppress(Exception):
                    self._backend.delete(key)
            raise


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    # Backends raise the errors of their client libraries, or RuntimeError (pyramid_storage.gcloud).
    try:
        yield
    except Exception as error:
        raise StorageError(f"{type(error).__name__}: {error}") from error
