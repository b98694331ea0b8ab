"""Kinto's storage in pages: lists of any length, deletions of any number of objects."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from kinto.core.storage import Filter, Sort
from kinto.core.storage.exceptions import ObjectNotFoundError
from kinto.core.utils import COMPARISON

from kinto_attachment.kinto_internals import max_fetched, parents_beginning_with


PAGE_SIZE = 1000
"""Records may be large."""

Object = dict[str, Any]


def among(values: Iterable[Any], field: str = "id") -> Filter:
    """Return the condition that a field has one of these values."""
    # A set: Kinto's storage in memory looks each of its objects up in there.
    return Filter(field, set(values), COMPARISON.IN)


def split(values: Sequence[Any]) -> list[Any]:
    """Return values in pages."""
    return [values[start : start + PAGE_SIZE] for start in range(0, len(values), PAGE_SIZE)]


def batches(values: Iterable[Any], size_of: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Yield values together, up to the size of a page, and what is larger alone."""
    batch: list[Any] = []
    size = 0
    for value in values:
        size += size_of(value)
        if batch and size > PAGE_SIZE:
            yield batch
            batch, size = [], size_of(value)
        batch.append(value)
    if batch:
        yield batch


def pages(
    storage: Any,
    resource: str,
    parent: str,
    filters: Sequence[Filter] = (),
    order: str = "id",
    size: int | None = None,
) -> Iterator[list[Object]]:
    """Yield all objects in pages. Those of a page may be removed before the next is asked for.

    :param order: a field that each of them has.
    """
    size = size or PAGE_SIZE
    rules = None
    while page := storage.list_all(
        resource,
        parent,
        filters=list(filters),
        sorting=[Sort(order, 1), Sort("id", 1)],
        pagination_rules=rules,
        limit=size,
    ):
        yield page
        if len(page) < min(size, max_fetched(storage)):
            return
        rules = _after(page[-1], order)


def list_all(
    storage: Any, resource: str, parent: str, filters: Sequence[Filter] = ()
) -> list[Object]:
    """Return all objects, in no order: also more than Kinto returns at once."""
    found = storage.list_all(resource, parent, filters=list(filters))
    if len(found) < max_fetched(storage):
        return found
    return [
        one
        for page in pages(storage, resource, parent, filters, order="last_modified")
        for one in page
    ]


def records_by_id(storage: Any, collection_uri: str, ids: Iterable[str]) -> dict[str, Object]:
    """Return ``{id: record}`` of those of the records that exist, as they are now."""
    found: dict[str, Object] = {}
    for page in split(sorted(ids)):
        listed = list_all(storage, "record", collection_uri, [among(page)])
        found |= {record["id"]: record for record in listed}
    return found


def delete_all(
    storage: Any, resource: str, parent: str, expected: int, **conditions: Any
) -> set[str]:
    """Delete objects, and return their ids. Kinto may be set to delete fewer at once."""
    ids: set[str] = set()
    while expected > 0:
        deleted = storage.delete_all(resource, parent, with_deleted=False, **conditions)
        if not deleted:
            break
        ids |= {one["id"] for one in deleted}
        expected -= len(deleted)
    return ids


def delete_children(storage: Any, object_uri: str) -> None:
    """Delete all that is in a collection or a bucket, of which Kinto itself deletes a first part.

    (``on_buckets_deleted`` in ``kinto.views.buckets``. On PostgreSQL, ``delete_all`` deletes no
    more than ``storage_max_fetch_size`` objects. The rest would be back in a new collection.)
    """
    for parent in (object_uri, parents_beginning_with(f"{object_uri}/")):
        while len(storage.delete_all(None, parent, with_deleted=False)) >= max_fetched(storage):
            pass


def rewrite(storage: Any, resource: str, parent: str, one: Object) -> bool:
    """Return whether an object exists, and if so, lock its row by writing it once more."""
    try:
        storage.delete(resource, parent, one["id"], with_deleted=True)
    except ObjectNotFoundError:
        return False
    storage.update(resource, parent, one["id"], one)
    return True


def _after(last: Object, order: str) -> list[list[Filter]]:
    """Return the rules for those objects that are sorted after this one."""
    return [
        [Filter(order, last[order], COMPARISON.GT)],
        [
            Filter(order, last[order], COMPARISON.EQ),
            Filter("id", last["id"], COMPARISON.GT),
        ],
    ]
