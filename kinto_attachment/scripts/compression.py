"""Files are compressed and decompressed with gzip, within bounds."""

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from kinto_attachment.scripts.content import CHUNK_BYTES, Content
from kinto_attachment.scripts.disk import open_for_update
from kinto_attachment.scripts.errors import Failure


GZIP_LEVEL = 6
GZIP_MIMETYPE = "application/x-gzip"


def compress(
    source: BinaryIO, target: BinaryIO, filename: str, check: Callable[[], None]
) -> Content:
    """Return the content of a file that is compressed into another one.

    Equal files become equal compressed files.

    :param check: is called for each chunk, and may raise.
    :raises Failure: the file grows meanwhile.
    """
    digest = hashlib.sha256()
    expected = source.seek(0, os.SEEK_END)
    source.seek(0)
    size = 0
    with gzip.GzipFile("", "wb", GZIP_LEVEL, target, mtime=0) as compressor:
        while chunk := source.read(CHUNK_BYTES):
            check()
            digest.update(chunk)
            size += len(chunk)
            if size > expected:
                raise Failure("was changed while it was sent")
            compressor.write(chunk)
    return Content(filename, digest.hexdigest(), size)


def decompress(source: Path, target: Path, original: Content, check: Callable[[], None]) -> None:
    """Decompress a file into another one, which never becomes larger than the original.

    :param check: is called for each chunk, and may raise.
    :raises Failure: the result is not the original.
    :raises OSError: a file cannot be read or written.
    """
    digest = hashlib.sha256()
    left = original.size
    with gzip.open(source) as compressed, open_for_update(target) as file:
        file.truncate()
        for chunk in _chunks(compressed):
            check()
            left -= len(chunk)
            if left < 0:
                raise Failure(f"decompressed, it has more than its {original.size} bytes")
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != original.hash:
        raise Failure(f"decompressed, its hash is {digest.hexdigest()} instead of {original.hash}")


def _chunks(file: gzip.GzipFile) -> Iterator[bytes]:
    try:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Failure(f"cannot be decompressed: {error}") from error
