"""References: which of the files that a record has links to it refers to."""

from typing import Any

from kinto_attachment import metadata
from kinto_attachment.storage.names import is_private
from kinto_attachment.unit_of_work import Link


def refers(attachment: Any, record_uri: str, key: str, links: list[Link]) -> bool:
    """Return whether the attachment of a record is about a stored file.

    The location of a private file does not say which one it is: a link of the record does. Of
    several, it is the one with the hash of the attachment, if there is such a link.

    :param links: those of the record.
    """
    if is_private(key) and metadata.is_private_location(attachment, record_uri):
        return key in _keys(attachment, links)
    # Also a private one: the folder of public files may have had that name before.
    return metadata.points_to(attachment, key)


def _keys(attachment: Any, links: list[Link]) -> list[str]:
    private = [link for link in links if is_private(link["location"])]
    same = [link for link in private if _hash_of(link.get("attachment")) == _hash_of(attachment)]
    return [link["location"] for link in same or private]


def _hash_of(attachment: Any) -> Any:
    return attachment.get("hash") if isinstance(attachment, dict) else None
