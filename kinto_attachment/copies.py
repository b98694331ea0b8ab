"""Copies: whether a record may refer to the file of another record, or to one that it had before.

Its metadata has to be identical, and its writer has to be able to read what it is copied from. So a
writer that only guesses the metadata gets no link, and does not learn whether it was right.

The location of a private file names its record: in another one, it is a URL like any other.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from kinto.core.storage.exceptions import IntegrityError

from kinto_attachment import retention, unit_of_work, uris
from kinto_attachment.deletions import Deletions
from kinto_attachment.links import Links, origin_of
from kinto_attachment.metadata import (
    are_equal,
    attachment_of,
    is_among,
    is_private_location,
    possible_keys,
    refers_to,
)
from kinto_attachment.paging import records_by_id
from kinto_attachment.settings.values import Settings
from kinto_attachment.storage.names import is_private
from kinto_attachment.unit_of_work import Link


class Writer(Protocol):
    """Who changed a record.

    :ivar is_trusted: whether it is code on the server, which may write any metadata.
    """

    is_trusted: bool

    def may_read(self, record_uris: list[str]) -> bool:
        """Return whether it may read any of these records, or could before it changed them."""
        ...

    def attachments_before(self, record_uri: str) -> list[Any]:
        """Return the attachments that a record had before this transaction changed it."""
        ...


class Copies:
    """The copies of attachments, from one record of a server to another."""

    def __init__(self, settings: Settings, links: Links, deletions: Deletions):
        self._links = links
        self._deletions = deletions
        self._settings = settings

    def is_copy(self, writer: Writer, record_uri: str, attachment: Any) -> bool:
        """Return whether a record may refer to the file that its attachment is about."""
        sources = self._sources(writer, record_uri, attachment)
        return any(True for _ in sources) or bool(self._waiting(writer, record_uri, attachment))

    def link(self, writer: Writer, record_uri: str, attachment: Any) -> bool:
        """Link a record to the file that its attachment is about, and return whether it may be.

        If another transaction releases that file, this waits for its end.

        :raises IntegrityError: the time of a file that waited for its deletion is over by now.
        """
        locked = self._locked_source(writer, record_uri, attachment)
        if locked is not None:
            if retention.settings_of_file(self._settings, locked).delete_after:
                self._deletions.withdraw(locked["location"])
            self._add(record_uri, attachment, locked)
            return True
        waiting = self._waiting(writer, record_uri, attachment)
        for source in waiting:
            if self._deletions.withdraw(source["location"]):
                self._add(record_uri, attachment, source)
                return True
        if waiting:
            raise IntegrityError(message=f"the file of {record_uri} is being deleted")
        return False

    def with_metadata(self, links: list[Link], writer: Writer) -> list[Link]:
        """Return links with the metadata of their records, which are about to be deleted.

        :param writer: who deletes them.
        """
        record_uris = {link["record_uri"] for link in links if "attachment" not in link}
        # A request of the same batch may have changed a record, or deleted it.
        before = {uri: writer.attachments_before(uri) for uri in record_uris}
        ids: defaultdict[str, set[str]] = defaultdict(set)
        for uri in record_uris:
            ids[uris.parent_uri(uri)].add(uris.id_of(uri))
        for collection_uri, some in ids.items():
            for id_, record in records_by_id(self._links.storage, collection_uri, some).items():
                before[uris.record_uri(collection_uri, id_)].append(attachment_of(record))
        return self.described(links, before)

    def described(self, links: list[Link], before: Mapping[str, list[Any]]) -> list[Link]:
        """Return links with the metadata of their records, from which they are about to be removed.

        (Those of earlier plugins have none.)

        :param before: attachments that these had, by their URIs.
        """
        permitted = unit_of_work.current().links.permitted
        found = []
        for link in links:
            uri = link["record_uri"]
            attachments = (*permitted.get(uri, ()), *before.get(uri, ()))
            known = "attachment" in link
            own = [one for one in attachments if not known and refers_to(one, link)]
            found.append({**link, "attachment": own[0]} if own else link)
        return found

    def _add(self, record_uri: str, attachment: Any, source: Link) -> None:
        link = self._links.add(record_uri, source["location"], attachment, origin_of(source))
        unit_of_work.current().links.remember(record_uri, [link])

    def _locked_source(self, writer: Writer, record_uri: str, attachment: Any) -> Link | None:
        """Return a link to the file of this metadata that stays until this transaction has ended.

        A transaction that removed one meanwhile may have linked another record to the file: after
        it was waited for, all are read again.
        """
        removed = unit_of_work.current().links.removed_ids
        gone: set[tuple[Any, ...]] = set()
        known = -1
        while known < len(gone):
            known = len(gone)
            for source in self._sources(writer, record_uri, attachment):
                version = source["id"], source["record_uri"], source.get("last_modified")
                if version in gone:
                    continue
                if source["id"] in removed or self._links.lock(source):
                    return source
                gone.add(version)
        return None

    def _sources(self, writer: Writer, record_uri: str, attachment: Any) -> Iterator[Link]:
        """Yield the links to the file of this metadata, of records that the writer may read."""
        keys = possible_keys(attachment)
        if not keys:
            return
        known, pages = unit_of_work.current().links, self._links.pages_to(keys)
        seen = [link for key in keys for link in known.by_key.get(key, ())]
        if is_private_location(attachment, record_uri):
            seen = known.by_record.get(record_uri, [])
            pages = iter([self._links.of_records([record_uri])])
        # Those that this transaction has come across are of records that it changes.
        yield from self._with_metadata(writer, seen, record_uri, attachment)
        for page in pages:
            links = self._with_metadata(writer, page, record_uri, attachment)
            # All at once first: most files have one link.
            if links and self._may_read(writer, links):
                yield from (link for link in links if self._may_read(writer, [link]))

    def _waiting(self, writer: Writer, record_uri: str, attachment: Any) -> list[Link]:
        """Return the removed links to the file of this metadata, if it waits for its deletion.

        The writer may read all records of the collection: that it may read this one shows nothing,
        since it may have created the record again.
        """
        keys = possible_keys(attachment)
        # What was released before a change of the settings waits all the same.
        if keys and not (self._settings.delay_deletions or self._deletions.are_delayed()):
            return []
        if keys and is_private_location(attachment, record_uri):
            removed = self._deletions.removed_links([record_uri], "record_uri")
        else:
            removed = self._deletions.removed_links(keys) if keys else []
        return [
            link
            for link in self._with_metadata(writer, removed, record_uri, attachment)
            if writer.is_trusted or writer.may_read([uris.record_uri(link["collection_uri"], "")])
        ]

    def _may_read(self, writer: Writer, links: list[Link]) -> bool:
        return writer.is_trusted or writer.may_read([link["record_uri"] for link in links])

    def _with_metadata(
        self, writer: Writer, links: list[Link], record_uri: str, attachment: Any
    ) -> list[Link]:
        of_record = is_private_location(attachment, record_uri)
        keys = possible_keys(attachment)
        return [
            link
            for link in links
            if (is_private(link["location"]) if of_record else link["location"] in keys)
            and self._describes(writer, link, record_uri, attachment)
        ]

    def _describes(self, writer: Writer, link: Link, record_uri: str, attachment: Any) -> bool:
        uri = link["record_uri"]
        permitted = unit_of_work.current().links.permitted.get(uri, ())
        # Kinto mutates the old record in place on a merge patch, which may be what is judged here.
        before = writer.attachments_before(uri) if uri != record_uri else []
        earlier = [*permitted, *before]
        if is_among(attachment, earlier) and refers_to(attachment, link):
            return True
        if "attachment" in link:
            return are_equal(link["attachment"], attachment)
        # A link of an earlier plugin has no metadata; its record has, but for the one just written.
        return uri != record_uri and are_equal(attachment_of(self._record_at(uri)), attachment)

    def _record_at(self, record_uri: str) -> dict[str, Any] | None:
        id_ = uris.id_of(record_uri)
        return records_by_id(self._links.storage, uris.parent_uri(record_uri), [id_]).get(id_)
