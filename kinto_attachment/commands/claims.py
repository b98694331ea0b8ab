"""Claims: what a record says of a stored file that no link says it holds.

Any client may write anything as the ``attachment`` of a record of its own. So a claim is taken for
true only where there is evidence for it: either another record holds the file with the same
metadata, and was there to be copied; or no record holds the file at all, and everything that the
claim says of it is true, its name included, which nobody can guess.
"""

from typing import Any

from kinto.authorization import AuthorizationPolicy
from pyramid.authorization import Authenticated, Everyone

from kinto_attachment.commands.contents import sha256_of
from kinto_attachment.commands.findings import attachment_of
from kinto_attachment.commands.inventory import Inventory, size_of
from kinto_attachment.commands.server import Server
from kinto_attachment.storage.names import KeyPatterns


TEXTS = ("filename", "hash", "location", "mimetype")
"""What the server writes about a file, beside its size."""

TWINS = """
SELECT links.record
FROM links
LEFT JOIN records AS holders
    ON holders.record = links.record AND holders.location = links.location
WHERE links.location = :location
    AND coalesce(links.attachment, holders.attachment) =
        (SELECT attachment FROM records WHERE record = :record)
"""

RIVALS = """
SELECT 1 FROM records
WHERE location = :location AND hash = :hash AND size = :size
    AND attachment != (SELECT attachment FROM records WHERE record = :record)
"""


class Claims:
    """The claims on the files of an inventory.

    :param any_name: whether any name that the settings may give is one that nobody can guess.
    """

    def __init__(self, server: Server, inventory: Inventory, any_name: bool = False):
        self._server = server
        self._inventory = inventory
        self._any_name = any_name
        self._names = KeyPatterns(server.settings)
        self._policy = AuthorizationPolicy()
        self._hashed: tuple[str, str | None] | None = None

    def doubt(self, record_uri: str, location: str) -> str | None:
        """Return why a claim is not taken for true, or ``None`` where it is.

        :raises StorageError: the file cannot be read.
        """
        if self._has("SELECT 1 FROM links WHERE location = :location", location=location):
            return self._doubt_as_copy(record_uri, location)
        with self._server.reading():
            attachment = attachment_of(self._server, record_uri)
        return self._doubt_alone(record_uri, location, attachment)

    def twin(self, record_uri: str, location: str) -> str | None:
        """Return a record that holds the file with the same metadata, of which this is a copy.

        Whoever may write the copy may read that one, as the server asks of who copies.
        """
        twins = self._inventory.rows(TWINS, location=location, record=record_uri)
        return next((uri for (uri,) in twins if self._may_be_copy_of(record_uri, uri)), None)

    def _doubt_as_copy(self, record_uri, location):
        if self.twin(record_uri, location):
            return None
        if self._has(TWINS, location=location, record=record_uri):
            return "who may write it may not read the record that it copies"
        return "other records hold the file, and say something else of it"

    def _doubt_alone(self, record_uri, location, attachment):
        if not _is_complete(attachment):
            return "it does not say all that the server says"
        if not self._has(
            "SELECT 1 FROM files WHERE name = :location AND size = :size",
            location=location,
            size=attachment["size"],
        ):
            return "there is no such file of that size"
        if self._has("SELECT 1 FROM releases WHERE location = :location", location=location):
            return "the file was let go"
        doubt = self._doubt_by_name(record_uri, location, attachment["filename"])
        if doubt:
            return doubt
        claimed = {"hash": attachment["hash"], "size": attachment["size"]}
        if self._has(RIVALS, location=location, record=record_uri, **claimed):
            return "another record says something else of the file"
        return None if self._hash_of(location) == attachment["hash"] else "the file is another one"

    def _doubt_by_name(self, record_uri, location, filename):
        _, _, bucket_id, _, collection_id, _, record_id = record_uri.split("/", 6)
        verdict = self._names.match_upload(location, bucket_id, collection_id, record_id, filename)
        if not verdict.is_ours:
            return "the settings give no such name to a file of this record"
        if verdict.is_kept:
            return "keep_old_files may have kept the file of another record"
        if not verdict.is_random and not self._any_name:
            return "the name of the file is not a random one"
        return None

    def _has(self, query, **values):
        return any(True for _ in self._inventory.rows(query, **values))

    def _hash_of(self, location):
        # Many records may claim the same file, one after the other.
        if self._hashed is None or self._hashed[0] != location:
            try:
                self._hashed = location, sha256_of(self._server.files, location)
            except FileNotFoundError:
                self._hashed = location, None
        return self._hashed[1]

    def _may_be_copy_of(self, record_uri, other_uri):
        with self._server.reading():
            readers = self._principals(other_uri, "read")
            return bool(readers) and any(
                self._is_among(readers, writer) for writer in self._writers(record_uri)
            )

    def _writers(self, record_uri):
        # Who creates a record is named there, as long as nobody takes that away.
        own = self._server.permissions.get_object_permission_principals(record_uri, "write")
        return own or self._principals(record_uri, "write")

    def _principals(self, uri, permission):
        bound = self._policy.get_bound_permissions(uri, permission)
        return set(self._server.permissions.get_authorized_principals(bound))

    def _is_among(self, readers, writer):
        everybody = {Everyone, Authenticated}
        if writer in readers or writer in everybody or readers & everybody:
            return True
        return bool(readers & set(self._server.permissions.get_user_principals(writer)))


def _is_complete(attachment: Any) -> bool:
    """Return whether metadata have what the server writes."""
    return (
        isinstance(attachment, dict)
        and all(isinstance(attachment.get(name), str) for name in TEXTS)
        and size_of(attachment) is not None
    )
