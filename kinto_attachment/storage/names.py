"""Keys of stored files: how they are made, and how they are recognised."""

import dataclasses
import os
import random
import re
import string
import time
import unicodedata
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from kinto_attachment import errors
from kinto_attachment.settings.limits import MAX_NAME_BYTES, MAX_RID, PRIVATE
from kinto_attachment.settings.values import CollectionSettings, Settings


PRIVATE_FOLDER = f"{PRIVATE}/"
"""What the keys of private files begin with, and of no other ones."""

MAX_EXTENSION_BYTES = 64

NUMBERED_IN_ORDER = 1000
REMOTE_NUMBERED_IN_ORDER = 4
"""How many equal keys are numbered consecutively. In a remote storage, every try is a request."""

MAX_NUMBER_DIGITS = 18

DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names that Windows reserves, with any extension."""

UUID4 = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
HEARTBEAT = re.compile(f"heartbeat-{UUID4}")

ID = "[A-Za-z0-9_-]+"
STEM = "[A-Za-z0-9_.-]+"
ENDING = rf"(-{UUID4})?(-[0-9]+)?(\.[A-Za-z0-9_.-]+)?"
"""What makes the key of a private file unique, the number of a candidate key, and the extension."""


def upload_key(
    settings: CollectionSettings, bucket_id: str, collection_id: str, record_id: str, filename: str
) -> str:
    """Return the key to ask the storage for, for an upload to a record.

    :raises HTTPException: the extension is not allowed, or the ids make too long a name.
    """
    if not settings.allows(filename):
        raise errors.extension_not_allowed()
    folder = settings.folder_of(bucket_id, collection_id)
    if any(len(name.encode()) > MAX_NAME_BYTES for name in folder.split("/")):
        raise errors.ids_too_long(MAX_NAME_BYTES)
    pattern, randomize = settings.filename_pattern, settings.randomize
    is_suffixed = settings.keys_are_unique and not settings.names_are_random
    appended = settings.added_extension
    return make_key(filename, folder, randomize, pattern, record_id, appended, is_suffixed)


def make_key(
    filename: str,
    folder: str,
    randomize: bool,
    pattern: str = "{filename}",
    record_id: str = "",
    appended: str = "",
    is_suffixed: bool = False,
) -> str:
    """Return the key to ask the storage for: safe in any file system and URL.

    :param folder: relative, without outer slashes, may be empty.
    :param randomize: only the extension is taken from the filename.
    :param pattern: the key without folder and extension: text in which ``{datetime}`` is the time
        in UTC, ``{rid}`` the record's id and ``{filename}`` the (random) name.
    :param appended: another extension, that of a compressed file.
    :param is_suffixed: whether a random part follows that, so that the key is unique.
    """
    stem, extension = _safe_parts(filename)
    if randomize:
        stem, extension = str(uuid.uuid4()), extension.lower()
    now = time.strftime("%Y%m%d%H%M%S", time.gmtime())
    # The id is cut here, so that a long one does not displace what makes a random key unique.
    stem = _safe_stem(pattern.format(datetime=now, rid=record_id[:MAX_RID], filename=stem))
    suffix = f"-{uuid.uuid4()}" if is_suffixed else ""
    name = _fit(stem, suffix + extension + appended)
    return f"{folder}/{name}" if folder else name


def is_private(key: str) -> bool:
    """Return whether a file is private: fetched with the permission on its record only.

    In any case, as some file systems do not distinguish upper and lower case.
    """
    return key[: len(PRIVATE_FOLDER)].lower() == PRIVATE_FOLDER


def candidate_keys(key: str, in_order: int = NUMBERED_IN_ORDER) -> Iterator[str]:
    """Return the keys to try until a free one is found: the key, then with ``-1``, ``-2``…

    Then the numbers are random, each with a digit more than the last, so that a free one is found
    soon however many files of that name there are. If none is free, the storage is wrong.

    :param in_order: how many consecutive numbers come first.
    """
    yield key
    folder, base = os.path.split(key)
    stem, extension = os.path.splitext(base)
    if extension == ".gz":
        # Decompressed, the file keeps the extension of its content.
        stem, inner = os.path.splitext(stem)
        extension = inner + extension
    for number in _numbers(in_order):
        yield os.path.join(folder, _fit(stem, f"-{number}{extension}"))


def make_heartbeat_key() -> str:
    """Return the key of a file that a heartbeat writes and deletes immediately."""
    return f"heartbeat-{uuid.uuid4()}"


def is_heartbeat_key(key: str) -> bool:
    """Return whether a key is one of :func:`make_heartbeat_key`."""
    return bool(HEARTBEAT.fullmatch(key))


@dataclass(frozen=True)
class KeyMatch:
    """How the key of an unreferenced file matches the settings.

    :ivar is_ours: whether the settings produce such keys.
    :ivar is_random: whether nothing but the plugin produces such keys.
    :ivar is_kept: whether ``keep_old_files`` is on in the settings that produce such keys.
    """

    is_ours: bool
    is_random: bool
    is_kept: bool


class KeyPatterns:
    """The patterns of the keys that the settings produce."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._patterns = [
            (re.compile(_key_pattern(own)), own)
            for own in (settings.defaults, *settings.resources.values())
        ]

    def match(self, key: str) -> KeyMatch:
        """Return how a key matches the settings of any collection."""
        return _match([own for pattern, own in self._patterns if pattern.fullmatch(key)])

    def match_upload(
        self, key: str, bucket_id: str, collection_id: str, record_id: str, filename: str
    ) -> KeyMatch:
        """Return how a key matches an upload of this filename to this record."""
        own = self._settings.for_collection(bucket_id, collection_id)
        pattern = _key_pattern(
            own,
            folder=_folder_pattern(own, bucket_id, collection_id),
            rid=f"[_-]*{re.escape(record_id[:MAX_RID].strip('.-_'))}[_-]*",
        )
        extension = _safe_parts(filename)[1].lower()
        matches = re.fullmatch(pattern, key) and key.lower().endswith(extension)
        return _match([own] if matches else [])


