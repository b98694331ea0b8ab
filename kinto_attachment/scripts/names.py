"""Names of files: as they are in a folder, in a form, and in a record."""

import hashlib
import os
import re
import unicodedata
import uuid

from kinto_attachment.scripts.common import Failure


NOT_SENT_AS_IT_IS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\\]"
    r"|%(?=0A|0D|22)"
    r"|=(?=\?)"
    r"|^\s|\s$"
)
"""What servers leave out of a filename (control characters, marks of direction, space at the ends),
or take for something else (``\\`` for a path, ``%22`` for the ``"`` that forms encode so, ``=?``
for the beginning of an encoded word, RFC 2047)."""


def record_id(name: str) -> str:
    """Return the id of the record for a file of this name: the UUID of the MD5 of the name."""
    return str(uuid.UUID(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()))


def sent_filename(name: str) -> str:
    """Return the filename for a form: one that every server keeps as it is."""
    return NOT_SENT_AS_IT_IS.sub("_", last_part(name))


def needs_path(name: str) -> bool:
    """Return whether the filename alone does not tell the name."""
    return sent_filename(name) != name


def is_path_of(path: object, filename: str) -> bool:
    """Return whether the attribute ``path`` of a record is the name of the file that it has.

    It stays in the record when another client attaches another file.
    """
    return isinstance(path, str) and filename in (last_part(path), sent_filename(path))


def last_part(name: str) -> str:
    """Return the filename at the end of a name."""
    return name.rpartition("/")[2]


def check_filename(filename: str) -> None:
    """Go on where a filename that somebody sent to the server may be a name in the folder.

    :raises Failure: it leads elsewhere, or would do something to a terminal.
    """
    check_part(filename)
    if "\\" in filename or os.path.splitdrive(filename)[0] or has_controls(filename):
        raise Failure("has a name that a file in the folder cannot have")


def check_part(part: str) -> None:
    """Go on where a name without slashes is one that this system takes for what it says.

    :raises Failure: it leads elsewhere, or is not text.
    """
    try:
        os.fsencode(part)
    except UnicodeEncodeError as error:
        raise Failure("has a name that is not text") from error
    leads_elsewhere = part in ("", ".", "..") or "/" in part or "\0" in part
    if leads_elsewhere or (os.name == "nt" and not _is_of_windows(part)):
        raise Failure("has a name that a file in the folder cannot have")


def has_controls(text: str) -> bool:
    """Return whether there are control characters in a text."""
    return any(unicodedata.category(character) == "Cc" for character in text)


def _is_of_windows(part):
    # Of these, the system makes devices, other files, or streams of other files.
    return not (re.search(r'[\\:*?"<>|]', part) or part.endswith((" ", ".")) or has_controls(part))
