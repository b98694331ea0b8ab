"""The metadata of a file in a record's ``attachment``: what is equal, what it points to."""

import json
from typing import Any
from urllib.parse import unquote

from kinto_attachment.settings.limits import MAX_FOLDER_LEVELS


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
    """Return whether two values are the same JSON."""
    return as_text(one) == as_text(other)


def is_among(value: Any, others: Any) -> bool:
    """Return whether one of the others is the same JSON."""
    return any(are_equal(value, other) for other in others)


def points_to(attachment: Any, key: str) -> bool:
    """Return whether this metadata is about the stored file, under whatever base URL."""
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
