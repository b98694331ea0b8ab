"""Files in a local folder."""

import contextlib
import errno
import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from pyramid.exceptions import ConfigurationError
from pyramid_storage.local import LocalFileStorage

from kinto_attachment.storage.contract import (
    ResumableFiles,
    StagedFile,
    Storage,
    StorageError,
    StoredFile,
)
from kinto_attachment.storage.filesystem import (
    FileSystem,
    move_to_free_name,
    remove_or_log,
    removed_on_error,
    storage_errors,
)
from kinto_attachment.storage.folders import Folders
from kinto_attachment.storage.partial import (
    UPLOADS_FOLDER,
    LocalPartialFile,
    fenced_off,
    partial_files,
)
from kinto_attachment.storage.ranges import part_of
from kinto_attachment.storage.small import SmallFile
from kinto_attachment.storage.staging import LocalStagedFile, StagingFolder


logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class LocalStorage(Storage, ResumableFiles, LocalFileStorage):
    """A folder of the server's file system.

    A file is staged in a hidden folder beside the stored ones, and published by an atomic rename,
    or by a link if its key may be taken: concurrent equal keys never overwrite one another, and
    no reader sees a part of a file. A small one has no name before (:meth:`FileSystem.create`).
    """

    def __init__(
        self,
        base_path: str,
        base_url: str = "",
        fsync: bool = True,
        folders: Folders | None = None,
    ):
        LocalFileStorage.__init__(self, base_path, base_url)
        self._folders = folders or Folders()
        self._file_system = FileSystem(base_path, fsync)
        self._staging = StagingFolder(base_path, self._file_system)

    def __str__(self) -> str:
        return f"folder {self.base_path}"

    def prepare(self) -> None:
        """Make the folder ready for writing, and delete what killed workers left in staging.

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

    def path(self, key: str) -> str:
        """Return the absolute path of a stored file.

        :raises FileNotFoundError: no stored file can have this key: a part of it is hidden, or it
            leads out of the folder.
        """
        return self._resolved(_checked(key))

    def stage(self, key: str, mimetype: str, unique: bool = False) -> StagedFile:
        """Return a staged file. (A file system stores no mimetypes.)"""
        if not unique:
            return self._staged(self._publish_free, key)
        stage = functools.partial(self._staged, self._publish_unique, key)
        return SmallFile(stage, functools.partial(self._create, key))

    def replace(self, key: str, mimetype: str) -> StagedFile:
        with storage_errors():
            self.path(key)
        return self._staged(self._publish_over, key)

    def open(self, key: str) -> BinaryIO:
        try:
            return open(self.path(key), "rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(str(error)) from error

    def open_range(self, key: str, first: int, length: int) -> BinaryIO:
        file = self.open(key)
        file.seek(first)
        return part_of(file, length, storage_errors)

    def exists(self, key: str) -> bool:
        try:
            return os.path.isfile(self.path(key))
        except FileNotFoundError:
            return False

    def delete(self, key: str) -> bool:
        with storage_errors():
            try:
                os.remove(self.path(key))
            except FileNotFoundError:
                return False
        return True

    def delete_many(self, keys: Iterable[str]) -> dict[str, StorageError]:
        # Most are in the same few folders, and resolving those takes long.
        resolved = functools.cache(self._resolved)
        failed = {}
        for key in keys:
            try:
                with storage_errors(), contextlib.suppress(FileNotFoundError):
                    folder, _, base = _checked(key).rpartition("/")
                    os.remove(os.path.join(resolved(folder), base))
            except StorageError as error:
                failed[key] = error
        return failed

    def files(self) -> Iterator[StoredFile]:
        """Return all stored files: regular ones that are not hidden."""
        with storage_errors():
            yield from files_in(self.base_path, self._folders)

    def incomplete_uploads(self) -> Iterator[StoredFile]:
        with storage_errors():
            yield from self._staging.files()
            yield from partial_files(self.base_path)

    def begin_partial(self, key: str, mimetype: str, unique: bool) -> None:
        """Return nothing, as the size of a partial file says all."""

    def partial_size(self, name: str, state: None) -> int:
        with storage_errors(), contextlib.suppress(FileNotFoundError):
            return os.path.getsize(self._partial_path(name))
        return 0

    def resume(
        self, name: str, state: None, generation: int, size: int | None = None
    ) -> LocalPartialFile:
        path = self._partial_path(name)
        with storage_errors():
            self._make_folder(os.path.dirname(path))
        publishing = self._free_key, self._publish_partial
        return LocalPartialFile(path, generation, size, self._file_system, *publishing)

    def discard_partial(
        self, name: str, state: None, generation: int, is_last: bool = False
    ) -> None:
        path = self._partial_path(name)
        with storage_errors(), fenced_off(path, self._file_system):
            self._staging.remove(path)

    def _partial_path(self, name: str) -> str:
        return os.path.join(self.base_path, UPLOADS_FOLDER, name)

    def _free_key(self, key: str) -> str:
        for candidate in self._folders.candidate_keys(key):
            if not os.path.lexists(os.path.join(self.base_path, candidate)):
                return candidate
        raise StorageError(f"Every name like {key} is taken")

    def _publish_partial(self, source: str, key: str) -> bool:
        if not os.path.exists(source):
            if not self.exists(key):
                raise FileNotFoundError(source)
            return True
        with contextlib.suppress(FileNotFoundError):
            # A worker was killed between the new name and the removal of the old one.
            if os.path.samefile(source, os.path.join(self.base_path, key)):
                os.remove(source)
                return True
        # The age of the stored file counts from here.
        os.utime(source)
        try:
            self._move(self._publish_exactly, key, source)
        except FileExistsError:
            return False
        return True

    def _publish_exactly(self, source: str, key: str) -> str:
        move_to_free_name(source, os.path.join(self.base_path, key))
        return self._synced(key)

    def _staged(self, publish: Callable[[str, str], str], key: str) -> LocalStagedFile:
        """Return a new staged file.

        :param publish: gives the complete file at a path a key, and returns that key.
        """
        move = functools.partial(self._move, publish, key)
        path = self._staging.new_path()
        with storage_errors():
            return self._in_folder(
                self._staging.path,
                lambda: LocalStagedFile(self.base_path, path, self._file_system, move),
            )

    def _create(self, key: str, content: bytes) -> str | None:
        """Store a small file under a free key, and return the key.

        ``None`` if that is not possible: the folder is missing, or the file system is full, or has
        no files without a name.
        """
        with contextlib.suppress(OSError):
            self._refuse_hidden(key)
            self._file_system.create(os.path.join(self.base_path, key), content)
            return self._synced(key)
        return None

    def _refuse_hidden(self, key: str) -> None:
        """Refuse a key in a folder that leads to a hidden one, which is not served.

        :raises FileNotFoundError: a link leads there.
        """
        folder = os.path.dirname(os.path.join(self.base_path, key))
        if "/" in key and _is_hidden(os.path.realpath(folder), os.path.realpath(self.base_path)):
            raise FileNotFoundError(f"{folder} leads to a hidden folder")

    def _move(self, publish: Callable[[str, str], str], key: str, staged_path: str) -> str:
        """Publish a complete staged file, also on another volume, and return its key."""
        self._refuse_hidden(key)
        folder = os.path.dirname(os.path.join(self.base_path, key))
        try:
            return self._in_folder(folder, lambda: publish(staged_path, key))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        with self._staging.copied(staged_path, folder) as copy:
            published = publish(copy, key)
        remove_or_log(staged_path)
        return published

    def _publish_free(self, source: str, key: str) -> str:
        for candidate in self._folders.candidate_keys(key):
            with contextlib.suppress(FileExistsError):
                return self._publish_exactly(source, candidate)
        raise StorageError(f"Every name like {key} is taken")

    def _publish_unique(self, source: str, key: str) -> str:
        os.rename(source, os.path.join(self.base_path, key))
        return self._synced(key)

    def _publish_over(self, source: str, key: str) -> str:
        path = os.path.join(self.base_path, key)
        os.replace(source, path)
        self._file_system.sync_folder(os.path.dirname(path))
        return key

    def _synced(self, key: str) -> str:
        path = os.path.join(self.base_path, key)
        with removed_on_error(path):
            self._file_system.sync_folder(os.path.dirname(path))
        return key

    def _resolved(self, key: str) -> str:
        """Return the path of a file or a folder without symbolic links.

        :raises FileNotFoundError: it is outside of the storage, or in a hidden folder of it.
        """
        root = os.path.realpath(self.base_path)
        path = os.path.realpath(os.path.join(root, key))
        if os.path.commonpath([root, path]) != root or _is_hidden(path, root):
            raise FileNotFoundError(key)
        return path

    def _in_folder(self, folder: str, action: Callable[[], Result]) -> Result:
        """Return the result of an action in a folder, which is made if it is missing."""
        try:
            return action()
        except FileNotFoundError:
            self._make_folder(folder)
            return action()

    def _make_folder(self, folder: str) -> None:
        if os.path.isdir(folder):
            return
        parent = os.path.dirname(folder)
        self._make_folder(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        self._file_system.sync_folder(parent)


def files_in(root: str, folders: Folders) -> Iterator[StoredFile]:
    """Return the regular files in a folder and below, while they are read.

    A folder that cannot be read and that no setting names, such as one of the file system itself,
    is logged and skipped.

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
                    # It may be deleted concurrently.
                    with contextlib.suppress(FileNotFoundError):
                        stat = entry.stat()
                        yield StoredFile(name, stat.st_size, stat.st_mtime)


@contextlib.contextmanager
def _foreign_skipped(prefix: str, folders: Folders) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        pass  # It was deleted concurrently.
    except PermissionError as error:
        if not prefix or folders.may_include(prefix[:-1]):
            raise
        logger.warning("%s is not listed: %s", prefix, error)


def _is_hidden(path: str, root: str) -> bool:
    """Return whether a path is in a folder, in a hidden part of it."""
    inside = os.path.join(root, "")
    return path.startswith(inside) and any(
        part.startswith(".") for part in path.removeprefix(inside).split("/")
    )


def _checked(key: str) -> str:
    """Return a key.

    :raises FileNotFoundError: no stored file can have it, for example because a part is hidden.
    """
    if "\0" in key or any(not part or part.startswith(".") for part in key.split("/")):
        raise FileNotFoundError(key)
    return key
