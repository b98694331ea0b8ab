"""Steps on the disk that survive a power failure, or happen at once."""

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from kinto_attachment.scripts.content import CHUNK_BYTES


COPY_PREFIX = ".partial-"

NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What some network file systems return for the ``fsync`` of a folder."""


def open_for_update(path: Path) -> BinaryIO:
    """Return a file opened for reading and writing, a new one if there is none."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+b")


def sync(path: Path) -> None:
    """Write a file to the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Write the names in a folder to the disk, if the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):  # On Windows.
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def replace(source: Path, target: Path) -> None:
    """Rename a file in one step, also to another volume.

    :raises OSError: it cannot have this name.
    """
    try:
        os.replace(source, target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    copy = copy_path(target)
    try:
        with source.open("rb") as complete, open_for_update(copy) as file:
            file.truncate()
            shutil.copyfileobj(complete, file, CHUNK_BYTES)
        sync(copy)
        os.replace(copy, target)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    source.unlink()


def copy_path(target: Path) -> Path:
    """Return the path of the copy that :func:`replace` makes, the same in every run."""
    digest = hashlib.sha256(target.name.encode("utf-8", "surrogateescape")).hexdigest()
    return target.with_name(f"{COPY_PREFIX}{digest}")
