"""``kinto migrate``: links that earlier plugins wrote are turned into ours."""

import logging
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import transaction
from kinto.core.storage.postgresql import PostgreSQLPluginMigration

from kinto_attachment import locks, paging, uris
from kinto_attachment.links import Links
from kinto_attachment.metadata import attachment_of, refers_to
from kinto_attachment.unit_of_work import Link


logger = logging.getLogger(__name__)

BATCH_SIZE = 500
"""Running servers wait with their changes for the end of a batch."""


class Migration(PostgreSQLPluginMigration):
    """The migration of the links of earlier plugins (``config.add_migration``).

    It has no version: whenever it runs, it migrates what there is, in batches of a transaction
    each. So it can be interrupted and run again, also after a rolling upgrade in which workers of
    an earlier plugin were still running.
    """

    name = "attachment-links"

    def __init__(self, links: Links):
        self._links = links
        self._storage = links.storage

    def initialize_schema(self, client: Any = None, dry_run: bool = False) -> None:
        """Migrate all links whose record refers to the file, and log how many stay."""
        if self._storage.get_installed_version() is None:
            # A simulation on an empty database.
            return
        migrated = left = 0
        for resource, parent in self._places():
            batches = paging.pages(self._storage, resource, parent, size=BATCH_SIZE)
            while counts := self._migrate_next(batches, dry_run):
                migrated, left = migrated + counts[0], left + counts[1]
                logger.info("%d links of earlier plugins so far", migrated + left)
        verb = "would be migrated" if dry_run else "were migrated"
        logger.info("%d links of earlier plugins %s", migrated, verb)
        if left:
            logger.warning(
                "%d links of earlier plugins stay, since no record refers to their files: "
                "`kinto-attachment check` lists them, `kinto-attachment repair` removes them",
                left,
            )

    def _places(self) -> list[tuple[str, str]]:
        with transaction.manager:
            return self._links.legacy.places()

    def _migrate_next(self, batches: Iterator[list[Link]], dry_run: bool) -> tuple[int, int] | None:
        """Return how many links of the next batch are migrated and how many stay, if there is one.

        A running server that detaches one of these files waits for the end of the batch, or its
        change is seen here.
        """
        with transaction.manager:
            if not dry_run:
                locks.lock_object(self._storage, locks.EVERYTHING)
            batch = next(batches, None)
            if batch is None:
                return None
            described = self._described(batch)
            if not dry_run:
                self._links.upgrade(described)
            return len(described), len(batch) - len(described)

    def _described(self, batch: list[Link]) -> list[tuple[Link, Any]]:
        """Return the links whose record refers to the file, each with its metadata there."""
        ids = defaultdict(set)
        for link in batch:
            ids[uris.parent_uri(link["record_uri"])].add(uris.id_of(link["record_uri"]))
        attachments = {
            uris.record_uri(parent, id_): attachment_of(record)
            for parent, of_parent in ids.items()
            for id_, record in paging.records_by_id(self._storage, parent, of_parent).items()
        }
        found = ((link, attachments.get(link["record_uri"])) for link in batch)
        return [(link, one) for link, one in found if refers_to(one, link)]
