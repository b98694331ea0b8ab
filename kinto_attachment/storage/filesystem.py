"""What file systems differ in: locks, ``fsync``, hard links, moves from one to another."""

import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any


logger = logging.getLogger(__name__)

KERNEL_ENOTSUPP = 524
"""Linux's own ENOTSUPP, which some network file systems let through (``linux/errno.h``)."""

UNSUPPORTED = {
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    KERNEL_ENOTSUPP,
}
"""What says that the file system cannot do something, and not that it has failed."""

NO_LOCKS = UNSUPPORTED | {errno.ENOLCK}

NO_FOLDER_SYNC = UNSUPPORTED | {errno.EBADF, errno.EISDIR, errno.EACCES}
"""The last two where a folder cannot be opened, or may be written but not read."""

NO_HARD_LINKS = {errno.EPERM, errno.EMLINK} | UNSUPPORTED - {errno.EINVAL}
"""What ``link`` says on file systems like FAT or some network ones."""


class FileSystem:
    """The file system of a folder, as far as it goes: what it lacks is logged once, and left out.

    :param fsync: whether files and names have to be on the disk.
    """

    def __init__(self, folder: str, fsync: bool = True):
        self._folder = folder
        self._fsync = fsync
        self._missing: set[str] = set()
        self._mutex = threading.Lock()

    def lock(self, file: Any) -> bool:
        """Lock a file that is open for writing, and return whether there are locks.

        (For writing: NFSv4 has no exclusive locks for readers.)

        :raises BlockingIOError: another one has the lock.
        :raises OSError: it cannot be locked.
        """
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._go_on_without("locks", NO_LOCKS, error)
            return False
        return True

    def sync(self, descriptor: int) -> None:
        """Have a file's content on the disk, where the settings ask for that.

        :raises OSError: it could not be written.
        """
        if self._fsync:
            try:
                os.fsync(descriptor)
            except OSError as error:
                self._go_on_without("fsync of files", UNSUPPORTED, error)

    def sync_folder(self, folder: str) -> None:
        """Have the names in a folder on the disk, where the settings ask for that.

        :raises OSError: they could not be written.
        """
        if self._fsync:
            try:
                _sync_folder(folder)
            except OSError as error:
                self._go_on_without("fsync of folders", NO_FOLDER_SYNC, error)

    def _go_on_without(self, feature, numbers, error):
        """Log what is missing, once.

        :raises OSError: the error is another one.
        """
        if error.errno not in numbers:
            raise error
        with self._mutex:
            is_new = feature not in self._missing
            self._missing.add(feature)
        if is_new:
            logger.warning(
                "The file system of %s has no %s (%s): going on without%s",
                self._folder,
                feature,
                error,
                CONSEQUENCES[feature],
            )


CONSEQUENCES = {
    "locks": ", and what a killed worker leaves is deleted a day later",
    "fsync of files": ", and a power cut may damage what was stored just before",
    "fsync of folders": ", and a power cut may lose what was stored just before",
}


def _sync_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_to_free_name(source: str, target: str) -> None:
    """Give a file another name, atomically.

    :raises FileExistsError: the name is taken.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        # The name is taken first, as an empty file that nobody knows of yet.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))
        with removed_on_error(target):
            os.replace(source, target)
    else:
        with removed_on_error(target):
            os.remove(source)


@contextlib.contextmanager
def removed_on_error(path: str) -> Iterator[None]:
    """Remove a file where what is done with it fails: nobody would know that it is there."""
    try:
        yield
    except OSError:
        os.remove(path)
        raise


def remove_or_log(path: str) -> bool:
    """Remove a file that nobody needs any more, and return whether it is gone."""
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        # What has gone wrong before is told, and not that this goes wrong as well.
        logger.error("The unfinished upload %s stays: %s", path, error)
        return False
    return True
