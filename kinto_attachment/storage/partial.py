"""Files of a local storage that come in pieces."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

from kinto_attachment.storage.contract import PartialFile, StoredFile, Superseded
from kinto_attachment.storage.filesystem import FileSystem, storage_errors


UPLOADS_FOLDER = ".uploads"
"""The hidden folder of partial files. (In ``.staging``, what is not locked is deleted.)"""

FENCE_ENDING = ".generation"
MARK_BYTES = 18


class LocalPartialFile(PartialFile):
    """A file whose size is what has been received, made with the first bytes.

    Beside it, another file has the generation of the request that may write it. That one is locked
    for each step, so a stalled request sees that another has taken over before it writes.

    :param size: ``None`` for any.
    :param free_key: gives a key like another that no file has.
    :param publish: gives a complete file at a path a key, and returns whether that is free.
    :raises StorageError: it cannot be opened.
    :raises Superseded: it has another size.
    """

    def __init__(
        self,
        path: str,
        generation: int,
        size: int | None,
        file_system: FileSystem,
        free_key: Callable[[str], str],
        publish: Callable[[str, str], bool],
    ):
        self.state = None
        self._path = path
        self._mark = b"%0*d" % (MARK_BYTES, generation)
        self._file_system = file_system
        self._free_key = free_key
        self._publish = publish
        self._descriptors = contextlib.ExitStack()
        self._file: int | None = None
        with storage_errors():
            self._fence = self._open(path + FENCE_ENDING, os.O_RDWR | os.O_CREAT)
            with file_system.locked(self._fence):
                with contextlib.suppress(FileNotFoundError):
                    self._file = self._open(path, os.O_WRONLY | os.O_APPEND)
                self.size = self._current_size()
                if size not in (None, self.size):
                    self.close()
                    raise Superseded(path)
                os.pwrite(self._fence, self._mark, 0)

    def write(self, chunk: bytes) -> None:
        with self._owned():
            file, left = self._made(), memoryview(chunk)
            while left:
                written = os.write(file, left)
                self.size += written
                left = left[written:]

    def flush(self) -> None:
        with self._owned():
            self._file_system.sync(self._made())
            self._file_system.sync_folder(os.path.dirname(self._path))

    def rewind(self, size: int, state: None) -> None:
        with self._owned():
            # There is no file if it is published, and none is to be made.
            if self._file is not None:
                os.ftruncate(self._file, size)
                self.size = size

    def open(self) -> BinaryIO:
        with storage_errors():
            return open(self._path, "rb")

    def free_key(self, key: str) -> str:
        return self._free_key(key)

    def publish(self, key: str) -> bool:
        with self._owned():
            return self._publish(self._path, key)

    def close(self) -> None:
        self._descriptors.close()

    def _open(self, path: str, flags: int) -> int:
        descriptor = os.open(path, flags, 0o666)
        self._descriptors.callback(os.close, descriptor)
        return descriptor

    def _made(self) -> int:
        if self._file is None:
            self._file = self._open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return self._file

    def _current_size(self) -> int:
        return 0 if self._file is None else os.fstat(self._file).st_size

    @contextlib.contextmanager
    def _owned(self) -> Iterator[None]:
        """Keep others out for a step.

        :raises Superseded: another request has taken over.
        """
        with storage_errors(), self._file_system.locked(self._fence):
            is_own = os.pread(self._fence, MARK_BYTES, 0) == self._mark
            if not is_own or self._current_size() != self.size:
                raise Superseded(self._path)
            yield


@contextlib.contextmanager
def fenced_off(path: str, file_system: FileSystem) -> Iterator[None]:
    """Delete a partial file in the context, which a stalled request finds taken over then."""
    try:
        fence = os.open(path + FENCE_ENDING, os.O_RDWR)
    except FileNotFoundError:
        yield
        return
    try:
        with file_system.locked(fence):
            os.pwrite(fence, b"x" * MARK_BYTES, 0)
            yield
            os.remove(path + FENCE_ENDING)
    finally:
        os.close(fence)


def partial_files(root: str) -> Iterator[StoredFile]:
    """Return the partial files below a folder, while they are read."""
    folder = os.path.join(root, UPLOADS_FOLDER)
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if not entry.name.endswith(FENCE_ENDING) and entry.is_file(follow_symlinks=False):
                    stat = entry.stat()
                    yield StoredFile(f"{UPLOADS_FOLDER}/{entry.name}", stat.st_size, stat.st_mtime)
