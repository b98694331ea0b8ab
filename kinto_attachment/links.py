"""Links: which record refers to which stored file. They decide what is deleted."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from kinto.core.storage import Filter
from kinto.core.utils import COMPARISON

from kinto_attachment import locks, unit_of_work, uris
from kinto_attachment.kinto_internals import execute, parents_beginning_with
from kinto_attachment.legacy_links import LINKS, LINKS_PARENT, LegacyLinks, is_legacy
from kinto_attachment.paging import among, delete_all, list_all, pages, rewrite, split
from kinto_attachment.unit_of_work import Link
from kinto_attachment.writes import Row, write


LINKS_PAGE_SIZE = 10_000
"""As many as Kinto itself deletes at once (``storage_max_fetch_size``). Links are small."""

SOURCES_PAGE_SIZE = 100
"""How many links to one file are looked at together: most files have one."""

UPLOADS_PARENT = f"{LINKS_PARENT}/uploads"
"""The beginning of the parent of a record's resumable uploads, before the URI of the record."""

ALL_PARENTS = parents_beginning_with(f"{LINKS_PARENT}/buckets/")

OF_PARENTS = """
SELECT id, as_epoch(last_modified) AS last_modified, data
  FROM objects
 WHERE parent_id IN %(parents)s
   AND NOT deleted
"""
REMOVE_PAGE = """
WITH page AS MATERIALIZED (
    SELECT id, parent_id, resource_name, as_epoch(last_modified) AS last_modified, data
      FROM objects
     WHERE parent_id LIKE %(parent_id)s
       AND resource_name = %(name)s
       AND data->>%(field)s = %(uri)s
       AND NOT deleted
     LIMIT %(size)s
       FOR UPDATE
), removed AS (
    DELETE FROM objects
     USING page
     WHERE objects.id = page.id
       AND objects.parent_id = page.parent_id
       AND objects.resource_name = page.resource_name
)
SELECT id, last_modified, data FROM page
"""
"""Removes links and returns them. Kinto would take a query for each, with all ids in the second."""

MAX_LOCKED = 10
"""How many links are read with the lock of a record, which has hardly ever more than one."""