def _numbers(in_order: int) -> Iterator[int]:
    yield from range(1, in_order + 1)
    for digits in range(len(str(in_order)) + 1, MAX_NUMBER_DIGITS + 1):
        yield random.randrange(10 ** (digits - 1), 10**digits)


def _safe_parts(filename: str) -> tuple[str, str]:
    stem, extension = os.path.splitext(filename)
    extension = _ascii(extension).strip("._-")[:MAX_EXTENSION_BYTES]
    return _safe_stem(stem), f".{extension}" if extension else ""


def _safe_stem(text: str) -> str:
    stem = _ascii(text).strip(".-_") or "attachment"
    return f"_{stem}" if DEVICES.match(stem) else stem


def _ascii(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9_.-]", "", "_".join(decomposed.split()))


def _fit(stem: str, suffix: str) -> str:
    return stem[: MAX_NAME_BYTES - len(suffix)] + suffix


def _match(matching: list[CollectionSettings]) -> KeyMatch:
    return KeyMatch(
        bool(matching),
        any(own.randomize and "{filename}" in own.filename_pattern for own in matching),
        any(own.keep_old_files for own in matching),
    )


def _key_pattern(settings: CollectionSettings, folder: str | None = None, rid: str = ID) -> str:
    """Return the pattern of keys: of public and of private files, whatever they are by now."""
    if folder is None:
        folder = template_pattern(settings.folder, bucket_id=ID, collection_id=ID)
        folder = f"(?:{PRIVATE_FOLDER})?{folder}/" if folder else f"(?:{PRIVATE_FOLDER})?"
    filename = UUID4 if settings.randomize else STEM
    stem = template_pattern(
        settings.filename_pattern, datetime="[0-9]{14}", rid=rid, filename=filename
    )
    return f"{folder}{stem}{ENDING}"


def _folder_pattern(settings: CollectionSettings, bucket_id: str, collection_id: str) -> str:
    """Return the pattern of the folders of a collection, that of private files included."""
    folders = (
        dataclasses.replace(settings, downloads=downloads).folder_of(bucket_id, collection_id)
        for downloads in ("public", PRIVATE)
    )
    return f"(?:{'|'.join(re.escape(f'{folder}/') if folder else '' for folder in folders)})"


def template_pattern(template: str, **placeholders: str) -> str:
    """Return the pattern of a template: its text escaped, its placeholders replaced."""
    return "".join(
        re.escape(text) + (placeholders[name] if name else "")
        for text, name, _, _ in string.Formatter().parse(template)
    )
