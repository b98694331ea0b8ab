"""Kinto's events become calls of the verbs: files follow all that changes records."""

import copy
from typing import Any

from kinto.core.events import ACTIONS
from kinto.core.utils import instance_uri

from kinto_attachment import attachments, kinto_internals, locks, unit_of_work, uris
from kinto_attachment.metadata import attachment_of
from kinto_attachment.paging import records_by_id


FLUSH_ROUTE = "flush"
"""The route of ``kinto.plugins.flush``."""

WRITING_METHODS = {
    "record-object": ("PUT", "PATCH", "DELETE"),
    "record-plural": ("POST", "DELETE"),
}
"""Those of the routes of Kinto's records that change something."""

CONTAINER_ROUTES = ("bucket-object", "bucket-plural", "collection-object", "collection-plural")


class RequestWriter:
    """Who changed a record by a request.

    :ivar is_trusted: whether it is code on the server, which may write any metadata.
    """

    def __init__(self, request: Any):
        self._request = request
        self.is_trusted = bool(getattr(request, "_attachment_auto_save", False))

    def may_read(self, record_uris: list[str]) -> bool:
        """Return whether the user of the request may read any of these records, or could before.

        Whoever deleted a record, its collection or its bucket in this transaction could read it,
        and Kinto has deleted the permissions with it.
        """
        deleted = any(self._was_deleted(uri) for uri in record_uris)
        return deleted or kinto_internals.may_read(self._request, record_uris)

    def attachments_before(self, record_uri: str) -> list[Any]:
        """Return the attachments that a record had before each change in this transaction."""
        before = kinto_internals.objects_before(self._request, record_uri)
        return [attachment_of(record) for record in before]

    def _was_deleted(self, record_uri: str) -> bool:
        collection_uri = uris.parent_uri(record_uri)
        return any(
            kinto_internals.is_deleted(self._request, uri)
            for uri in (record_uri, collection_uri, uris.parent_uri(collection_uri))
        )


def collect_changes(event: Any) -> None:
    """Collect the changes of a request together with the request that makes each."""
    kinto_internals.collect_changes(event.request)


def retry_deletions(event: Any) -> None:
    """Delete the files that could not be deleted when they were enqueued, and expired uploads."""
    attachments = event.request.registry.attachments
    attachments.deletions.retry_pending()
    attachments.uploads.clear_sometimes()


def lock_record(event: Any) -> None:
    """Lock the record that a request is about to change, before Kinto reads it."""
    request = event.request
    route = request.matched_route
    if route is not None and request.method in WRITING_METHODS.get(route.name, ()):
        collection_uri = _collection_uri(request)
        request.registry.attachments.links.lock_record(collection_uri, request.matchdict.get("id"))


def block_flush(event: Any) -> None:
    """Have a deletion of buckets or collections and a flush take turns.

    The deletion needs that lock at its end, when it holds rows that a flush would wait for.
    """
    request = event.request
    route = request.matched_route
    if route is not None and request.method == "DELETE" and route.name in CONTAINER_ROUTES:
        locks.block_flush(request.registry.storage)


def snapshot_before_change(event: Any) -> None:
    """Remember the state before a change of which Kinto's event comes too late."""
    request, context = event.request, event.request.context
    if getattr(context, "resource_name", None) == "record" and "id" in request.matchdict:
        uri = uris.record_uri(_collection_uri(request), request.matchdict["id"])
        # An earlier request of a batch may have deleted it with all others, or made it anew since.
        before = kinto_internals.objects_before(request, uri) or [context.current_object]
        if before[0] is not None:
            _snapshot_attachment(uri, before[0])
    elif getattr(request.matched_route, "name", None) == FLUSH_ROUTE and request.method == "POST":
        # With the request: on PostgreSQL, a flush commits, and goes on in another transaction.
        attachments = request.registry.attachments
        request.attachment_keys = attachments.collect_before_flush()
        request.open_uploads = attachments.uploads.all()


def on_records_changed(event: Any) -> None:
    """Link or release the files of records.

    :raises HTTPBadRequest: the metadata of a file was changed.
    """
    request = event.request
    ids = event.payload
    collection_uri = instance_uri(
        request, "collection", bucket_id=ids["bucket_id"], id=ids["collection_id"]
    )
    partial = {one["old"]["id"] for one in event.impacted_objects if _is_partial(one)}
    full = records_by_id(request.registry.storage, collection_uri, partial)
    changes = [_change(request, one, full) for one in event.impacted_objects]
    request.registry.attachments.follow(collection_uri, changes)
    if event.payload["action"] == ACTIONS.DELETE.value:
        deleted = {uris.record_uri(collection_uri, change.record_id) for change in changes}
        request.registry.attachments.uploads.release_records(collection_uri, deleted)


def on_collections_deleted(event: Any) -> None:
    """Release the files of collections, whose records Kinto deletes without events."""
    bucket_id = event.payload["bucket_id"]
    for change in event.impacted_objects:
        uri = instance_uri(event.request, "collection", bucket_id=bucket_id, id=change["old"]["id"])
        _release(event.request, "collection_uri", uri)


def on_buckets_deleted(event: Any) -> None:
    """Release the files of buckets, whose records Kinto deletes without events."""
    for change in event.impacted_objects:
        uri = instance_uri(event.request, "bucket", id=change["old"]["id"])
        _release(event.request, "bucket_uri", uri)


def on_flushed(event: Any) -> None:
    """Release all files."""
    keys = getattr(event.request, "attachment_keys", {})
    attachments = event.request.registry.attachments
    attachments.flush(keys)
    attachments.uploads.discard(getattr(event.request, "open_uploads", []))


def _collection_uri(request: Any) -> str:
    """Return the URI of the collection of a request on a record or on the list of records."""
    ids = request.matchdict
    return instance_uri(request, "collection", bucket_id=ids["bucket_id"], id=ids["collection_id"])


def _release(request: Any, field: str, uri: str) -> None:
    attachments = request.registry.attachments
    attachments.release(field, uri, RequestWriter(request), kinto_internals.is_in_batch(request))
    attachments.uploads.release_below(uri)


def _snapshot_attachment(record_uri: str, record: dict[str, Any]) -> None:
    """Remember the attachment of a record that a request is about to change.

    Kinto mutates the old record in place on a merge patch (``recursive_update_dict`` in
    ``kinto.core.utils``).
    """
    permitted = unit_of_work.current().links.permitted
    permitted.setdefault(record_uri, [copy.deepcopy(attachment_of(record))])


def _change(request: Any, impacted: dict[str, Any], full: dict[str, Any]) -> attachments.Change:
    new = impacted.get("new")
    if _is_partial(impacted):
        # What the record is at the end of the transaction stands for what it was in between.
        new = full.get(impacted["old"]["id"])
    return attachments.Change(
        (new or impacted["old"])["id"],
        attachment_of(impacted.get("old")),
        attachment_of(new),
        is_creation="old" not in impacted,
        writer=RequestWriter(kinto_internals.request_of(request, impacted)),
    )


def _is_partial(impacted: dict[str, Any]) -> bool:
    """Return whether a part of the new record is given, as the client asked for no more.

    (``Response-Behavior``, in ``Resource.patch`` of ``kinto.core.resource``.)
    """
    return "old" in impacted and "id" not in impacted["new"]
