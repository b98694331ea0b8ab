"""The bytes of stored files, read in chunks."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from kinto_attachment.storage.contract import StorageError


CHUNK_BYTES = 256 * 1024


def sha256_of(files: Any, key: str, advance: Callable[[int], object] = lambda _size: None) -> str:
    """Return the SHA-256 of a stored file, hexadecimal.

    :param advance: called with the size of each chunk.
    :raises FileNotFoundError: it does not exist.
    :raises StorageError: it cannot be read.
    """
    digest = hashlib.sha256()
    for chunk in chunks_of(files, key):
        digest.update(chunk)
        advance(len(chunk))
    return digest.hexdigest()


def chunks_of(files: Any, key: str) -> Iterator[bytes]:
    """Return the bytes of a stored file in chunks.

    :raises FileNotFoundError: it does not exist.
    :raises StorageError: it cannot be read.
    """
    with files.open(key) as stored:
        try:
            yield from iter(partial(stored.read, CHUNK_BYTES), b"")
        except Exception as error:
            # Any error of a connection or a disk in the middle of a file.
            raise StorageError(f"{key}: {type(error).__name__}: {error}") from error
