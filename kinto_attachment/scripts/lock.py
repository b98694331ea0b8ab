"""A lock file, which keeps other runs out of a folder."""

import contextlib
import errno
import os
from pathlib import Path


try:
    import fcntl

    HAS_FCNTL = True
except ImportError:  # On Windows.
    HAS_FCNTL = False


NO_LOCKS = {errno.EINVAL, errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, 524}
"""What file systems without locks return; the last is Linux's own ENOTSUPP."""


class LockFile:
    """An exclusive lock on a file, in a folder that is made for it.

    The file is locked, not the folder: NFSv4 locks only what is open for writing (flock(2), "NFS
    details").

    :ivar is_effective: whether the file system has locks.
    :raises OSError: the lock fails.
    :raises ValueError: another run has it, or the folder is a link.
    """

    def __init__(self, path: Path):
        self._path = path
        self.is_effective = True
        self._descriptors = contextlib.ExitStack()
        while not self._acquire():
            pass

    def release(self) -> None:
        """Release the lock, and remove the file and the folder if it is empty."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            self._path.parent.rmdir()
        self._descriptors.close()

    def _acquire(self) -> bool:
        """Return whether the lock is acquired: not if the run that had it has removed the file, or
        the folder, since."""
        make_real_folder(self._path.parent)
        if not HAS_FCNTL:
            return True
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            stack.callback(os.close, descriptor)
            self._lock(descriptor)
            if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                self._descriptors = stack.pop_all()
                return True
        return False

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError("another run downloads into it") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self.is_effective = False


def make_real_folder(path: Path) -> None:
    """Make a folder if it is missing.

    :raises ValueError: it is a link.
    """
    path.mkdir(exist_ok=True)
    if path.is_symlink():
        raise ValueError(f"{path.name} is a link")
