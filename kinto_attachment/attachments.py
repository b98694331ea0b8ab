"""The verbs: attach, detach, follow, release. Here files and records meet, in the one safe order.

Write the record, then link it to the new file, then unlink the previous one and enqueue it. Until
the transaction ends, a new file belongs to it.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from kinto.core.storage.exceptions import IntegrityError

from kinto_attachment import errors, locks, reconcile, retention, unit_of_work, uris
from kinto_attachment.copies import Copies, Writer
from kinto_attachment.deletions import Deletions, KeysByDue
from kinto_attachment.form.gzip import GZIP_MIMETYPE
from kinto_attachment.links import Links, new_link
from kinto_attachment.metadata import are_equal, attachment_of, is_among, is_located_at
from kinto_attachment.paging import delete_children, records_by_id
from kinto_attachment.resumable.uploads import Uploads
from kinto_attachment.settings.values import CollectionSettings, Settings
from kinto_attachment.storage.contract import LocalFiles, StagedFile, Storage
from kinto_attachment.storage.names import upload_key
from kinto_attachment.unit_of_work import Link, LinkSnapshot


SERVER_FIELDS = ("attachment", "last_modified", "schema")
"""Fields of a record that are the server's: a client that sends the whole record back has them."""


class Record(Protocol):
    """The record of a request, which Kinto's own resource writes.

    :ivar current: the record, or ``None`` if it does not exist.
    """

    bucket_id: str
    collection_id: str
    id: str
    uri: str
    current: dict[str, Any] | None

    def check_preconditions(self) -> None: ...

    def create_missing_parents(self) -> None: ...

    def write(self, changes: dict[str, Any], permissions: dict[str, Any] | None) -> Any: ...

    def clear_attachment(self) -> Any: ...


@dataclass(frozen=True)
class Change:
    """A change of a record.

    :ivar old: its attachment before, as Kinto gives it.
    :ivar new: its attachment after it.
    :ivar is_creation: whether there was no record before.
    """

    record_id: str
    old: Any
    new: Any
    is_creation: bool
    writer: Writer


