"""Reading Kinto's objects: all of them in pages, or those of one record.

No transaction stays open from one page to the next, since a check may take hours.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from kinto.core.storage import Filter, Sort
from kinto.core.utils import COMPARISON

from kinto_attachment import records
from kinto_attachment.commands.server import Server


Page = list[dict[str, Any]]


def pages_of_records(server: Server) -> Iterator[tuple[str, Page]]:
    """Return the records that have any attachment, as ``(collection URI, page)``.

    Records that change meanwhile may be missing.
    """
    for buckets in _by_time(server, "bucket", ""):
        for bucket in buckets:
            bucket_uri = f"/buckets/{bucket['id']}"
            for collections in _by_time(server, "collection", bucket_uri):
                for collection in collections:
                    collection_uri = f"{bucket_uri}/collections/{collection['id']}"
                    with_attachment = [Filter("attachment", True, COMPARISON.HAS)]
                    for page in _by_time(server, "record", collection_uri, with_attachment):
                        yield collection_uri, page


def pages_of_links(server: Server) -> Iterator[Page]:
    """Return all links, of any age."""
    for name in records.LINK_NAMES:
        parent = records.beginning_with(records.LINKS_PARENT)
        yield from _by_id(partial(_list, server), name, parent, also_by="record_uri")


def pages_of_deletions(server: Server) -> Iterator[Page]:
    """Return the deletion queue."""
    parent = records.beginning_with(records.RELEASES_PARENT)
    yield from _by_id(partial(_list, server), records.RELEASES, parent)


def links_of(server: Server, record_uris: list[str]) -> Page:
    """Return the links of records, of any age, in this transaction."""
    places: list[tuple[str, str, list[Filter]]]
    places = [(records.LINKS, records.LINKS_PARENT + uri, []) for uri in record_uris]
    among = [Filter("record_uri", set(record_uris), COMPARISON.IN)]
    places += [(name, records.LINKS_PARENT, among) for name in records.LINK_NAMES]
    return [
        link
        for place in places
        for page in _by_id(server.objects.list_all, *place)
        for link in page
    ]


def links_between(server: Server, record_uri: str, key: str) -> Page:
    """Return the links of a record to a file, in this transaction."""
    return [link for link in links_of(server, [record_uri]) if link["location"] == key]


def record_of(server: Server, record_uri: str) -> dict[str, Any] | None:
    """Return a record as it is now, or ``None``."""
    with server.reading():
        return _record_of(server, record_uri)


def attachment_of(server: Server, record_uri: str) -> Any:
    """Return a record's attachment, in this transaction, or ``None``."""
    return (_record_of(server, record_uri) or {}).get("attachment")


def _record_of(server, record_uri):
    collection_uri, _, id_ = record_uri.rsplit("/", 2)
    return records.current(server.objects, collection_uri, [id_]).get(id_)


def _by_time(server, name, parent, filters=()):
    """Return pages in the order of timestamps, for which Kinto has an index.

    What changes meanwhile moves to the end, behind the last page.
    """
    newest = _list(server, name, parent, sorting=[Sort("last_modified", -1)], limit=1)
    if not newest:
        return
    bounds = [Filter("last_modified", newest[0]["last_modified"], COMPARISON.MAX)]
    while page := _list(
        server,
        name,
        parent,
        filters=[*filters, *bounds],
        sorting=[Sort("last_modified", 1)],
        limit=records.PAGE_SIZE,
    ):
        yield page
        bounds[1:] = [Filter("last_modified", page[-1]["last_modified"], COMPARISON.GT)]


def _by_id(list_all, name, parent, filters=(), also_by=None):
    """Return pages in the order of the primary key.

    :param list_all: that of Kinto's storage, which may return fewer than the limit.
    :param also_by: the field that distinguishes objects of one id.
    """
    after: list[Filter] = []
    rules = None
    sorting = [Sort("id", 1), *([Sort(also_by, 1)] if also_by else [])]
    while page := list_all(
        name,
        parent,
        filters=[*filters, *after],
        sorting=sorting,
        pagination_rules=rules,
        limit=records.PAGE_SIZE,
    ):
        yield page
        last = page[-1]
        # The filter lets the database use its index; the rules continue within an id.
        after = [Filter("id", last["id"], COMPARISON.MIN)]
        rules = [[Filter("id", last["id"], COMPARISON.GT)]]
        if also_by:
            rules.append(
                [
                    Filter("id", last["id"], COMPARISON.EQ),
                    Filter(also_by, last[also_by], COMPARISON.GT),
                ]
            )


def _list(server, name, parent, **options):
    with server.reading():
        return server.objects.list_all(name, parent, **options)
