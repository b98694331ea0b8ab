"""Reading Kinto's objects: all of them in pages, or those of one record.

No transaction stays open from one page to the next, since a check may take hours.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from kinto.core.storage import Filter, Sort
from kinto.core.utils import COMPARISON

from kinto_attachment import deletions, legacy_links, links, paging, uris
from kinto_attachment.commands.server import Server
from kinto_attachment.resumable import uploads
from kinto_attachment.resumable.upload import Upload


Object = dict[str, Any]


def all_records(server: Server) -> Iterator[tuple[str, Object]]:
    """Return the records that have any attachment, with their URIs.

    Records that change meanwhile may be missing.
    """
    with_attachment = [Filter("attachment", True, COMPARISON.HAS)]
    for bucket in _by_time(server, "bucket", ""):
        bucket_uri = f"/buckets/{bucket['id']}"
        for collection in _by_time(server, "collection", bucket_uri):
            collection_uri = f"{bucket_uri}/collections/{collection['id']}"
            for record in _by_time(server, "record", collection_uri, with_attachment):
                yield uris.record_uri(collection_uri, record["id"]), record


def all_links(server: Server) -> Iterator[Object]:
    """Return all links, including those of earlier plugins."""
    with server.reading():
        places = [(legacy_links.LINKS, links.ALL_PARENTS), *server.links.legacy.places()]
    for name, parent in places:
        yield from _by_id(server, name, parent, "record_uri")


def all_deletions(server: Server) -> Iterator[Object]:
    """Return the deletion queue."""
    yield from _by_id(server, deletions.QUEUE, deletions.ALL_PARENTS)


def all_uploads(server: Server) -> Iterator[Upload]:
    """Return all resumable uploads, also those that are done or expired."""
    found = _by_id(server, uploads.UPLOADS, uploads.ALL_PARENTS, "record_uri")
    return map(uploads.upload_of, found)


def links_between(server: Server, record_uri: str, key: str) -> list[Object]:
    """Return the links of a record to a file, in this transaction."""
    return [link for link in server.links.of_records([record_uri]) if link["location"] == key]


def record_of(server: Server, record_uri: str) -> Object | None:
    """Return a record as it is now, or ``None``."""
    with server.reading():
        return current_record(server, record_uri)


def attachment_of(server: Server, record_uri: str) -> Any:
    """Return a record's attachment, in this transaction, or ``None``."""
    return (current_record(server, record_uri) or {}).get("attachment")


def current_record(server: Server, record_uri: str) -> Object | None:
    """Return a record as it is in this transaction, or ``None``."""
    collection_uri, _, id_ = record_uri.rsplit("/", 2)
    return paging.records_by_id(server.objects, collection_uri, [id_]).get(id_)


def _by_time(
    server: Server, name: str, parent: str, filters: Iterable[Filter] = ()
) -> Iterator[Object]:
    """Return objects in the order of timestamps, for which Kinto has an index.

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
        limit=paging.PAGE_SIZE,
    ):
        yield from page
        bounds[1:] = [Filter("last_modified", page[-1]["last_modified"], COMPARISON.GT)]


def _by_id(server: Server, name: str, parent: str, also_by: str = "id") -> Iterator[Object]:
    """Return objects in the order of the primary key.

    :param also_by: the field that distinguishes objects of one id.
    """
    after: list[Filter] = []
    rules = None
    while page := _list(
        server,
        name,
        parent,
        filters=after,
        sorting=[Sort("id", 1), Sort(also_by, 1)],
        pagination_rules=rules,
        limit=paging.PAGE_SIZE,
    ):
        yield from page
        last = page[-1]
        # The filter lets the database use its index; the rules continue within an id.
        after = [Filter("id", last["id"], COMPARISON.MIN)]
        same_id = Filter("id", last["id"], COMPARISON.EQ)
        rules = [
            [Filter("id", last["id"], COMPARISON.GT)],
            [same_id, Filter(also_by, last[also_by], COMPARISON.GT)],
        ]


def _list(server: Server, name: str, parent: str, **options: Any) -> list[Object]:
    with server.reading():
        return server.objects.list_all(name, parent, **options)
