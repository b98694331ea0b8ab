"""The rows of an inventory, links and records: read in pages, or from PostgreSQL as a stream.

A stream is one transaction, of some seconds for a million rows. In pages, they take longer.
"""

from collections.abc import Callable, Iterator
from typing import Any

from kinto_attachment import metadata
from kinto_attachment.commands import scan
from kinto_attachment.commands.server import Server
from kinto_attachment.kinto_internals import stream


Row = tuple[Any, ...]

DIGEST = "left(encode(sha256(convert_to(attachment::TEXT, 'UTF8')), 'hex'), 32)"
"""Equal JSON has equal text in PostgreSQL."""


def _text(name: str) -> str:
    field = f"attachment->'{name}'"
    return f"CASE jsonb_typeof({field}) WHEN 'string' THEN {field} #>> '{{}}' END"


LINKS = rf"""
SELECT data->>'location',
       data->>'record_uri',
       {DIGEST},
       {_text("hash")},
       {_text("mimetype")},
       EXTRACT(EPOCH FROM last_modified)::FLOAT
  FROM objects,
       LATERAL (SELECT data->'attachment' AS attachment) AS its
 WHERE NOT deleted
   AND (resource_name = 'attachments' AND parent_id LIKE '\_\_attachments\_\_/buckets/%'
        OR resource_name IN ('attachments', '') AND parent_id = '__attachments__')
"""
RECORDS = f"""
SELECT {_text("location")},
       records.parent_id || '/records/' || records.id,
       {DIGEST},
       {_text("hash")},
       {_text("mimetype")},
       attachment->'size',
       EXTRACT(EPOCH FROM records.last_modified)::FLOAT
  FROM objects AS records
  JOIN objects AS collections
    ON records.parent_id = collections.parent_id || '/collections/' || collections.id
  JOIN objects AS buckets
    ON collections.parent_id = '/buckets/' || buckets.id,
       LATERAL (SELECT records.data->'attachment' AS attachment) AS its
 WHERE records.resource_name = 'record' AND NOT records.deleted
   AND collections.resource_name = 'collection' AND NOT collections.deleted
   AND buckets.resource_name = 'bucket' AND NOT buckets.deleted
   AND attachment NOT IN ('null', 'false', '0', '""', '[]', '{{}}')
"""


def links(server: Server) -> Iterator[Row]:
    """Yield ``(key, record URI, attachment, hash, mimetype, modified)`` of each link.

    ``attachment`` is a text that is the same for equal metadata, ``None`` in links of earlier
    plugins.
    """
    return _rows(server, LINKS, _links_in_pages)


def records(server: Server) -> Iterator[Row]:
    """Yield ``(location, record URI, attachment, hash, mimetype, size, modified)`` of each record.

    They have an attachment, whatever that is. Location and hash are texts or ``None``.
    """
    for *row, size, modified in _rows(server, RECORDS, _records_in_pages):
        yield *row, valid_size(size), modified


def valid_size(size: Any) -> int | None:
    """Return the size in metadata, or ``None`` if no file can have it."""
    # True is an int in Python, and SQLite has no integers of more than 64 bits.
    return size if type(size) is int and 0 <= size < 2**63 else None


def _rows(server: Server, query: str, in_pages: Callable[[Server], Iterator[Row]]) -> Iterator[Row]:
    with server.reading():
        streamed = stream(server.objects, query)
        if streamed is not None:
            yield from streamed
            return
    yield from in_pages(server)


def _links_in_pages(server: Server) -> Iterator[Row]:
    for link in scan.all_links(server):
        described = _described(link["attachment"]) if "attachment" in link else (None, None, None)
        yield link["location"], link["record_uri"], *described, link["last_modified"] / 1000


def _records_in_pages(server: Server) -> Iterator[Row]:
    for record_uri, record in scan.all_records(server):
        if attachment := record["attachment"]:
            fields = attachment if isinstance(attachment, dict) else {}
            location, size = metadata.location_of(attachment), fields.get("size")
            modified = record["last_modified"] / 1000
            yield location, record_uri, *_described(attachment), size, modified


def _described(attachment: Any) -> tuple[str, str | None, str | None]:
    """Return an attachment as a text, its hash and its mimetype."""
    fields = attachment if isinstance(attachment, dict) else {}
    texts = (fields.get(name) for name in ("hash", "mimetype"))
    hash_, mimetype = (value if isinstance(value, str) else None for value in texts)
    return metadata.as_text(attachment), hash_, mimetype
