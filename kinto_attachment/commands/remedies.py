"""Remedies: how each kind of problem is repaired."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kinto_attachment import locks, metadata, uris
from kinto_attachment.commands import problems
from kinto_attachment.commands.claims import Claims
from kinto_attachment.commands.contents import sha256_of
from kinto_attachment.commands.inventory import Inventory
from kinto_attachment.commands.problems import Finding
from kinto_attachment.commands.references import refers
from kinto_attachment.commands.scan import (
    all_deletions,
    attachment_of,
    links_between,
    record_of,
)
from kinto_attachment.commands.server import Server
from kinto_attachment.retention import by_due
from kinto_attachment.storage.names import KeyPatterns, is_private


Remedy = Callable[[], None]


class RepairRefused(Exception):
    """A problem is left as it is, for the reason in the message."""


class RepairOptions(NamedTuple):
    """What the operator permits.

    :ivar delete_files: deleting orphan files that have a random name.
    :ivar any_name: deleting those with another name, too, and adding links to them.
    :ivar now: deleting queued files before they are due.
    """

    delete_files: bool
    any_name: bool
    now: bool


class Remedies:
    """The remedies for the problems of an inventory."""

    def __init__(self, server: Server, inventory: Inventory, options: RepairOptions):
        self.server = server
        self._inventory = inventory
        self._options = options
        self._patterns = KeyPatterns(server.settings)
        self._claims = Claims(server, inventory, options.any_name)
        self._by_kind: dict[problems.Kind, Callable[[Finding], Remedy]] = {
            problems.ORPHAN_FILE: self._for_orphan_file,
            problems.HEARTBEAT_LEFTOVER: self._for_heartbeat_leftover,
            problems.STALE_LINK: self._for_stale_link,
            problems.DETACHED_LINK: self._for_stale_link,
            problems.DANGLING_LINK: self._for_stale_link,
            problems.METADATA_MISMATCH: self._for_metadata_mismatch,
            problems.LEGACY_LINK: self._for_legacy_link,
            problems.MISSING_LINK: self._for_missing_link,
            problems.OVERDUE_DELETION: self._for_overdue_deletion,
            problems.DELETION_SCHEDULED: self._for_scheduled_deletions,
            problems.EXPIRED_UPLOAD: self._for_expired_upload,
        }

    def find(self, finding: Finding) -> Remedy:
        """Return what repairs a problem.

        :raises RepairRefused: nothing does, or it is not permitted.
        """
        if finding.kind not in self._by_kind:
            raise RepairRefused(problems.RESTORE)
        return self._by_kind[finding.kind](finding)

    def deletes_undated(self, finding: Finding) -> bool:
        """Return whether the remedy deletes a file that may be younger than its date."""
        if finding.kind != problems.ORPHAN_FILE:
            return False
        try:
            self.find(finding)
        except RepairRefused:
            return False
        query = "SELECT 1 FROM files WHERE key = :key AND NOT is_dated"
        return self._inventory.has(query, key=finding.key)

    def _for_orphan_file(self, finding: Finding) -> Remedy:
        if not self._options.delete_files:
            raise RepairRefused(
                "use --delete-files to delete it (not if keep_old_files was ever on)"
            )
        if not self._patterns.match(finding.key).is_random and not self._options.any_name:
            raise RepairRefused("use --any-name to delete it as well: its name is not random")
        if not self._inventory.count("links"):
            raise RepairRefused("no record of this database has a file: it may be the wrong one")
        return lambda: self._enqueue([finding.key])

    def _enqueue(self, keys: list[str]) -> None:
        # Not deleted at once: a file that has a link by then stays.
        with self.server.transaction():
            self.server.deletions.enqueue(keys)

    def _for_heartbeat_leftover(self, finding: Finding) -> Remedy:
        return lambda: self.server.files.delete(finding.key)

    @contextlib.contextmanager
    def _locked(self, record_uri: str) -> Iterator[None]:
        """Open a transaction in which no other one changes a record and its links."""
        with self.server.transaction():
            collection_uri, id_ = uris.parent_uri(record_uri), uris.id_of(record_uri)
            locks.lock_record(self.server.objects, collection_uri, id_)
            yield

    def _for_stale_link(self, finding: Finding) -> Remedy:
        return lambda: self._remove_link(finding)

    def _remove_link(self, finding: Finding) -> None:
        with self._locked(finding.record_uri):
            own = self.server.links.of_records([finding.record_uri])
            links = [link for link in own if link["location"] == finding.key]
            # First, so that no other transaction can make the record refer to the file.
            self.server.links.change([], links)
            attachment = attachment_of(self.server, finding.record_uri)
            if refers(attachment, finding.record_uri, finding.key, own):
                raise RepairRefused("the record refers to the file again")
            if not self._is_in_other_record(finding):
                for due, released in by_due(self.server.settings, links).items():
                    self.server.deletions.enqueue_files_of(released, due)

    def _is_in_other_record(self, finding: Finding) -> bool:
        """Return whether another record refers to the file, with a link or without."""
        query = "SELECT 1 FROM records WHERE key = :key AND record != :record"
        return self._inventory.has(query, key=finding.key, record=finding.record_uri)

    def _for_missing_link(self, finding: Finding) -> Remedy:
        attachment = self._verified_attachment(finding)
        original = self._claims.original(finding.record_uri, finding.key)
        return lambda: self._make_link(finding, attachment, original)

    def _for_metadata_mismatch(self, finding: Finding) -> Remedy:
        attachment = self._verified_attachment(finding)
        return lambda: self._update_link(finding, attachment)

    def _verified_attachment(self, finding: Finding) -> Any:
        """Return the record's attachment.

        :raises RepairRefused: its metadata is not that of the file.
        """
        attachment: Any = (record_of(self.server, finding.record_uri) or {}).get("attachment")
        if not self._may_refer(attachment, finding):
            raise RepairRefused("the record has changed")
        sizes: list[int] = []
        actual = sha256_of(self.server.files, finding.key, sizes.append)
        claimed = [attachment.get("hash"), attachment.get("size")]
        if not metadata.are_equal(claimed, [actual, sum(sizes)]):
            raise RepairRefused("the size or the SHA-256 in the record is not the file's")
        return attachment

    def _may_refer(self, attachment: Any, finding: Finding) -> bool:
        is_located = metadata.is_private_location(attachment, finding.record_uri)
        return metadata.points_to(attachment, finding.key) or (
            is_private(finding.key) and is_located
        )

    def _make_link(self, finding: Finding, attachment: Any, original: str | None) -> None:
        with self._locked(finding.record_uri):
            origin = self._locked_origin(finding, attachment, original) if original else None
            if not original and self._is_known(finding.key):
                raise RepairRefused("the file was linked or queued for deletion in the meantime")
            self._add_link(finding, attachment, origin)

    def _locked_origin(self, finding: Finding, attachment: Any, original: str) -> str:
        """Return the collection that a record's file was uploaded to, with its link locked."""
        for link in self.server.links.of_records([original]):
            linked = link.get("attachment") or attachment_of(self.server, original)
            is_same = link["location"] == finding.key and metadata.are_equal(linked, attachment)
            if is_same and self.server.links.lock(link):
                return link.get("origin") or link["collection_uri"]
        raise RepairRefused("the record that it copies has changed")

    def _is_known(self, key: str) -> bool:
        is_linked = not self.server.links.unreferenced([key])
        return is_linked or bool(self.server.deletions.entries_of(key))

    def _update_link(self, finding: Finding, attachment: Any) -> None:
        with self._locked(finding.record_uri):
            links = links_between(self.server, finding.record_uri, finding.key)
            origin = next((link["origin"] for link in links if "origin" in link), None)
            self._add_link(finding, attachment, origin)

    def _add_link(self, finding: Finding, attachment: Any, origin: str | None = None) -> None:
        record_uri = finding.record_uri
        if not metadata.are_equal(attachment_of(self.server, record_uri), attachment):
            raise RepairRefused("the record has changed")
        self.server.links.add(record_uri, finding.key, attachment, origin)

    def _for_legacy_link(self, finding: Finding) -> Remedy:
        query = "SELECT size FROM files WHERE key = :key"
        sizes = [size for (size,) in self._inventory.rows(query, key=finding.key)]
        attachment: Any = (record_of(self.server, finding.record_uri) or {}).get("attachment")
        refers = metadata.points_to(attachment, finding.key)
        if not refers or not metadata.are_equal([attachment.get("size")], sizes):
            raise RepairRefused("the file's size is not the one in its record")
        return lambda: self._replace_legacy_link(finding, attachment)

    def _replace_legacy_link(self, finding: Finding, attachment: Any) -> None:
        with self._locked(finding.record_uri):
            links = links_between(self.server, finding.record_uri, finding.key)
            # First, so that a transaction that is removing them has ended.
            if not self.server.links.change([], links):
                raise RepairRefused("the record has changed")
            self._add_link(finding, attachment)

    def _for_expired_upload(self, finding: Finding) -> Remedy:
        return lambda: self._clear_upload(finding)

    def _clear_upload(self, finding: Finding) -> None:
        self.server.uploads.clear(finding.record_uri, finding.key)
        self.server.deletions.wait_until_idle()

    def _for_overdue_deletion(self, finding: Finding) -> Remedy:
        return lambda: self._delete_queued(finding.key)

    def _delete_queued(self, key: str) -> None:
        with self.server.transaction():
            for deletion in self.server.deletions.due_entries_of(key):
                keys = self.server.deletions.take(deletion)
                self.server.deletions.enqueue(keys)

    def _for_scheduled_deletions(self, finding: Finding) -> Remedy:
        if not self._options.now:
            raise RepairRefused("use --now to delete them before that")
        return self._delete_scheduled

    def _delete_scheduled(self) -> None:
        if not self.server.deletions.process(all_deletions(self.server)):
            raise RepairRefused("a file could not be deleted")
