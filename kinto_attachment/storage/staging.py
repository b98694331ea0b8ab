"""Staged files: what is written to a local storage, before it has a name."""

import contextlib
import logging
import os
import stat
import time
import uuid
from collections.abc import Iterator

from kinto_attachment.storage import StoredFile
from kinto_attachment.storage.filesystem import FileSystem


logger = logging.getLogger(__name__)

STAGING_FOLDER = ".staging"

ABANDONED_AFTER_SECONDS = 60
ABANDONED_WITHOUT_LOCKS_AFTER_SECONDS = 24 * 3600
"""How long a file was not written whose writer nobody can look for."""


class StagingFolder:
    """The hidden folder of staged files.

    :ivar path: of the folder.
    """

    def __init__(self, root: str, file_system: FileSystem):
        self.path = os.path.join(root, STAGING_FOLDER)
        self._file_system = file_system

    def new_path(self) -> str:
        """Return the path for a new staged file."""
        return os.path.join(self.path, uuid.uuid4().hex)

    def files(self) -> Iterator[StoredFile]:
        """Return what is staged.

        :raises OSError: the folder cannot be read.
        """
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                with _skipped_on_error(entry.path):
                    found = os.lstat(entry.path)
                    if stat.S_ISREG(found.st_mode) and not entry.name.startswith("."):
                        name = f"{STAGING_FOLDER}/{entry.name}"
                        yield StoredFile(name, found.st_size, found.st_mtime)

    def clear_abandoned(self) -> None:
        """Delete the staged files of writers that are gone: their locks went with them.

        What cannot be read, locked or removed, and what is no file, is logged and stays.
        """
        with _skipped_on_error(self.path), os.scandir(self.path) as entries:
            for entry in entries:
                with _skipped_on_error(entry.path):
                    self._clear_if_abandoned(entry)

    def _clear_if_abandoned(self, entry):
        if not entry.is_file(follow_symlinks=False):
            logger.warning("%s is no staged file, and stays", entry.path)
            return
        with (
            contextlib.suppress(BlockingIOError),
            open(entry, "r+b", buffering=0, opener=_open_regular) as file,
        ):
            if self._is_abandoned(file):
                os.remove(entry.path)
                logger.info("Deleted %s, which a worker that ended had not finished", entry.path)

    def _is_abandoned(self, file):
        """Return whether no writer has a file.

        :raises BlockingIOError: its writer lives.
        """
        age = time.time() - os.fstat(file.fileno()).st_mtime
        # One that is very young may not be locked yet.
        return age > ABANDONED_AFTER_SECONDS and (
            self._file_system.lock(file) or age > ABANDONED_WITHOUT_LOCKS_AFTER_SECONDS
        )


def _open_regular(path, flags):
    """Open what was a regular file a moment ago: no link is followed, no pipe waited for."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


@contextlib.contextmanager
def _skipped_on_error(path):
    try:
        yield
    except FileNotFoundError:
        pass  # It went meanwhile, as staged files do.
    except OSError as error:
        logger.warning("%s is skipped: %s", path, error)
