"""Links that earlier plugins wrote: one parent for all, ids that mean nothing, no metadata.

Nothing else in the package knows their form. They cost a server nothing but a look for one of them
in each transaction, as soon as ``kinto migrate`` has turned them into ours.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from kinto_attachment import unit_of_work
from kinto_attachment.kinto_internals import execute
from kinto_attachment.paging import among, delete_all, list_all, pages, rewrite, split
from kinto_attachment.unit_of_work import Link


LINKS = "attachments"
LINKS_PARENT = "__attachments__"

RESOURCES = (LINKS, "")
"""The resource names of these links: the empty one is that of the oldest deployments."""

EXIST = """
SELECT EXISTS (SELECT 1
                 FROM objects
                WHERE parent_id = %(parent)s
                  AND resource_name IN (%(name)s, %(oldest)s)
                  AND NOT deleted)
"""


def is_legacy(link: Link) -> bool:
    """Return whether an earlier plugin wrote a link."""
    return "origin" not in link


class LegacyLinks:
    """The links of earlier plugins, in Kinto's storage."""

    def __init__(self, storage: Any):
        self._storage = storage

    def exist(self) -> bool:
        """Return whether there are any. The running transaction asks once."""
        known = unit_of_work.current().legacy_links_exist
        if self not in known:
            known[self] = self._exist()
        return known[self]

    def places(self) -> list[tuple[str, str]]:
        """Return the resource names and the parent of these links."""
        return [(name, LINKS_PARENT) for name in RESOURCES] if self.exist() else []

    def of_records(self, record_uris: Iterable[str]) -> list[Link]:
        """Return the links of records."""
        return self._among(record_uris, "record_uri")

    def to_files(self, keys: Iterable[str]) -> list[Link]:
        """Return the links to stored files."""
        return self._among(keys, "location")

    def pages(self) -> Iterator[list[Link]]:
        """Yield all links in pages. Those of a page may be removed before the next."""
        for name, parent in self.places():
            yield from pages(self._storage, name, parent)

    def remove(self, links: list[Link]) -> set[str]:
        """Remove links, and return the ids of those that were still there."""
        removed: set[str] = set()
        for ids in split([link["id"] for link in links]):
            for name in RESOURCES:
                filters = [among(ids)]
                removed |= delete_all(self._storage, name, LINKS_PARENT, len(ids), filters=filters)
        return removed

    def lock(self, link: Link) -> bool:
        """Return whether a link exists, and if so, keep it until this transaction has ended."""
        return any(rewrite(self._storage, name, LINKS_PARENT, link) for name in RESOURCES)

    def _among(self, values: Iterable[str], field: str) -> list[Link]:
        filters = [among(values, field)]
        return [
            link
            for name, parent in self.places()
            for link in list_all(self._storage, name, parent, filters)
        ]

    def _exist(self) -> bool:
        names = {"parent": LINKS_PARENT, "name": LINKS, "oldest": ""}
        found = execute(self._storage, EXIST, names)
        if found is not None:
            return bool(found.scalar())
        return any(self._storage.list_all(name, LINKS_PARENT, limit=1) for name in RESOURCES)
