"""Confirmation: whether a problem exists, as Kinto's storage and that of the files are now.

An inventory is read while the server goes on. So each problem in it is confirmed before it is
reported, in an order in which no change in progress can mislead: a file is stored before its link,
links change in one commit with their record, and a file is deleted after that commit.
"""

from kinto_attachment import metadata
from kinto_attachment.commands.references import refers
from kinto_attachment.commands.scan import attachment_of, links_between
from kinto_attachment.commands.server import Server
from kinto_attachment.storage.names import is_private


def is_unreferenced(server: Server, key: str, _record_uri: str) -> bool:
    """Return whether a file has no link and is not queued for deletion."""
    # It gets its link in the commit that makes its upload done. It is queued in the commit that
    # removes its link or its upload, and leaves the queue after its deletion.
    return (
        not is_of_upload(server, key)
        and bool(server.links.unreferenced([key]))
        and not server.deletions.entries_of(key)
        and server.files.exists(key)
    )


def is_of_upload(server: Server, key: str, _record_uri: str = "") -> bool:
    """Return whether an upload is to give a file to its record."""
    return server.uploads.stores(key)


def is_expired(server: Server, id_: str, record_uri: str) -> bool:
    """Return whether an upload is expired."""
    return server.uploads.is_expired(record_uri, id_)


def exists(server: Server, key: str, _record_uri: str) -> bool:
    """Return whether a file exists."""
    return server.files.exists(key)


def is_stale(server: Server, key: str, record_uri: str) -> bool:
    """Return whether a link's record does not refer to the link's file."""
    # A link read after its record existed before: they change in one commit.
    return not is_in_record(server, key, record_uri) and bool(
        links_between(server, record_uri, key)
    )


def is_different(server: Server, key: str, record_uri: str) -> bool:
    """Return whether a link's metadata is not that of its record."""
    before = attachment_of(server, record_uri)
    links = server.links.of_records([record_uri])
    is_unchanged = metadata.are_equal(attachment_of(server, record_uri), before)
    return (
        is_unchanged
        and refers(before, record_uri, key, links)
        and any(
            not metadata.are_equal(link.get("attachment", before), before)
            for link in links
            if link["location"] == key
        )
    )


def is_unlinked(server: Server, key: str, record_uri: str) -> bool:
    """Return whether a record refers to a file without a link."""
    before = links_between(server, record_uri, key)
    refers = is_in_record(server, key, record_uri)
    return refers and not before and not links_between(server, record_uri, key)


def is_unknown(server: Server, _key: str, record_uri: str) -> bool:
    """Return whether a record has a private location, and no link says which file that is."""
    before = _has_private_link(server, record_uri)
    attachment = attachment_of(server, record_uri)
    is_there = metadata.is_private_location(attachment, record_uri)
    return is_there and not before and not _has_private_link(server, record_uri)


def _has_private_link(server: Server, record_uri: str) -> bool:
    return any(is_private(link["location"]) for link in server.links.of_records([record_uri]))


def is_missing(server: Server, key: str, record_uri: str) -> bool:
    """Return whether a record refers to a file that does not exist."""
    # A record that refers to it now did so before: a file is deleted after its record changed.
    return not server.files.exists(key) and is_in_record(server, key, record_uri)


def is_in_record(server: Server, key: str, record_uri: str) -> bool:
    """Return whether a record refers to a file."""
    attachment = attachment_of(server, record_uri)
    return refers(attachment, record_uri, key, server.links.of_records([record_uri]))


def is_legacy(server: Server, key: str, record_uri: str) -> bool:
    """Return whether a link is one of an earlier plugin."""
    return any("attachment" not in link for link in links_between(server, record_uri, key))


def is_queued(server: Server, key: str, _record_uri: str) -> bool:
    """Return whether a file is queued for deletion, and due."""
    return bool(server.deletions.due_entries_of(key))
