"""The metadata of a file in a record's ``attachment``: what is equal, what it points to.

The location of a public file ends in its key. That of a private file is the URL of the attachment
of its record, so the links of that record say which file it is: :func:`refers_to`.
"""

import json
from typing import Any
from urllib.parse import unquote

from kinto_attachment.settings.limits import MAX_FOLDER_LEVELS
from kinto_attachment.storage.names import is_private


MAX_KEY_PARTS = MAX_FOLDER_LEVELS + 1
MAX_PART_LENGTH = 3 * 1024
"""The longest key that S3 takes, with all of its characters percent-encoded."""


def attachment_of(record: dict[str, Any] | None) -> Any:
    """Return the ``attachment`` of a record, ``None`` if there is none, or no record."""
    return (record or {}).get("attachment")


def location_of(attachment: Any) -> str | None:
    """Return the URL in an attachment, or ``None`` if there is none."""
    url = attachment.get("location") if isinstance(attachment, dict) else None
    return url if isinstance(url, str) else None


def as_text(value: Any) -> str:
    """Return JSON as a text that is the same for equal values: 1 is neither ``true`` nor 1.0."""
    return json.dumps(value, sort_keys=True)


def are_equal(one: Any, other: Any) -> bool:
    """Return whether two values are the same JSON: 1 is neither ``true`` nor 1.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            are_equal(value, other[name]) for name, value in one.items()
        )
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(are_equal, one, other))
    return type(one) is type(other) and one == other


def is_among(value: Any, others: Any) -> bool:
    """Return whether one of the others is the same JSON."""
    return any(are_equal(value, other) for other in others)


def path_of_private(record_uri: str) -> str:
    """Return what the location of a private file of a record ends in, not percent-encoded."""
    return f"{record_uri}/attachment"


def is_private_location(attachment: Any, record_uri: str) -> bool:
    """Return whether the location is that of a private file of this record, on whatever host."""
    url = location_of(attachment)
    return url is not None and any(
        one.endswith(path_of_private(record_uri)) for one in (url, unquote(url))
    )


def is_located_at(attachment: Any, link: dict[str, Any]) -> bool:
    """Return whether the location is that of the file of a link.

    All private files of a record, also the earlier ones, have the same.
    """
    if is_private(link["location"]) and is_private_location(attachment, link["record_uri"]):
        return True
    return points_to(attachment, link["location"])


def refers_to(attachment: Any, link: dict[str, Any]) -> bool:
    """Return whether this metadata is about the file of a link, under whatever base URL.

    Of several private files of a record, it is the one with the same hash.
    """
    if not is_located_at(attachment, link):
        return False
    return points_to(attachment, link["location"]) or _have_one_hash(
        attachment, link.get("attachment")
    )


def points_to(attachment: Any, key: str) -> bool:
    """Return whether the location is that of a public file, under whatever base URL."""
    return key in possible_keys(attachment)


def possible_keys(attachment: Any) -> list[str]:
    """Return the keys that the file of this metadata may have: the ends of its URL."""
    url = location_of(attachment)
    if url is None:
        return []
    ends: list[str] = []
    for part in reversed(url.rsplit("/", MAX_KEY_PARTS)[-MAX_KEY_PARTS:]):
        # No key has such a part, and no database compares with a NUL.
        if not 0 < len(part) <= MAX_PART_LENGTH or "\0" in unquote(part):
            break
        ends.append(f"{part}/{ends[-1]}" if ends else part)
    return list(dict.fromkeys([*ends, *map(unquote, ends)]))


def _have_one_hash(attachment: Any, linked: Any) -> bool:
    """Return whether two pieces of metadata are of one content, as far as they say so."""
    hashes = [one.get("hash") for one in (attachment, linked) if isinstance(one, dict)]
    return len({one for one in map(as_text, hashes) if one != "null"}) < 2
