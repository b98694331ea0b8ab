"""Kinto's events: whatever changes records, the files follow."""

from kinto.core.events import ACTIONS, EventCollector, ResourceChanged
from kinto.core.utils import instance_uri
from kinto.events import ServerFlushed
from pyramid.events import BeforeTraversal, ContextFound, NewRequest
from pyramid.settings import asbool

from kinto_attachment import attachments, default_bucket, locks, records


FLUSH_ROUTE = "flush"
"""The route of ``kinto.plugins.flush``."""

WRITING_METHODS = {
    "record-object": ("PUT", "PATCH", "DELETE"),
    "record-plural": ("POST", "DELETE"),
}
"""Those of the routes of Kinto's records that change something."""


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
    config.add_subscriber(collect_changes, NewRequest)
    config.add_subscriber(foresee, ContextFound)
    config.add_subscriber(on_flushed, ServerFlushed)
    if not asbool(config.get_settings()["readonly"]):
        config.add_subscriber(lock, BeforeTraversal)
        config.add_subscriber(try_again, NewRequest)


class Changes(EventCollector):
    """Kinto's collector, which also knows by which request each change was told.

    (Changes of one kind by all requests of a batch become one event, with the first request.)
    """

    def __init__(self):
        super().__init__()
        self._tellers = {}

    def add_event(self, resource_name, parent_id, action, payload, impacted, request):
        # With the change, so that its id is nobody else's.
        self._tellers |= {id(change): (change, request) for change in impacted}
        super().add_event(resource_name, parent_id, action, payload, impacted, request)

    def teller_of(self, change):
        """Return the request that told of a change, or ``None``."""
        return self._tellers.get(id(change), (None, None))[1]


def collect_changes(event):
    """Collect the changes of a request, and of all that is done on its behalf."""
    event.request.bound_data.setdefault("resource_events", Changes())


def try_again(event):
    """Delete the files that could not be deleted when they were released."""
    event.request.registry.attachment_releases.try_again()


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
    told = event.impacted_objects
    changes = records.completed(event.request.registry.storage, collection_uri, told)
    attachments.follow(
        event.request,
        collection_uri,
        [
            {**change, "writer": _writer_of(event.request, one)}
            for change, one in zip(changes, told, strict=True)
        ],
    )


def _writer_of(request, change):
    """Return the request that told of a change.

    Integrations also tell Kinto's listeners of changes themselves, with a request of their own.
    """
    collected = getattr(request, "bound_data", {}).get("resource_events")
    teller = collected.teller_of(change) if isinstance(collected, Changes) else None
    return teller or request


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


def lock(event):
    """Lock the record that a request is about to change, before Kinto reads it."""
    request = event.request
    if request.method in WRITING_METHODS.get(getattr(request.matched_route, "name", None), ()):
        ids = request.matchdict
        collection_uri = instance_uri(
            request, "collection", bucket_id=ids["bucket_id"], id=ids["collection_id"]
        )
        locks.lock_record(request.registry.storage, collection_uri, ids.get("id"))


def foresee(event):
    """Look at what there is before it is changed, where Kinto tells of it too late."""
    request = event.request
    context = request.context
    if getattr(context, "resource_name", None) == "record" and "id" in request.matchdict:
        if context.current_object is not None:
            attachments.foresee_change(records.uri(request), context.current_object)
    elif getattr(request.matched_route, "name", None) == FLUSH_ROUTE and request.method == "POST":
        attachments.foresee_flush(request)


def on_flushed(event):
    """Release all files."""
    attachments.flush(event.request)
