"""The content of a file: as a record describes it, and as it is in a file here."""

import hashlib
import os
import stat
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

from kinto_attachment.scripts.errors import Failure


CHUNK_BYTES = 256 * 1024

DESCRIPTION_FIELDS = "attachment,original.filename,original.hash,original.size,path"
"""The fields of a record that describe its file. Others may be of any size."""


@dataclass(frozen=True)
class Content:
    """The described content of a file.

    :ivar hash: SHA-256, lower-case hexadecimal.
    :ivar size: in bytes.
    """

    filename: str
    hash: str
    size: int

    @classmethod
    def parse(cls, description: Any) -> "Content":
        """Return the content that a JSON object describes.

        :raises Failure: it does not describe one.
        """
        try:
            filename, sha256, size = (description[key] for key in ("filename", "hash", "size"))
            if type(filename) is not str or type(size) is not int or size < 0:
                raise ValueError
            if len(bytes.fromhex(sha256)) != hashlib.sha256().digest_size:
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            message = "the record does not describe its file with name, hash and size"
            raise Failure(message) from error
        return cls(filename, sha256.lower(), size)


def original_of(record: dict[str, Any]) -> Content | None:
    """Return the content of a record's file before it was compressed, or ``None`` if it was not.

    A server that compresses describes it in the attachment, the upload script in the record. The
    latter remains when another client attaches a file, which it does not describe.

    :raises Failure: the description is invalid.
    """
    attachment = record.get("attachment")
    if not isinstance(attachment, dict):
        return None
    if attachment.get("original"):
        return Content.parse(attachment["original"])
    is_compressed = str(attachment.get("filename")).lower().endswith(".gz")
    return Content.parse(record["original"]) if is_compressed and record.get("original") else None


def content_of(record: dict[str, Any]) -> Content:
    """Return the content of a record's file, uncompressed.

    :raises Failure: the record has no file, or its description is invalid.
    """
    return original_of(record) or Content.parse(record.get("attachment"))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Return a regular file, opened for reading.

    A pipe that has replaced the file would block, and a device might never end.

    :raises Failure: it is something else.
    :raises OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Failure("is not a file")
    return file


def has_content(path: str | os.PathLike[str], content: Content) -> bool:
    """Return whether the file at this path has this content.

    :raises Failure: it is not a regular file.
    :raises OSError: it cannot be read.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size != content.size:
            return False
        # A file that is longer than its size, as below /proc, is not read to its end.
        return sha256(file, content.size) == content.hash and not file.read(1)


def sha256(file: BinaryIO, size: int = sys.maxsize) -> str:
    """Return the SHA-256 of the rest of a file, but of at most so many bytes, hexadecimal."""
    digest = hashlib.sha256()
    while chunk := file.read(min(CHUNK_BYTES, size)):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()
