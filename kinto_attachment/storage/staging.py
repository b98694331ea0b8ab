"""The staged files of a local storage, and their hidden folder."""

import contextlib
import logging
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from typing import IO

from kinto_attachment.storage.contract import StagedFile, StoredFile
from kinto_attachment.storage.filesystem import (
    FileSystem,
    remove_or_log,
    removed_on_error,
    storage_errors,
)


logger = logging.getLogger(__name__)

STAGING_FOLDER = ".staging"
NOTE_ENDING = ".copy"
NOTE = re.compile(r"[0-9a-f]{32}\.copy")
MAX_NOTE_BYTES = 4096

ABANDONED_AFTER_SECONDS = 60
ABANDONED_WITHOUT_LOCKS_AFTER_SECONDS = 24 * 3600
"""How long a staged file is unchanged if nothing shows whether its writer lives."""

COPIED_CHUNK_BYTES = 1024**2


class StagingFolder:
    """The folder of staged files.

    If the stored file belongs on another volume, the staged file is copied to a hidden file there,
    and a note beside the staged file contains the folder of the copy.

    :ivar path: of the folder.
    """

    def __init__(self, root: str, file_system: FileSystem):
        self.path = os.path.join(root, STAGING_FOLDER)
        self._root = root
        self._file_system = file_system

    def new_path(self) -> str:
        """Return the path for a new staged file."""
        return os.path.join(self.path, uuid.uuid4().hex)

    def files(self) -> Iterator[StoredFile]:
        """Return the staged files, and their copies on other volumes.

        :raises OSError: the folder cannot be read.
        """
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                with _skipped_on_error(entry.path):
                    path = self._copy_of(entry.path) if _is_note(entry.name) else entry.path
                    found = os.lstat(path)
                    if stat.S_ISREG(found.st_mode) and not entry.name.startswith("."):
                        key = os.path.relpath(path, self._root)
                        yield StoredFile(key, found.st_size, found.st_mtime)

    def clear_abandoned(self) -> None:
        """Delete the staged files of writers that ended: their locks ended with them.

        What cannot be read, locked or removed, and what is not a file, is logged and stays.
        """
        with _skipped_on_error(self.path), os.scandir(self.path) as entries:
            for entry in entries:
                with _skipped_on_error(entry.path):
                    self._clear_if_abandoned(entry)

    @contextlib.contextmanager
    def copied(self, staged_path: str, folder: str) -> Iterator[str]:
        """Return the path of a hidden copy in a folder on another volume, to be moved.

        If the copy is still there, it is deleted at the end of the context.

        :raises OSError: it cannot be written.
        """
        note = staged_path + NOTE_ENDING
        copy = _copy_in(folder, staged_path)
        try:
            # First: the copy of a killed worker is found by its note, not in all folders.
            self._write_note(note, folder)
            with open(staged_path, "rb") as source, open(copy, "xb") as target:
                shutil.copyfileobj(source, target, COPIED_CHUNK_BYTES)
                target.flush()
                self._file_system.sync(target.fileno())
            yield copy
        finally:
            if remove_or_log(copy):
                remove_or_log(note)

    def _write_note(self, note: str, folder: str) -> None:
        with open(note, "xb") as file:
            file.write(os.fsencode(os.path.relpath(folder, self._root)))
            file.flush()
            self._file_system.sync(file.fileno())
        self._file_system.sync_folder(self.path)

    def _copy_of(self, note: str) -> str:
        """Return the path of the copy that a note refers to.

        :raises OSError: the note cannot be read.
        """
        with open(note, "rb", opener=_open_regular) as file:
            folder = file.read(MAX_NOTE_BYTES)
        if b"\0" in folder:
            raise FileNotFoundError(note)  # The power failed before it was on the disk.
        staged_path = note.removesuffix(NOTE_ENDING)
        return _copy_in(os.path.join(self._root, os.fsdecode(folder)), staged_path)

    def _clear_if_abandoned(self, entry: "os.DirEntry[str]") -> None:
        if not entry.is_file(follow_symlinks=False):
            logger.warning("%s is no staged file, and stays", entry.path)
            return
        if _is_note(entry.name) and os.path.exists(entry.path.removesuffix(NOTE_ENDING)):
            return  # It is deleted with its staged file.
        with (
            contextlib.suppress(BlockingIOError),
            open(entry, "r+b", buffering=0, opener=_open_regular) as file,
        ):
            if self._is_abandoned(file):
                self.remove(entry.path)
                logger.info("Deleted %s, which a worker left unfinished when it ended", entry.path)

    def _is_abandoned(self, file: IO[bytes]) -> bool:
        """Return whether the writer of a file has ended.

        :raises BlockingIOError: the writer lives.
        """
        age = time.time() - os.fstat(file.fileno()).st_mtime
        # A very young file may not be locked yet.
        return age > ABANDONED_AFTER_SECONDS and (
            self._file_system.lock(file) or age > ABANDONED_WITHOUT_LOCKS_AFTER_SECONDS
        )

    def remove(self, path: str) -> None:
        """Remove a staged file or a note, and a copy of it.

        :raises OSError: that failed.
        """
        note = path if _is_note(os.path.basename(path)) else path + NOTE_ENDING
        with contextlib.suppress(FileNotFoundError):
            copy = self._copy_of(note)
            with contextlib.suppress(FileNotFoundError):
                os.remove(copy)
            os.remove(note)
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


class LocalStagedFile(StagedFile):
    """A file that is being written, locked while its writer lives.

    :param root: the folder of the storage.
    :param publish: gives the complete file at a path its key, and returns that key.
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
        with storage_errors():
            self._file.write(chunk)

    def publish(self) -> str:
        with storage_errors():
            self._file.flush()
            # An upload may take hours, and the age of the file counts from its end.
            os.utime(self._file.fileno())
            self._file_system.sync(self._file.fileno())
            key = self._publish(self._path)
            self._is_published = True
            with removed_on_error(os.path.join(self._root, key)):
                self._file.close()
            return key

    def discard(self) -> None:
        if self._is_published:
            return
        # Removed before it is closed: closing may fail (a full disk), and unlocks.
        remove_or_log(self._path)
        with contextlib.suppress(OSError):
            self._file.close()


def _is_note(name: str) -> bool:
    return bool(NOTE.fullmatch(name))


def _copy_in(folder: str, staged_path: str) -> str:
    return os.path.join(folder, f"{STAGING_FOLDER}-{os.path.basename(staged_path)}")


def _open_regular(path: str, flags: int) -> int:
    """Return the descriptor of a file that was regular: follows no link, waits for no pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


@contextlib.contextmanager
def _skipped_on_error(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        pass  # Staged files vanish at any time.
    except OSError as error:
        logger.warning("%s is skipped: %s", path, error)
