"""Kinto plugin that attaches files to records."""

from importlib.metadata import version
from typing import Any


DOCUMENTATION = "https://kinto.readthedocs.io/"


def includeme(config: Any) -> None:
    """Attach files to the records of the Kinto server that this is included in.

    What is added to the server:

    - ``registry.attachments``, an :class:`~kinto_attachment.attachments.Attachments`, built from
      the settings, the storage of the files, the links and the deletion queue;
    - the storage as the ``IFileStorage`` of pyramid_storage (not Google Cloud Storage), and its
      execution times as metrics;
    - the routes ``/buckets/{id}/collections/{id}/records/{id}/attachment``; below it ``/link``, and
      ``/uploads`` and ``/uploads/{id}``, if the storage takes files in pieces and the server is not
      read-only; and, if files are in a local folder, ``/__files__/*``, for links and for
      ``kinto.attachment.serve_files``;
    - the capability ``attachments`` and the heartbeat ``attachments``;
    - a migration for ``kinto migrate``, of the links that earlier plugins wrote (not if read-only);
    - subscribers to each request: the method of requests on uploads is overridden, the body is
      bounded, read ahead and discarded, the default bucket is replaced by the user's own, changes
      are collected, pending deletions are retried, the record is locked and its attachment
      remembered before a change, and a flush waits for the deletion of a bucket or collection;
    - subscribers to Kinto's events: files and uploads follow records, collections, buckets and
      flushes.
    """
    # Here and not above: the helper scripts of this package run where no Kinto is installed.
    from kinto.core.events import ACTIONS, ResourceChanged
    from kinto.events import ServerFlushed
    from pyramid.events import (
        ApplicationCreated,
        BeforeTraversal,
        ContextFound,
        NewRequest,
        NewResponse,
    )
    from pyramid.settings import asbool

    from kinto_attachment.attachments import Attachments
    from kinto_attachment.deletions import Deletions
    from kinto_attachment.links import Links
    from kinto_attachment.migration import Migration
    from kinto_attachment.resumable.uploads import Uploads
    from kinto_attachment.settings.read import read_settings
    from kinto_attachment.storage.configure import configured_storage
    from kinto_attachment.storage.contract import LocalFiles, ResumableFiles
    from kinto_attachment.storage.heartbeat import Heartbeat

    registry = config.registry
    settings = read_settings(config.get_settings())
    files = configured_storage(config, settings)
    links = Links(registry.storage)
    deletions = Deletions(registry.storage, files, links)

    is_readonly = asbool(config.get_settings()["readonly"])
    limits = settings.resumable_expires_seconds, settings.resumable_max_open
    uploads = Uploads(registry.storage, files, deletions, *limits)

    def count_upload(size: int) -> None:
        registry.metrics.count("attachments_uploads")
        registry.metrics.count("attachments_bytes", count=size)

    def time_publish() -> Any:
        # A method of staged files: unlike the storage's own, Kinto's metrics do not watch it.
        name = f"backend.{type(files).__name__.lower()}.seconds"
        return registry.metrics.timer(name, labels=[("method", "publish")])

    registry.attachments = Attachments(
        settings, files, links, deletions, uploads, count_upload, time_publish
    )
    registry.heartbeats["attachments"] = Heartbeat(files)

    # Not before: a service takes over Kinto's settings as soon as its module is loaded.
    from kinto_attachment import listeners
    from kinto_attachment.http import attachment, bodies, capability, default_bucket, resumable, tus
    from kinto_attachment.http import download as download  # Its view is one of `attachment`.
    from kinto_attachment.http import files as served_files
    from kinto_attachment.http import link as file_link

    config.add_cornice_service(attachment.attachment)
    config.add_cornice_service(file_link.link)
    if isinstance(files, LocalFiles):
        config.add_cornice_service(served_files.files)
    advertised: dict[str, Any] = {}
    if isinstance(files, ResumableFiles) and not is_readonly:
        config.add_cornice_service(resumable.uploads)
        config.add_cornice_service(resumable.upload)
        config.add_subscriber(tus.override_method, NewRequest)
        config.add_subscriber(tus.add_headers, NewResponse)
        if settings.defaults.resumable:
            advertised["resumable"] = [tus.CAPABILITY]
    if file_link.makes_links(files, settings):
        advertised["link_max_seconds"] = settings.link_max_seconds
    config.add_api_capability(
        "attachments",
        version=version("kinto-attachment"),
        description="Attach files to records.",
        url=DOCUMENTATION,
        gzipped=settings.defaults.gzipped,
        **advertised,
        base_url=capability.base_url_to_advertise(
            files.base_url, settings.advertised_base_url or files.base_url
        ),
    )

    config.add_subscriber(bodies.limit_body, NewRequest)
    config.add_subscriber(bodies.read_ahead, NewRequest)
    # After the body is read: it asks for the user, which takes a connection to the database.
    config.add_subscriber(default_bucket.rewrite_path, NewRequest)
    config.add_subscriber(listeners.collect_changes, NewRequest)
    config.add_subscriber(listeners.snapshot_before_change, ContextFound)
    config.add_subscriber(bodies.discard_body, NewResponse)
    if not is_readonly:
        config.add_migration(Migration(links))
        config.add_subscriber(listeners.lock_record, BeforeTraversal)
        config.add_subscriber(listeners.block_flush, BeforeTraversal)
        config.add_subscriber(listeners.retry_deletions, NewRequest)

    deleted = (ACTIONS.DELETE,)
    changed = (ACTIONS.CREATE, ACTIONS.UPDATE, ACTIONS.DELETE)
    for listener, resource, actions in (
        (listeners.on_records_changed, "record", changed),
        (listeners.on_collections_deleted, "collection", deleted),
        (listeners.on_buckets_deleted, "bucket", deleted),
    ):
        config.add_subscriber(
            listener, ResourceChanged, for_resources=(resource,), for_actions=actions
        )
    config.add_subscriber(listeners.on_flushed, ServerFlushed)
    config.add_subscriber(_watch_storage, ApplicationCreated)


def __getattr__(name: str) -> str:
    # Not before it is asked for: in a checkout that is not installed, the scripts run as well.
    if name == "__version__":
        return version("kinto-attachment")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _watch_storage(event: Any) -> None:
    from kinto.core import metrics

    registry = event.app.registry
    metrics.watch_execution_time(registry.metrics, registry.attachments.files, prefix="backend")