class Links:
    """The links of a server, in Kinto's storage.

    A link is ``{"id", "location", "attachment", "record_uri", "collection_uri", "bucket_uri",
    "origin"}``: ``location`` is the key of the file, ``attachment`` the metadata of the record, and
    ``origin`` the URI of the collection that the file was uploaded to. Those of earlier plugins
    have neither metadata nor origin.

    Every record has a parent of its own: Kinto's storage keeps one timestamp per parent, on which
    concurrent transactions conflict. The id is made from the key, so that the primary key finds all
    records that refer to a file.
    """

    def __init__(self, storage: Any):
        self.storage = storage
        self.legacy = LegacyLinks(storage)

    def add(self, record_uri: str, key: str, attachment: Any, origin: str | None = None) -> Link:
        """Link a record to a stored file, and return the link.

        :param origin: the URI of the collection that the file was uploaded to, if it is another.
        """
        link = new_link(record_uri, key, attachment, origin)
        self.change([link])
        return link

    def change(
        self, added: Collection[Link], removed: Collection[Link] = (), others: Sequence[Row] = ()
    ) -> set[str]:
        """Add links, and remove others.

        :param others: what to write with them.
        :returns: the ids of the removed links that were still there.
        """
        locked = unit_of_work.current().links.locked
        for link in (*added, *removed):
            locked.pop(link["record_uri"], None)
        ours = [_row(link) for link in removed if not is_legacy(link)]
        gone = write(self.storage, [*map(_row, added), *others], ours)
        return gone | self.legacy.remove([link for link in removed if is_legacy(link)])

    def lock_record(self, collection_uri: str, record_id: str | None = None) -> None:
        """Lock a record as :func:`kinto_attachment.locks.lock_record` does, and read its links.

        And whether it has resumable uploads, with the same query.

        Until the transaction ends, no other one changes them.
        """
        uri = uris.record_uri(collection_uri, record_id or "")
        # The second parent is that of all links of earlier plugins.
        parents = (LINKS_PARENT + uri, LINKS_PARENT, UPLOADS_PARENT + uri)
        query = f"{OF_PARENTS} LIMIT {MAX_LOCKED}"
        rows = locks.lock_record(self.storage, collection_uri, record_id, query, parents=parents)
        if rows is not None:
            found = [_link(row) for row in rows]
            links = [one for one in found if "location" in one]
            if len(found) < MAX_LOCKED and not any(map(is_legacy, links)):
                snapshot = unit_of_work.current().links
                snapshot.locked[uri] = links
                snapshot.without_uploads |= {uri} if links == found else set()

    def of_records(self, record_uris: Iterable[str]) -> list[Link]:
        """Return the links of records."""
        locked = unit_of_work.current().links.locked
        found = [link for uri in record_uris for link in locked.get(uri, ())]
        if others := [uri for uri in record_uris if uri not in locked]:
            found += [link for some in split(others) for link in self._of_records(some)]
            found += self.legacy.of_records(others)
        return found

    def pages_to(self, keys: list[str]) -> Iterator[list[Link]]:
        """Yield the links to stored files, of all records, in pages."""
        filters = [among(map(_id_of, keys))]
        yield from self._pages(ALL_PARENTS, filters, SOURCES_PAGE_SIZE)
        if legacy := self.legacy.to_files(keys):
            yield legacy

    def pages(self) -> Iterator[list[Link]]:
        """Yield all links in pages. Those of a page may be removed before the next."""
        yield from self._pages(ALL_PARENTS)
        yield from self.legacy.pages()

    def unreferenced(self, keys: Iterable[str]) -> list[str]:
        """Return the stored files that no link refers to.

        Each query looks once more at all that the one before has not found, so that one of them
        finds of all returned keys, at one moment, that no link refers to them: a file may pass from
        one record to another at any time. From a link of an earlier plugin it passes to one of
        ours, and never back, hence the order.
        """
        left = set(keys)
        while left and (links := self.legacy.to_files(sorted(left))):
            left -= {link["location"] for link in links}
        while left and (links := self._with_keys(left)):
            ids = {link["id"] for link in links}
            left = {key for key in left if _id_of(key) not in ids}
        return sorted(left)

    def remove_of(self, field: str, object_uri: str) -> Iterator[tuple[list[Link], set[str]]]:
        """Remove the links of a bucket or a collection, and yield them in pages.

        :param field: ``collection_uri`` or ``bucket_uri``.
        :returns: an iterator of links, and the ids of those that were still there.
        """
        unit_of_work.current().links.locked.clear()
        ours = (LINKS, parents_beginning_with(f"{LINKS_PARENT}{object_uri}/"))
        for place in (ours, *self.legacy.places()):
            # Always the first page: those before it are gone.
            while (page := self._remove_page(*place, field, object_uri))[0]:
                yield page

    def upgrade(self, described: list[tuple[Link, Any]]) -> int:
        """Turn links of earlier plugins into ours, and return how many were still there.

        :param described: the links, each with the metadata that its record has of the file.
        """
        removed = self.legacy.remove([link for link, _ in described])
        # Of several links of a record to a file, one: PostgreSQL writes no row twice at once.
        new = {
            (link["record_uri"], link["location"]): new_link(
                link["record_uri"], link["location"], attachment
            )
            for link, attachment in described
            if link["id"] in removed
        }
        self.change(new.values())
        return len(removed)

    def lock(self, link: Link) -> bool:
        """Return whether a link exists, and if so, keep it until this transaction has ended.

        A transaction that removes it waits for that end, and finds it then. (Its row is kept and
        written: a waiting transaction would not find one that was deleted and made again.)
        """
        if is_legacy(link):
            return self.legacy.lock(link)
        parent = LINKS_PARENT + link["record_uri"]
        return rewrite(self.storage, LINKS, parent, link)

    def _pages(
        self, parent: str, filters: Sequence[Filter] = (), size: int | None = None
    ) -> Iterator[list[Link]]:
        size = size or LINKS_PAGE_SIZE
        return pages(self.storage, LINKS, parent, filters, order="record_uri", size=size)

    def _of_records(self, record_uris: list[str]) -> list[Link]:
        parents = tuple(LINKS_PARENT + uri for uri in record_uris)
        rows = execute(self.storage, OF_PARENTS, {"parents": parents})
        if rows is not None:
            return [_link(row) for row in rows]
        return [link for parent in parents for link in list_all(self.storage, LINKS, parent)]

    def _with_keys(self, keys: Iterable[str]) -> list[Link]:
        return self.storage.list_all(LINKS, ALL_PARENTS, filters=[among(map(_id_of, keys))])

    def _remove_page(
        self, name: str, parent: str, field: str, object_uri: str
    ) -> tuple[list[Link], set[str]]:
        page_of = {"field": field, "uri": object_uri, "name": name, "size": LINKS_PAGE_SIZE}
        parameters = page_of | {"parent_id": parent.replace("*", "%")}
        rows = execute(self.storage, REMOVE_PAGE, parameters)
        if rows is not None:
            links = [_link(row) for row in rows]
            return links, {link["id"] for link in links}
        filters = [Filter(field, object_uri, COMPARISON.EQ)]
        page = self.storage.list_all(name, parent, filters=filters, limit=LINKS_PAGE_SIZE)
        filters.append(among(link["id"] for link in page))
        return page, delete_all(self.storage, name, parent, len(page), filters=filters)


def origin_of(link: Link) -> str:
    """Return the URI of the collection that the file of a link was uploaded to."""
    return link.get("origin") or link["collection_uri"]


def new_link(record_uri: str, key: str, attachment: Any, origin: str | None = None) -> Link:
    """Return a link to be added (:meth:`Links.add`)."""
    collection_uri = uris.parent_uri(record_uri)
    return {
        "id": _id_of(key),
        "location": key,
        "attachment": attachment,
        "record_uri": record_uri,
        "collection_uri": collection_uri,
        "bucket_uri": uris.parent_uri(collection_uri),
        "origin": origin or collection_uri,
    }


def _id_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _link(row: Any) -> Link:
    return {**row.data, "id": row.id, "last_modified": row.last_modified}


def _row(link: Link) -> Row:
    return LINKS, LINKS_PARENT + link["record_uri"], link
