"""Files in a local folder."""

import contextlib
import errno
import functools
import logging
import os
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from pyramid.exceptions import ConfigurationError
from pyramid_storage.local import LocalFileStorage

from kinto_attachment.storage.contract import StorageError, StoredFile, delete_one_by_one
from kinto_attachment.storage.filesystem import (
    FileSystem,
    move_to_free_name,
    remove_or_log,
    removed_on_error,
)
from kinto_attachment.storage.folders import Folders
from kinto_attachment.storage.staging import StagingFolder


logger = logging.getLogger(__name__)


class LocalStorage(LocalFileStorage):
    """A folder of the server's file system.

    A file is staged in a hidden folder beside the stored ones, and published by an atomic rename,
    or link where the name may be taken: equal names at once never overwrite one another, and no
    reader ever sees half a file.
    """

    def __init__(
        self,
        base_path: str,
        base_url: str = "",
        fsync: bool = True,
        folders: Folders | None = None,
    ):
        super().__init__(base_path, base_url)
        self._folders = folders or Folders()
        self._file_system = FileSystem(base_path, fsync)
        self._staging = StagingFolder(base_path, self._file_system)

    def __str__(self) -> str:
        return f"folder {self.base_path}"

    def prepare(self) -> None:
        """Make the folder ready for writing, and clear what killed workers left in staging.

        :raises ConfigurationError: the folder cannot be written.
        """
        try:
            os.makedirs(self._staging.path, exist_ok=True)
            self.stage("writable", "").discard()
        except (OSError, StorageError) as error:
            raise ConfigurationError(
                f"kinto.attachment.base_path: {self.base_path} cannot be written ({error})"
            ) from error
        self._staging.clear_abandoned()

    def url(self, filename: str) -> str:
        """Return the location of a stored file: the base URL and its name."""
        return self.base_url + urllib.parse.quote(filename)

    def path(self, filename: str) -> str:
        """Return the absolute path of a stored file.

        :raises FileNotFoundError: the name could not be that of a stored file, as one with a
            hidden part or one outside of the folder.
        """
        return self._resolved(_checked(filename))

    def stage(self, name: str, mimetype: str, unique: bool = False) -> "LocalStagedFile":
        """Return a new staged file. (A file system keeps no mimetypes.)

        :raises StorageError: it cannot be written.
        """
        publish = self._publish_unique if unique else self._publish_free
        return self._staged(publish, name)

    def replace(self, name: str, mimetype: str) -> "LocalStagedFile":
        """Return a new staged file that takes this very name when it is published.

        :raises StorageError: it cannot be written, or the name could not be that of a file.
        """
        with _storage_errors():
            self.path(name)
        return self._staged(self._publish_over, name)

    def open(self, name: str) -> BinaryIO:
        """Return a stored file, opened for reading.

        :raises FileNotFoundError: there is none.
        """
        try:
            return open(self.path(name), "rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(str(error)) from error

    def exists(self, filename: str) -> bool:
        """Return whether there is a stored file of this name."""
        try:
            return os.path.isfile(self.path(filename))
        except FileNotFoundError:
            return False

    def delete(self, filename: str) -> bool:
        """Delete a stored file and return whether there was one."""
        with _storage_errors():
            try:
                os.remove(self.path(filename))
            except FileNotFoundError:
                return False
        return True

    def delete_many(self, names: Iterable[str]) -> dict[str, StorageError]:
        """Delete stored files, and return those that could not be deleted."""
        # Most are in the same few folders, and finding out where those really are takes long.
        resolved = functools.cache(self._resolved)

        def delete(name):
            with _storage_errors(), contextlib.suppress(FileNotFoundError):
                folder, _, base = _checked(name).rpartition("/")
                os.remove(os.path.join(resolved(folder), base))

        return delete_one_by_one(delete, names)

    def files(self) -> Iterator[StoredFile]:
        """Return all stored files: regular ones that are not hidden.

        :raises StorageError: a folder that may hold some cannot be read.
        """
        with _storage_errors():
            yield from files_in(self.base_path, self._folders)

    def incomplete_uploads(self) -> Iterator[StoredFile]:
        """Return what is staged: uploads that come in, or that ended without an end.

        :raises StorageError: the folder cannot be read.
        """
        with _storage_errors():
            yield from self._staging.files()

    def _staged(self, publish, name):
        """Return a new staged file.

        :param publish: gives the complete file at a path a name, and returns that name.
        """
        with _storage_errors():
            self._make_folder(self._staging.path)
            move = functools.partial(self._move, publish, name)
            path = self._staging.new_path()
            return LocalStagedFile(self.base_path, path, self._file_system, move)

    def _move(self, publish, name, staged_path):
        """Publish a complete staged file, also on another volume, and return its name."""
        folder = os.path.dirname(os.path.join(self.base_path, name))
        self._refuse_hidden(folder)
        self._make_folder(folder)
        try:
            return publish(staged_path, name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        with self._staging.copied(staged_path, folder) as copy:
            published = publish(copy, name)
        remove_or_log(staged_path)
        return published

    def _publish_free(self, source, name):
        """Give a file a free name like this one, and return that name."""
        for candidate in self._folders.candidate_keys(name):
            with contextlib.suppress(FileExistsError):
                move_to_free_name(source, os.path.join(self.base_path, candidate))
                self._sync_name(candidate)
                return candidate
        raise StorageError(f"Every name like {name} is taken")

    def _publish_unique(self, source, name):
        os.rename(source, os.path.join(self.base_path, name))
        self._sync_name(name)
        return name

    def _publish_over(self, source, name):
        path = os.path.join(self.base_path, name)
        os.replace(source, path)
        self._file_system.sync_folder(os.path.dirname(path))
        return name

    def _resolved(self, name):
        """Return the path of a file or a folder without symbolic links.

        :raises FileNotFoundError: it is outside of the storage, or in a hidden folder of it.
        """
        root = os.path.realpath(self.base_path)
        path = os.path.realpath(os.path.join(root, name))
        if os.path.commonpath([root, path]) != root or _is_hidden(path, root):
            raise FileNotFoundError(name)
        return path

    def _refuse_hidden(self, folder):
        """Refuse a folder that leads, through links, to where nothing is served from.

        :raises FileNotFoundError: it does.
        """
        if _is_hidden(os.path.realpath(folder), os.path.realpath(self.base_path)):
            raise FileNotFoundError(f"{folder} leads to a hidden folder")

    def _make_folder(self, folder):
        if os.path.isdir(folder):
            return
        parent = os.path.dirname(folder)
        self._make_folder(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        self._file_system.sync_folder(parent)

    def _sync_name(self, name):
        path = os.path.join(self.base_path, name)
        with removed_on_error(path):
            self._file_system.sync_folder(os.path.dirname(path))


class LocalStagedFile:
    """A file that is being written, locked as long as its writer lives.

    :param root: the folder of the storage.
    :param publish: gives the complete file at a path its name, and returns that name.
    :raises OSError: it cannot be made.
    """

    def __init__(
        self, root: str, path: str, file_system: FileSystem, publish: Callable[[str], str]
    ):
        self._root = root
        self._path = path
        self._file_system = file_system
        self._publish = publish
        self._is_published = False
        self._file = open(path, "xb")
        try:
            file_system.lock(self._file)
        except OSError:
            self.discard()
            raise

    def write(self, chunk: bytes) -> None:
        """Append these bytes.

        :raises StorageError: they cannot be written, as on a full disk.
        """
        with _storage_errors():
            self._file.write(chunk)

    def publish(self) -> str:
        """Return the name under which the file is stored now.

        :raises StorageError: it cannot be stored; the staged file is as it was.
        """
        with _storage_errors():
            self._file.flush()
            # An upload may take hours, and its age counts from now.
            os.utime(self._file.fileno())
            self._file_system.sync(self._file.fileno())
            name = self._publish(self._path)
            self._is_published = True
            with removed_on_error(os.path.join(self._root, name)):
                self._file.close()
            return name

    def discard(self) -> None:
        """Forget the file. Does nothing where it is published or discarded."""
        if self._is_published:
            return
        # Removed before it is closed: closing may fail (a full disk), and unlocks.
        remove_or_log(self._path)
        with contextlib.suppress(OSError):
            self._file.close()


def _is_hidden(path, root):
    """Return whether a path is inside of a folder, in a hidden part of it."""
    inside = os.path.join(root, "")
    return path.startswith(inside) and any(
        part.startswith(".") for part in path.removeprefix(inside).split("/")
    )


def _checked(name: str) -> str:
    """Return the name of a stored file.

    :raises FileNotFoundError: no stored file has such a name, as one with a hidden part.
    """
    if "\0" in name or any(not part or part.startswith(".") for part in name.split("/")):
        raise FileNotFoundError(name)
    return name


def files_in(root: str, folders: Folders) -> Iterator[StoredFile]:
    """Return the regular files in a folder and below, as they are read. (It may hold millions.)

    What may not be read and is none of the settings' folders, as what file systems and others keep
    for themselves, is logged and skipped.

    :raises OSError: another folder cannot be read.
    """
    prefixes = [""]
    while prefixes:
        prefix = prefixes.pop()
        with _foreign_skipped(prefix, folders), os.scandir(os.path.join(root, prefix)) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    prefixes.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    # One that is deleted meanwhile is no file any more.
                    with contextlib.suppress(FileNotFoundError):
                        stat = entry.stat()
                        yield StoredFile(name, stat.st_size, stat.st_mtime)


@contextlib.contextmanager
def _foreign_skipped(prefix, folders):
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        pass  # It went meanwhile.
    except PermissionError as error:
        if not prefix or folders.may_include(prefix[:-1]):
            raise
        logger.warning("%s is not listed: %s", prefix, error)


@contextlib.contextmanager
def _storage_errors() -> Any:
    try:
        yield
    except OSError as error:
        raise StorageError(str(error)) from error
