"""The files that are not where the settings have those of their collection: private, or public."""

import itertools
from collections.abc import Iterator

from kinto_attachment import uris
from kinto_attachment.commands import scan
from kinto_attachment.commands.inventory import Inventory
from kinto_attachment.commands.server import Server
from kinto_attachment.settings.limits import PRIVATE
from kinto_attachment.settings.values import Settings
from kinto_attachment.storage.names import PRIVATE_FOLDER, is_private


# The index has all that this reads. LIKE ignores the case, as is_private() does.
RECORDS = f"""
SELECT record
FROM links INDEXED BY links_record
WHERE record >= :first AND record < :end AND (key LIKE '{PRIVATE_FOLDER}%') != :is_private
ORDER BY record
"""


def misplaced(server: Server, links: Iterator[scan.Object]) -> Iterator[scan.Object]:
    """Return the links to misplaced files."""
    for link in links:
        ids = uris.ids_of_collection(uris.parent_uri(link["record_uri"]))
        if server.settings.for_collection(*ids).is_private != is_private(link["location"]):
            yield link


def count_misplaced(inventory: Inventory, settings: Settings) -> Iterator[tuple[str, str, int]]:
    """Yield ``(collection URI, downloads, number)`` of what :func:`misplaced` finds.

    ``downloads`` is the setting of the collection, ``private`` or ``public``.
    """
    for first, end, downloads in record_ranges(settings):
        bounds = {"first": first, "end": end}
        found = inventory.rows(RECORDS, **bounds, is_private=downloads == PRIVATE)
        for collection, rows in itertools.groupby(found, lambda row: uris.parent_uri(row[0])):
            yield collection, downloads, sum(1 for _ in rows)


def record_ranges(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield ``(first, end, downloads)`` of ranges in which the URIs of all records are.

    There are two for each bucket or collection with settings of its own, and a first one, however
    many others there are.
    """
    ids_from: dict[str, tuple[str, ...]] = {"": ()}
    for ids in settings.resources:
        uri = f"/buckets/{'/collections/'.join(ids)}"
        ids_from[f"{uri}/"] = ids
        # What its bucket has, or the server, goes on there: "0" follows "/".
        ids_from[f"{uri}0"] = ids[:-1]
    for (first, ids), (end, _) in itertools.pairwise([*sorted(ids_from.items()), ("0", ())]):
        bucket_id, collection_id, *_ = (*ids, "", "")
        yield first, end, settings.for_collection(bucket_id, collection_id).downloads
