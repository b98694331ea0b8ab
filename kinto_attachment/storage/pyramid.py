"""Files in any other backend of pyramid_storage, staged in a temporary file."""

import contextlib
import io
import os
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from kinto_attachment.storage.contract import StorageError, StoredFile, delete_one_by_one
from kinto_attachment.storage.folders import Folders
from kinto_attachment.storage.local import files_in
from kinto_attachment.storage.names import REMOTE_NUMBERED_IN_ORDER, candidate_keys


IN_MEMORY_BYTES = 1024**2
"""Up to which size a staged file needs no disk."""


class PyramidStorage:
    """A backend that knows how to save a whole file (``IFileStorage`` of pyramid_storage).

    To open and to list files is no part of that interface: it is possible where the backend has
    the methods ``open`` and ``files``, or ``path`` as the local one.

    :ivar backend: what the module of ``kinto.attachment.backend`` has registered.
    """

    def __init__(self, backend: Any, base_url: str = "", folders: Folders | None = None):
        self.backend = backend
        self._folders = folders or Folders()
        self.base_url = base_url or getattr(backend, "base_url", "") or ""
        self._has_own_base_url = bool(base_url)

    def __str__(self) -> str:
        return f"{type(self.backend).__module__}.{type(self.backend).__qualname__}"

    def url(self, filename: str) -> str:
        """Return the location of a stored file: the base URL and its name, or the backend's."""
        if self._has_own_base_url:
            return self.base_url + urllib.parse.quote(filename)
        return self.backend.url(filename)

    def stage(self, name: str, mimetype: str, unique: bool = False) -> "SpooledFile":
        """Return a new staged file."""
        find = candidate_keys if unique else self._folders.candidate_keys
        names = find(name, REMOTE_NUMBERED_IN_ORDER)
        return SpooledFile(self.backend, name, mimetype, names, unique)

    def replace(self, name: str, mimetype: str) -> "SpooledFile":
        """Return a new staged file that takes this very name when it is published.

        (What had it is deleted before: no backend has another way.)
        """
        return SpooledFile(self.backend, name, mimetype, iter(()), unique=True, replace=True)

    def open(self, name: str) -> BinaryIO:
        """Return a stored file, opened for reading.

        :raises FileNotFoundError: there is none.
        :raises io.UnsupportedOperation: the backend does not tell how to.
        """
        if hasattr(self.backend, "open"):
            return self.backend.open(name)
        return open(self._path(name), "rb")

    def exists(self, filename: str) -> bool:
        """Return whether there is a stored file of this name."""
        with _storage_errors():
            return bool(self.backend.exists(filename))

    def delete(self, filename: str) -> bool:
        """Delete a stored file and return whether there was one."""
        existed = self.exists(filename)
        if existed:
            with _storage_errors():
                self.backend.delete(filename)
        return existed

    def delete_many(self, names: Iterable[str]) -> dict[str, StorageError]:
        """Delete stored files, and return those that could not be deleted."""
        return delete_one_by_one(self.delete, names)

    def files(self) -> Iterator[StoredFile]:
        """Return all stored files.

        :raises io.UnsupportedOperation: the backend does not tell how to.
        """
        if hasattr(self.backend, "files"):
            # What its dates mean, nobody knows.
            return (
                StoredFile(file.key, file.size, file.modified, is_dated=False)
                for file in self.backend.files()
            )
        return files_in(self._path(""), self._folders)

    def incomplete_uploads(self) -> Iterator[StoredFile]:
        """Return nothing: a temporary file goes with its process."""
        return iter(())

    def _path(self, name):
        if not hasattr(self.backend, "path"):
            raise io.UnsupportedOperation(f"{self} has no path of a file")
        return self.backend.path(name)


class SpooledFile:
    """A file that is being written, in memory while it is small, and then on the local disk.

    :param names: those to try until a free one is found.
    :param unique: whether nobody else asks for the name.
    """

    def __init__(
        self,
        backend: Any,
        name: str,
        mimetype: str,
        names: Iterator[str],
        unique: bool,
        replace: bool = False,
    ):
        self._backend = backend
        self._name = name
        self._mimetype = mimetype
        self._names = names
        self._unique = unique
        self._replace = replace
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115

    def write(self, chunk: bytes) -> None:
        """Append these bytes.

        :raises StorageError: they cannot be written, as on a full disk.
        """
        with _storage_errors():
            self._file.write(chunk)

    def publish(self) -> str:
        """Return the name under which the backend has stored the file.

        :raises StorageError: it could not.
        """
        with _storage_errors():
            name = self._save_over() if self._replace else self._save(self._free_name())
            self._file.close()
            return name

    def _save_over(self):
        if self._backend.exists(self._name):
            self._backend.delete(self._name)
        name = self._save(self._name)
        if name != self._name:
            self._backend.delete(name)
            raise StorageError(f"{self._name} would become {name}")
        return name

    def _free_name(self):
        # Where a name is taken, one backend finds another, one overwrites, and one saves nothing.
        for name in self._names:
            if not self._backend.exists(name):
                return name
        raise StorageError(f"Every name like {self._name} is taken")

    def _save(self, name):
        try:
            return self._save_file(name)
        except Exception:
            # A part of it may be there. Another's name, which may be his by now, is left alone.
            if self._unique:
                with contextlib.suppress(Exception):
                    self._backend.delete(name)
            raise

    def _save_file(self, name):
        folder, basename = os.path.split(name)
        # The settings have allowed the extension. Backends differ in what `()` or `None` allows.
        extension = os.path.splitext(basename)[1][1:].lower()
        return self._backend.save_file(
            self._file,
            basename,
            folder=folder,
            extensions=(extension,),
            headers={"Content-Type": self._mimetype},
        )

    def discard(self) -> None:
        """Forget the file. Does nothing where it is published or discarded."""
        self._file.close()


@contextlib.contextmanager
def _storage_errors() -> Any:
    # Backends raise what their client libraries do, or RuntimeError (pyramid_storage.gcloud).
    try:
        yield
    except Exception as error:
        raise StorageError(f"{type(error).__name__}: {error}") from error
