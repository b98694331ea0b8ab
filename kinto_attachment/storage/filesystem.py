"""What file systems differ in: locks, ``fsync``, hard links, moves from one to another."""

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from typing import Any


logger = logging.getLogger(__name__)

NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What ``link`` says on file systems like FAT or some network ones."""


class FileSystem:
    """What a storage asks of its file system.

    :param fsync: whether files and names have to be on the disk.
    """

    def __init__(self, fsync: bool = True):
        self._fsync = fsync

    def lock(self, file: Any) -> None:
        """Lock a file.

        :raises BlockingIOError: another one has the lock.
        :raises OSError: it cannot be locked.
        """
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def sync(self, descriptor: int) -> None:
        """Have a file's content on the disk, where the settings ask for that.

        :raises OSError: it could not be written.
        """
        if self._fsync:
            os.fsync(descriptor)

    def sync_folder(self, folder: str) -> None:
        """Have the names in a folder on the disk, where the settings ask for that.

        :raises OSError: they could not be written.
        """
        if self._fsync:
            _sync_folder(folder)


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
