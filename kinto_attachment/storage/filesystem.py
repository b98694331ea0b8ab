"""What file systems differ in: locks, ``fsync``, hard links, renames, files without names."""

import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from typing import IO

from kinto_attachment.storage.contract import StorageError


logger = logging.getLogger(__name__)

KERNEL_ENOTSUPP = 524
"""Linux's own ENOTSUPP, which some network file systems pass on (``linux/errno.h``)."""

UNSUPPORTED = {
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    KERNEL_ENOTSUPP,
}
"""The errors of a file system that lacks an operation, other than those of a failure."""

NO_LOCKS = UNSUPPORTED | {errno.ENOLCK}

NO_FOLDER_SYNC = UNSUPPORTED | {errno.EBADF, errno.EISDIR, errno.EACCES}
"""The last two if a folder cannot be opened, or is writable but not readable."""

NO_HARD_LINKS = {errno.EPERM, errno.EMLINK} | UNSUPPORTED - {errno.EINVAL}
"""The errors of ``link`` on file systems like FAT and some network ones."""

NAMELESS = getattr(os, "O_TMPFILE", 0)
"""Linux only. Without it, a folder cannot be opened for writing."""

CONSEQUENCES = {
    "locks": "what a killed worker leaves is deleted a day later",
    "fsync of files": "a power cut may damage what was stored just before",
    "fsync of folders": "a power cut may lose what was stored just before",
}


class FileSystem:
    """The file system of a folder. What it lacks is logged once, and left out.

    :param fsync: whether contents and names must be on the disk.
    """

    def __init__(self, folder: str, fsync: bool = True):
        self._folder = folder
        self._fsync = fsync
        self._missing: set[str] = set()
        self._mutex = threading.Lock()

    def lock(self, file: IO[bytes]) -> bool:
        """Lock a file that is open for writing, and return whether there are locks.

        (For writing: NFSv4 has no exclusive locks for readers.)

        :raises BlockingIOError: another process has locked it.
        :raises OSError: it cannot be locked.
        """
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._go_on_without("locks", NO_LOCKS, error)
            return False
        return True

    @contextlib.contextmanager
    def locked(self, file: int) -> Iterator[None]:
        """Hold the lock of a file (a descriptor), once nobody else does.

        :raises OSError: it cannot be locked.
        """
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            self._go_on_without("locks", NO_LOCKS, error)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)

    def sync(self, descriptor: int) -> None:
        """Write the content of a file to the disk, unless ``fsync`` is off.

        :raises OSError: it could not be written.
        """
        if self._fsync:
            try:
                os.fsync(descriptor)
            except OSError as error:
                self._go_on_without("fsync of files", UNSUPPORTED, error)

    def create(self, path: str, content: bytes) -> None:
        """Make a file that has no name before it is complete: a killed process leaves nothing.

        (``O_TMPFILE`` in open(2) of Linux, and its example of linkat(2).)

        :raises OSError: that is not possible here, or failed.
        """
        flags = NAMELESS | os.O_WRONLY
        with open(os.open(os.path.dirname(path), flags, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            self.sync(file.fileno())
            # The descriptor is without a meaning, but without one Python calls link(2), which does
            # not follow the first name.
            os.link(f"/proc/self/fd/{file.fileno()}", path, src_dir_fd=file.fileno())
            with removed_on_error(path):
                file.close()

    def sync_folder(self, folder: str) -> None:
        """Write the names in a folder to the disk, unless ``fsync`` is off.

        :raises OSError: they could not be written.
        """
        if self._fsync:
            try:
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                self._go_on_without("fsync of folders", NO_FOLDER_SYNC, error)

    def _go_on_without(self, feature: str, numbers: set[int], error: OSError) -> None:
        """Log once that a feature is missing.

        :raises OSError: the error does not say that.
        """
        if error.errno not in numbers:
            raise error
        with self._mutex:
            is_new = feature not in self._missing
            self._missing.add(feature)
        if is_new:
            logger.warning(
                "The file system of %s has no %s (%s): going on without, and %s",
                self._folder,
                feature,
                error,
                CONSEQUENCES[feature],
            )


def move_to_free_name(source: str, target: str) -> None:
    """Give a file another name, atomically.

    :raises FileExistsError: the name is taken.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        # An empty file reserves the name, which no record refers to yet.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))
        with removed_on_error(target):
            os.replace(source, target)
    else:
        with removed_on_error(target):
            os.remove(source)


@contextlib.contextmanager
def removed_on_error(path: str) -> Iterator[None]:
    """Remove a file if the block fails, since no record would refer to it."""
    try:
        yield
    except OSError:
        os.remove(path)
        raise


def remove_or_log(path: str) -> bool:
    """Remove a file that is not needed any more, and return whether it is gone."""
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        # Not raised, since it would hide an earlier error.
        logger.error("The incomplete upload %s stays: %s", path, error)
        return False
    return True


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Raise an ``OSError`` of the context as a :class:`StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError(str(error)) from error
