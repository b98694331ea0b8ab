"""The names of files: in a folder, in a form, and in a record."""

import hashlib
import os
import re
import unicodedata
import uuid

from kinto_attachment.scripts.errors import Failure


NOT_SENT_AS_IT_IS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\\]"
    r"|%(?=0A|0D|22)"
    r"|=(?=\?)"
    r"|^\s|\s$"
)
"""What servers remove from a filename (control characters, marks of direction, space at the ends),
or decode (``\\`` as of a path, ``%22`` as the ``"`` that forms encode so, ``=?`` as the beginning
of an encoded word, RFC 2047)."""


def record_id(name: str) -> str:
    """Return the id of the record for a file of this name: the UUID of the MD5 of the name."""
    return str(uuid.UUID(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()))


def sent_filename(name: str) -> str:
    """Return the filename for a form, one that no server changes."""
    return NOT_SENT_AS_IT_IS.sub("_", last_part(name))


def needs_path(name: str) -> bool:
    """Return whether the sent filename differs from the name."""
    return sent_filename(name) != name


def is_path_of(path: object, filename: str) -> bool:
    """Return whether the attribute ``path`` of a record is the name of its file.

    It remains in the record when another client attaches another file.
    """
    return isinstance(path, str) and filename in (last_part(path), sent_filename(path))


def last_part(name: str) -> str:
    """Return the filename at the end of a name."""
    return name.rpartition("/")[2]


def check_filename(filename: str) -> None:
    """Return if a filename, which any client may have sent, may be a name in the folder.

    :raises Failure: it is a path, or could control a terminal.
    """
    check_part(filename)
    if "\\" in filename or os.path.splitdrive(filename)[0] or _has_controls(filename):
        raise Failure("has a name that a file in the folder cannot have")


def check_part(part: str) -> None:
    """Return if a part of a name is a plain filename for this system.

    :raises Failure: it is a path or a device, or is not text.
    """
    try:
        os.fsencode(part)
    except UnicodeEncodeError as error:
        raise Failure("has a name that is not text") from error
    is_path = part in ("", ".", "..") or "/" in part or "\0" in part
    if is_path or (os.name == "nt" and not _is_plain_on_windows(part)):
        raise Failure("has a name that a file in the folder cannot have")


def _has_controls(text: str) -> bool:
    """Return whether there are control characters in a text."""
    return any(unicodedata.category(character) == "Cc" for character in text)


def _is_plain_on_windows(part: str) -> bool:
    # Others are devices, other files, or streams of other files.
    return not (re.search(r'[\\:*?"<>|]', part) or part.endswith((" ", ".")) or _has_controls(part))
