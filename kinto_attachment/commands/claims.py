"""Claims: attachments of records that refer to a stored file without a link.

Any client may write anything as the ``attachment`` of its record. So a claim is accepted only on
evidence: either another record has a link to the file with the same metadata, and its writer may
read that record; or no record has a link to the file, and all metadata in the claim is true,
including the file's name, which cannot be guessed.
"""

from typing import Any

from pyramid.authorization import Authenticated, Everyone

from kinto_attachment.commands.contents import sha256_of
from kinto_attachment.commands.inventory import Inventory
from kinto_attachment.commands.rows import valid_size
from kinto_attachment.commands.scan import attachment_of
from kinto_attachment.commands.server import Server
from kinto_attachment.kinto_internals import granting
from kinto_attachment.storage.names import KeyPatterns


TEXTS = ("filename", "hash", "location", "mimetype")
"""The metadata that the server writes, except for the size."""

ORIGINALS = """
SELECT links.record
FROM links
LEFT JOIN records AS linked ON linked.record = links.record AND linked.key = links.key
WHERE links.key = :key
    AND coalesce(links.attachment, linked.attachment) =
        (SELECT attachment FROM records WHERE record = :record)
"""

RIVALS = """
SELECT 1 FROM records
WHERE key = :key AND hash = :hash AND size = :size
    AND attachment != (SELECT attachment FROM records WHERE record = :record)
"""


class Claims:
    """The claims on the files of an inventory.

    :param any_name: whether names that are not random are accepted as evidence, too.
    """

    def __init__(self, server: Server, inventory: Inventory, any_name: bool = False):
        self._server = server
        self._inventory = inventory
        self._any_name = any_name
        self._patterns = KeyPatterns(server.settings)
        self._hashed: tuple[str, str | None] | None = None

    def doubt(self, record_uri: str, key: str) -> str | None:
        """Return why a claim is not accepted, or ``None`` if it is.

        :raises StorageError: the file cannot be read.
        """
        if self._inventory.has("SELECT 1 FROM links WHERE key = :key", key=key):
            return self._doubt_as_copy(record_uri, key)
        with self._server.reading():
            attachment = attachment_of(self._server, record_uri)
        return self._doubt_alone(record_uri, key, attachment)

    def original(self, record_uri: str, key: str) -> str | None:
        """Return a record with a link to the file and the same metadata, or ``None``.

        A writer of the copy may read it: the server requires the same for copies.
        """
        originals = self._inventory.rows(ORIGINALS, key=key, record=record_uri)
        return next((uri for (uri,) in originals if self._may_be_copy_of(record_uri, uri)), None)

    def _doubt_as_copy(self, record_uri: str, key: str) -> str | None:
        if self.original(record_uri, key):
            return None
        if self._inventory.has(ORIGINALS, key=key, record=record_uri):
            return "its writers may not read the record that it copies"
        return "other records have the file with other metadata"

    def _doubt_alone(self, record_uri: str, key: str, attachment: Any) -> str | None:
        if not _is_complete(attachment):
            return "its metadata is incomplete"
        if not self._inventory.has(
            "SELECT 1 FROM files WHERE key = :key AND size = :size",
            key=key,
            size=attachment["size"],
        ):
            return "no file has that name and size"
        if self._inventory.has("SELECT 1 FROM deletions WHERE key = :key", key=key):
            return "the file is queued for deletion"
        doubt = self._doubt_by_name(record_uri, key, attachment["filename"])
        if doubt:
            return doubt
        claimed = {"hash": attachment["hash"], "size": attachment["size"]}
        if self._inventory.has(RIVALS, key=key, record=record_uri, **claimed):
            return "another record has other metadata for the file"
        return None if self._hash_of(key) == attachment["hash"] else "the file has another SHA-256"

    def _doubt_by_name(self, record_uri: str, key: str, filename: str) -> str | None:
        _, _, bucket_id, _, collection_id, _, record_id = record_uri.split("/", 6)
        match = self._patterns.match_upload(key, bucket_id, collection_id, record_id, filename)
        if not match.is_ours:
            return "the settings produce no such name for a file of this record"
        if match.is_kept:
            return "keep_old_files may have kept the file of another record"
        if not match.is_random and not self._any_name:
            return "the file's name is not random"
        return None

    def _hash_of(self, key: str) -> str | None:
        # Many records may claim the same file, one after another.
        if self._hashed is None or self._hashed[0] != key:
            try:
                self._hashed = key, sha256_of(self._server.files, key)
            except FileNotFoundError:
                self._hashed = key, None
        return self._hashed[1]

    def _may_be_copy_of(self, record_uri: str, other_uri: str) -> bool:
        with self._server.reading():
            readers = self._principals(other_uri, "read")
            return bool(readers) and any(
                self._is_among(readers, writer) for writer in self._writers(record_uri)
            )

    def _writers(self, record_uri: str) -> set[str]:
        # Kinto lists the creator of a record there, unless that entry is removed.
        own = self._server.permissions.get_object_permission_principals(record_uri, "write")
        return own or self._principals(record_uri, "write")

    def _principals(self, uri: str, permission: str) -> set[str]:
        bound = granting(uri, permission)
        return set(self._server.permissions.get_authorized_principals(bound))

    def _is_among(self, readers: set[str], writer: str) -> bool:
        anyone = {Everyone, Authenticated}
        if writer in readers or writer in anyone or readers & anyone:
            return True
        return bool(readers & set(self._server.permissions.get_user_principals(writer)))


def _is_complete(attachment: Any) -> bool:
    """Return whether an attachment has all metadata that the server writes."""
    return (
        isinstance(attachment, dict)
        and all(isinstance(attachment.get(name), str) for name in TEXTS)
        and valid_size(attachment.get("size")) is not None
    )
