"""Writes: objects of Kinto's storage, added and removed together in one round trip."""

import json
from collections.abc import Sequence
from typing import Any

from kinto.core.storage.exceptions import ObjectNotFoundError

from kinto_attachment.kinto_internals import execute, is_postgresql


Row = tuple[str, str, dict[str, Any]]
"""The name of a resource, a parent, and an object with its id."""

WRITE = """
INSERT INTO objects (id, parent_id, resource_name, data, last_modified, deleted)
SELECT one->2->>'id', one->>1, one->>0, (one->2) - '{id,last_modified}'::TEXT[],
       from_epoch(CAST(one->2->>'last_modified' AS BIGINT)), FALSE
  FROM jsonb_array_elements(CAST(%(added)s AS JSONB)) AS one
    ON CONFLICT (id, parent_id, resource_name) DO UPDATE
   SET data = EXCLUDED.data, deleted = FALSE, last_modified = EXCLUDED.last_modified;
DELETE FROM objects
 USING jsonb_array_elements(CAST(%(removed)s AS JSONB)) AS one
 WHERE id = one->2->>'id'
   AND parent_id = one->>1
   AND resource_name = one->>0
   AND NOT deleted
RETURNING id
"""
"""As ``update`` and ``delete`` of the PostgreSQL backend do, which take a query for each object."""


def write(storage: Any, added: Sequence[Row], removed: Sequence[Row] = ()) -> set[str]:
    """Add objects, or replace them, and remove others.

    :returns: the ids of the removed ones that were still there.
    """
    if not (added or removed):
        return set()
    if is_postgresql(storage):
        gone = [(name, parent, {"id": one["id"]}) for name, parent, one in removed]
        rows = {"added": json.dumps(added), "removed": json.dumps(gone)}
        return set(execute(storage, WRITE, rows).scalars())
    for name, parent, one in added:
        storage.update(name, parent, one["id"], one)
    return {row[2]["id"] for row in removed if _remove(storage, row)}


def _remove(storage: Any, row: Row) -> bool:
    name, parent, one = row
    try:
        storage.delete(name, parent, one["id"], with_deleted=False)
    except ObjectNotFoundError:
        return False
    return True
