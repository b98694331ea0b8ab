"""Kinto's events: whatever changes records, the files follow."""

from kinto.core.events import ACTIONS, ResourceChanged
from kinto.core.utils import instance_uri
from kinto.events import ServerFlushed
from pyramid.events import ContextFound, NewRequest

from kinto_attachment import attachments, default_bucket


FLUSH_ROUTE = "flush"
"""The route of ``kinto.plugins.flush``."""


def includeme(config):
    """Have the files follow all changes of records, collections and buckets."""
    deleted = (ACTIONS.DELETE,)
    changed = (ACTIONS.CREATE, ACTIONS.UPDATE, ACTIONS.DELETE)
    for listener, resource, actions in (
        (on_records_changed, "record", changed),
        (on_collections_deleted, "collection", deleted),
        (on_buckets_deleted, "bucket", deleted),
    ):
        config.add_subscriber(
            listener, ResourceChanged, for_resources=(resource,), for_actions=actions
        )
    config.add_subscriber(default_bucket.resolve, NewRequest)
    config.add_subscriber(on_request, ContextFound)
    config.add_subscriber(on_flushed, ServerFlushed)


def on_records_changed(event):
    """Link or release the files of records.

    :raises HTTPBadRequest: the metadata of a file was changed.
    """
    collection_uri = instance_uri(
        event.request,
        "collection",
        bucket_id=event.payload["bucket_id"],
        id=event.payload["collection_id"],
    )
    attachments.follow(event.request, collection_uri, event.impacted_objects)


def on_collections_deleted(event):
    """Release the files of collections, whose records Kinto deletes without events."""
    for change in event.impacted_objects:
        collection_uri = instance_uri(
            event.request,
            "collection",
            bucket_id=event.payload["bucket_id"],
            id=change["old"]["id"],
        )
        attachments.release(event.request, "collection_uri", collection_uri)


def on_buckets_deleted(event):
    """Release the files of buckets, whose records Kinto deletes without events."""
    for change in event.impacted_objects:
        bucket_uri = instance_uri(event.request, "bucket", id=change["old"]["id"])
        attachments.release(event.request, "bucket_uri", bucket_uri)


def on_request(event):
    """Look at the links before Kinto's flush, which deletes them before it tells of it."""
    route = event.request.matched_route
    if route is not None and route.name == FLUSH_ROUTE and event.request.method == "POST":
        attachments.foresee_flush(event.request)


def on_flushed(event):
    """Release all files."""
    attachments.flush(event.request)