class Attachments:
    """The attachments of a server.

    :param files: the storage of the attachments.
    :ivar uploads: the resumable ones.
    :param on_attached: is called with the size of a file, in bytes, as soon as it is committed.
    :ivar time_publish: returns a context in which a file is published.
    """

    def __init__(
        self,
        settings: Settings,
        files: Storage,
        links: Links,
        deletions: Deletions,
        uploads: Uploads,
        on_attached: Callable[[int], Any],
        time_publish: Callable[[], Any],
    ):
        self.settings = settings
        self.files = files
        self.has_local_files = isinstance(files, LocalFiles)
        self.links = links
        self.deletions = deletions
        self.uploads = uploads
        self._copies = Copies(settings, links, deletions)
        self._storage = links.storage
        self._on_attached = on_attached
        self.time_publish = time_publish

    def stage(self, record: Record, filename: str, mimetype: str) -> StagedFile:
        """Return a staged file for the upload of a record.

        :raises HTTPException: the extension is not allowed, or the ids make too long a name.
        """
        settings = self._settings_of(record)
        key = upload_key(settings, record.bucket_id, record.collection_id, record.id, filename)
        mimetype = GZIP_MIMETYPE if settings.gzipped else mimetype
        return self.files.stage(key, mimetype, unique=settings.keys_are_unique)

    def attach(
        self, record: Record, form: Any, location_of: Callable[[str], str], transactions: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Attach the file of a form to the record.

        :param location_of: gives the URL of a key.
        :param transactions: those of the request.
        :returns: Kinto's response on the change of the record, and the attachment.
        :raises HTTPException: Kinto refuses the change. The new file goes, and the previous stays.
        """
        upload = form.upload
        try:
            with self.time_publish():
                key = upload.staged.publish()
        finally:
            upload.staged.discard()
        self._own(key)
        attachment = upload.attachment(location_of(key))
        response = transactions.run(
            lambda: self.write(record, form, key, attachment),
            on_retry=lambda: self._carried_to_retry(key),
        )
        return response, attachment

    def detach(self, record: Record) -> Any:
        """Detach the file from the record, if there is one.

        :returns: Kinto's response on the change of the record, ``None`` if nothing was attached.
        :raises HTTPException: Kinto refuses the change, and the file stays.
        """
        record.check_preconditions()
        if attachment_of(record.current) is None:
            return None
        response = record.clear_attachment()
        self._replace_links(record)
        return response

    def follow(self, collection_uri: str, changes: Iterable[Change]) -> None:
        """Make links and files follow records that were changed (:mod:`reconcile`).

        :raises HTTPBadRequest: the metadata of a file of ours was changed.
        :raises IntegrityError: a change overwrites another one unseen, which Kinto answers by 409.
        """
        snapshot = unit_of_work.current().links
        uri_of = partial(uris.record_uri, collection_uri)
        # A new record without an attachment has no links: the lists of a bulk import are long.
        changed = [
            change
            for change in changes
            if not _is_attached(snapshot, uri_of(change.record_id), change)
            and not (change.is_creation and change.new is None)
        ]
        if not changed:
            return
        # Code on the server may have taken no lock: links must not be migrated meanwhile.
        locks.block_flush(self._storage)
        # Kinto may have read the old record before taking the lock; only the links are reliable.
        links: dict[str, list[Link]] = {uri_of(change.record_id): [] for change in changed}
        for link in self.links.of_records(list(links)):
            links[link["record_uri"]].append(link)
        # A record without links and without an attachment has nothing to be settled.
        settled = {c.record_id for c in changed if c.new is not None or links[uri_of(c.record_id)]}
        current = records_by_id(self._storage, collection_uri, settled)
        for change in changed:
            self._remember(uri_of(change.record_id), change, links, change.record_id in current)
        for change in changed:
            self._refuse_forgery(uri_of(change.record_id), change)
        # Several users of a batch may change a record, of whom the last has copied nothing.
        writers: defaultdict[str, list[Writer]] = defaultdict(list)
        before: defaultdict[str, list[Any]] = defaultdict(list)
        for change in changed:
            writers[change.record_id].append(change.writer)
            before[uri_of(change.record_id)].append(change.old)
        unlinked = [
            link
            for id_, own in writers.items()
            for link in self._settle(
                own, uri_of(id_), attachment_of(current.get(id_)), links[uri_of(id_)]
            )
        ]
        self._change_links([], unlinked, before)

    def release(self, field: str, object_uri: str, writer: Writer, is_batch: bool) -> None:
        """Release the files of all records of a bucket or a collection, and delete these records.

        :param field: ``bucket_uri`` or ``collection_uri``.
        :param writer: who deletes it.
        :param is_batch: whether other requests of the transaction may copy their attachments. If
            not, the links, of which there may be a million, are not kept in memory.
        """
        # In the order of lock_record. Nor may links be migrated while they are read.
        locks.block_flush(self._storage)
        locks.lock_object(self._storage, object_uri)
        snapshot = unit_of_work.current().links
        for page, removed in self.links.remove_of(field, object_uri):
            is_restorable = is_batch or self.settings.delay_deletions
            links = self._copies.with_metadata(page, writer) if is_restorable else page
            if is_batch:
                snapshot.removed_ids |= removed
                for link in links:
                    snapshot.remember(link["record_uri"], [link])
            by_due = retention.by_due(self.settings, links)
            for due in sorted(by_due, key=lambda due: due or 0):
                self.deletions.enqueue_files_of(by_due[due], due)
        delete_children(self._storage, object_uri)

    def collect_before_flush(self) -> KeysByDue:
        """Return all records' files, and the queue: Kinto's event comes when they are gone."""
        locks.lock_object(self._storage, locks.EVERYTHING)
        keys = self.deletions.queued()
        for page in self.links.pages():
            for due, links in retention.by_due(self.settings, page).items():
                keys.setdefault(due, set()).update(link["location"] for link in links)
        return keys

    def flush(self, keys: KeysByDue) -> None:
        """Release files of which the records are gone."""
        queued: set[str] = set()
        for due in sorted(keys, key=lambda due: due or 0, reverse=True):
            self.deletions.enqueue(sorted(keys[due] - queued), due)
            queued |= keys[due]

    def _settings_of(self, record: Record) -> CollectionSettings:
        return self.settings.for_collection(record.bucket_id, record.collection_id)

    def _own(self, key: str) -> None:
        unit_of_work.current().add_new_file(key, self._discard)

    def _discard(self, keys: list[str], in_doubt: bool) -> None:
        if in_doubt:
            self.deletions.keep_in_doubt(keys)
        else:
            self.deletions.discard(keys)

    @contextlib.contextmanager
    def _carried_to_retry(self, key: str) -> Iterator[None]:
        """Give a new file from the transaction that is undone to the next one."""
        unit_of_work.current().new_keys.remove(key)
        try:
            yield
        finally:
            self._own(key)

    def write(self, record: Record, form: Any, key: str, attachment: Any) -> Any:
        """Write a record with a stored file, and return Kinto's response.

        :param form: what was sent beside the file: its ``data`` and its ``permissions``.
        :raises HTTPException: Kinto refuses the change.
        """
        record.create_missing_parents()
        if not self._settings_of(record).keys_are_unique:
            self.deletions.reclaim(key)
        changes = {k: v for k, v in form.data.items() if k not in SERVER_FIELDS}
        response = record.write({**changes, "attachment": attachment}, form.permissions)
        # After the record: concurrent writers of it wait there, and then see this link.
        self._replace_links(record, key, attachment, is_new=response.status_code == 201)
        unit_of_work.current().after_commit(self._on_attached, attachment["size"])
        return response

    def _replace_links(
        self, record: Record, key: str | None = None, attachment: Any = None, is_new: bool = False
    ) -> None:
        """Remove the previous links of the record, and add that to its new file, if any.

        :param is_new: whether the record was created just now, so that it has no previous ones.
        """
        snapshot = unit_of_work.current().links
        found = [] if is_new else self.links.of_records([record.uri])
        # A file that was lost may be uploaded again under its name.
        previous = [link for link in found if link["location"] != key]
        snapshot.remember(record.uri, found)
        added = [] if key is None else [new_link(record.uri, key, attachment)]
        snapshot.remember(record.uri, added)
        self._change_links(added, previous, {})
        snapshot.attached[record.uri] = attachment

    def _remember(
        self, record_uri: str, change: Change, links: dict[str, list[Link]], exists: bool
    ) -> None:
        snapshot = unit_of_work.current().links
        is_known = locks.is_locked(record_uri) or record_uri in snapshot.initial
        if exists and not is_known and reconcile.is_lost_update(change.old, links[record_uri]):
            raise IntegrityError(message=f"{record_uri} got another attachment since it was read")
        snapshot.remember(record_uri, links[record_uri])
        if change.writer.is_trusted:
            snapshot.permitted.setdefault(record_uri, []).append(change.new)

    def _refuse_forgery(self, record_uri: str, change: Change) -> None:
        snapshot = unit_of_work.current().links
        state = reconcile.RecordState(
            snapshot.by_record[record_uri],
            snapshot.initial[record_uri],
            snapshot.permitted.get(record_uri),
        )
        if (
            not change.writer.is_trusted
            and reconcile.needs_source(change.old, change.new, state)
            and not self._copies.is_copy(change.writer, record_uri, change.new)
        ):
            raise errors.metadata_locked()

    def _settle(
        self, writers: list[Writer], record_uri: str, attachment: Any, links: list[Link]
    ) -> list[Link]:
        """Link a record to the file of its attachment, and return the links to be removed.

        :param writers: those that changed it. What one of them may copy is a copy.
        """
        settlement = reconcile.settle(attachment, links)
        if settlement.is_unlinked and not any(
            self._copies.link(writer, record_uri, attachment) for writer in writers
        ):
            # Code on the server may have changed the hash of a private file.
            settlement = reconcile.settle(attachment, links, is_located_at)
        for link in settlement.rewrite:
            # If not permitted, an earlier change in this transaction is at fault and is refused.
            permitted = unit_of_work.current().links.permitted.get(record_uri, ())
            if is_among(attachment, permitted) or any(
                self._copies.is_copy(writer, record_uri, attachment) for writer in writers
            ):
                self.links.add(record_uri, link["location"], attachment, link.get("origin"))
        return settlement.unlink

    def _change_links(
        self, added: list[Link], removed: list[Link], before: Mapping[str, list[Any]]
    ) -> None:
        """Add links, remove others, and enqueue the files of these.

        :param before: attachments that records had, beside those that the transaction knows.
        """
        by_due = retention.by_due(self.settings, self._copies.described(removed, before))
        at_once = {link["location"] for link in by_due.pop(None, ())}
        queued = self.deletions.prepared(sorted(at_once))
        unit_of_work.current().links.removed_ids |= self.links.change(added, removed, queued)
        for due, released in by_due.items():
            self.deletions.enqueue_files_of(released, due)


def _is_attached(snapshot: LinkSnapshot, record_uri: str, change: Change) -> bool:
    """Return whether a change is that of attaching or detaching itself."""
    return record_uri in snapshot.attached and are_equal(snapshot.attached[record_uri], change.new)
