"""The casts of options: each makes a value of a text, or raises ``ValueError``.

The message of the error follows the name and the text in what stops the server.
"""

import contextlib
import difflib
import math
import os
import re
import string
import uuid
from collections.abc import Callable

from pyramid.settings import falsey, truthy
from pyramid_storage.extensions import GROUPS

from kinto_attachment.settings.limits import (
    MAX_FOLDER_LEVELS,
    MAX_NAME_BYTES,
    MAX_RID,
    MAX_STEM,
    PRIVATE,
)


MIN_SECRET_LENGTH = 16

MIMETYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}", re.ASCII)
"""A media type without parameters (RFC 6838, section 4.2)."""

SYSTEM_FOLDERS = {"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64"}
SYSTEM_FOLDERS |= {"/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var"}
"""Where files are never kept directly: everything in it would be listed, and could be served."""

UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_DURATION_SECONDS = 3650 * 86400

NOT_IN_A_PATH = re.compile(r"[\x00-\x1f\x7f\\]")


def boolean(text: str) -> bool:
    if text.lower() in truthy:
        return True
    if text.lower() in falsey:
        return False
    raise ValueError("should be true or false")


def integer(smallest: int, largest: float = math.inf) -> Callable[[str], int]:
    expected = f"a whole number from {smallest}"
    if largest < math.inf:
        expected += f" to {largest}"

    def cast(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not smallest <= int(text) <= largest:
            raise ValueError(f"should be {expected}")
        return int(text)

    return cast


def seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        number = float(text)
        if 0 < number < math.inf:
            return number
    raise ValueError("should be a number of seconds larger than 0")


def duration(text: str) -> int:
    """Seconds, from a number with a unit or without."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text, re.ASCII)
    seconds = int(match[1]) * UNIT_SECONDS[match[2]] if match else math.inf
    if seconds > MAX_DURATION_SECONDS:
        raise ValueError("should be a time like 90s, 30m, 12h or 7d, of up to 3650d")
    return int(seconds)


def text(text: str) -> str | None:
    return text or None


def _matching(pattern: str, description: str) -> Callable[[str], str | None]:
    def cast(text: str) -> str | None:
        if text and not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"should be {description}")
        return text or None

    return cast


def _one_of(*choices: str) -> Callable[[str], str | None]:
    return _matching("|".join(choices), f"one of {', '.join(choices)}, or empty")


def choice(*choices: str) -> Callable[[str], str]:
    def cast(text: str) -> str:
        if text not in choices:
            raise ValueError(f"should be one of {', '.join(choices)}")
        return text

    return cast


def secret(text: str) -> str | None:
    if 0 < len(text) < MIN_SECRET_LENGTH:
        raise ValueError(f"should be at least {MIN_SECRET_LENGTH} characters nobody can guess")
    return text or None


module = _matching(r"\w+(\.\w+)*", "the dotted name of a module")
header = _matching(r"[\x20-\x7e]+", "one line of printable ASCII")

bucket = _matching(r"[\w.-]{1,255}", "letters, digits, dots, dashes and underscores")
region = _matching(r"[a-z0-9-]+", "like eu-central-1")
host = _matching(r"[^/:\s]+|\[[0-9A-Fa-f:.]+\]", "a host name")
canned_acl = _one_of(
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
)
checksums = _one_of("when_supported", "when_required")

part_size = integer(5 * 1024**2, 5 * 1024**3)
"""What S3 accepts as a part of a multipart upload, except for the last one."""


predefined_acl = _one_of(
    "authenticatedRead",
    "bucketOwnerFullControl",
    "bucketOwnerRead",
    "private",
    "projectPrivate",
    "publicRead",
)
predefined_bucket_acl = _one_of(
    "authenticatedRead", "private", "projectPrivate", "publicRead", "publicReadWrite"
)


def gcloud_part_size(text: str) -> int:
    """What a resumable session accepts as a part, except for the last one."""
    size = integer(256 * 1024, 1024**3)(text)
    if size % (256 * 1024):
        raise ValueError("should be a multiple of 262144 (256 KiB)")
    return size


def port(text: str) -> int | None:
    return integer(1, 65535)(text) if text else None


def endpoint_url(text: str) -> str | None:
    """The root of a store, which is followed by the name of the bucket."""
    expected = "like https://host:port or https://host/path"
    return _matching(r"https?://[^/\s?#]+(/[\w~-][\w.~-]*)*", expected)(text.rstrip("/"))


def url(text: str) -> str:
    """A base URL ends in a slash, since keys are appended to it."""
    if text and not re.fullmatch(r"((?i:https?)://[^/?#\\\s\0]+|/)[^?#\\\s\0]*", text):
        raise ValueError("should be like https://files.example.com/ or /files/, without ? and #")
    return text and text.rstrip("/") + "/"


def path_of_url(text: str) -> str:
    """A path ends in a slash, since keys are appended to it."""
    if text and not re.fullmatch(r"/(?!/)[^?#\\\s\0]*", text):
        raise ValueError("should be a path like /internal/, without ? and #")
    return text and text.rstrip("/") + "/"


def file(text: str) -> str | None:
    if text and not os.path.isfile(text):
        raise ValueError("should be the path of a file")
    return text or None


def path(text: str) -> str | None:
    if NOT_IN_A_PATH.search(text):
        raise ValueError("should be the path of a folder")
    if text.startswith("~"):
        raise ValueError("should be an absolute path (~ is not expanded)")
    if not text:
        return None
    absolute = os.path.abspath(text)
    if {absolute, os.path.realpath(absolute)} & SYSTEM_FOLDERS or not absolute.strip("/"):
        raise ValueError("should be a folder for nothing else, and not one of the system")
    return absolute


def folder(text: str) -> str:
    _check_placeholders(text, "bucket_id", "collection_id")
    names = text.rstrip("/").split("/") if text else []
    if any(not name or name.startswith(".") or NOT_IN_A_PATH.search(name) for name in names):
        raise ValueError("should be a path inside of the storage, like a/b, without hidden parts")
    if any(len(name.encode()) > MAX_NAME_BYTES for name in names):
        raise ValueError(f"has a name of more than {MAX_NAME_BYTES} bytes")
    if len(names) > MAX_FOLDER_LEVELS:
        raise ValueError(f"should have at most {MAX_FOLDER_LEVELS} levels")
    # In any case, as some file systems do not distinguish upper and lower case.
    if names and names[0].lower() == PRIVATE:
        raise ValueError(f"begins with {PRIVATE}, the folder of downloads = private")
    return "/".join(names)


def filename_pattern(text: str) -> str:
    _check_placeholders(text, "datetime", "rid", "filename")
    if not re.fullmatch(r"[A-Za-z0-9_.{}-]+", text) or "{{" in text or "}}" in text:
        raise ValueError("should be placeholders, letters, digits, dots, dashes and underscores")
    if len(text.format(datetime="0" * 14, rid="0" * MAX_RID, filename=uuid.uuid4())) > MAX_STEM:
        raise ValueError(f"should make names of at most {MAX_STEM} characters")
    return text


def _check_placeholders(text: str, *known: str) -> None:
    for _, placeholder, spec, conversion in string.Formatter().parse(text):
        if placeholder is not None and (placeholder not in known or spec or conversion):
            raise ValueError(f"the placeholders are {{{'}, {'.join(known)}}}")


def extensions(text: str) -> frozenset[str] | None:
    words = re.split(r"\s*[+,]\s*|\s+", text.lower())
    if "" in words:
        raise ValueError("should be groups and extensions joined by +, or any")
    if "any" in words:
        return None
    return frozenset(extension for word in words for extension in _group_or_extension(word))


def _group_or_extension(word: str) -> list[str]:
    if word in GROUPS:
        return GROUPS[word]
    if word == "*":
        raise ValueError("all extensions are allowed by any, not by *")
    extension = _extension(word)
    if word == extension:
        _check_no_misspelt_group(word)
    return [extension]


def _check_no_misspelt_group(word: str) -> None:
    # Extensions as short as these look like "text" or "data" by chance: tex, txt, dat.
    if len(word) <= 4 or any(word in extensions for extensions in GROUPS.values()):
        return
    for group in difflib.get_close_matches(word, GROUPS, n=1, cutoff=0.8):
        raise ValueError(f"did you mean the group {group}? (the extension would be .{word})")


def _extension(word: str) -> str:
    """Return an extension without its dot."""
    extension = word.removeprefix(".")
    last = extension.rpartition(".")[2]
    if last and last != extension:
        raise ValueError(
            f"{extension} can never match: the last extension of a name decides, which is {last}"
        )
    if not re.fullmatch(r"[\w-]+", extension):
        raise ValueError(f"{extension!r} is neither a group nor an extension")
    return extension


def mimetypes(text: str) -> dict[str, str]:
    by_extension = {}
    for pair in filter(None, (pair.strip() for pair in text.split(";"))):
        extension, _, mimetype = (part.strip() for part in pair.partition(":"))
        if not MIMETYPE.fullmatch(mimetype):
            raise ValueError(f"{pair!r} is not like .ext:type/subtype")
        by_extension[f".{_extension(extension.lower())}"] = mimetype
    return by_extension
