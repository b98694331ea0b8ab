"""Kinto plugin that attaches files to records."""

from importlib.metadata import version


DOCUMENTATION = "https://kinto.readthedocs.io/"


def includeme(config):
    """Attach files to the records of the Kinto server that this is included in."""
    # Here and not above: the helper scripts of this package run where no Kinto is installed.
    from pyramid.events import ApplicationCreated, NewRequest, NewResponse

    from kinto_attachment.http import bodies
    from kinto_attachment.http.capability import base_url_to_advertise
    from kinto_attachment.releases import Releases
    from kinto_attachment.settings.read import read_settings
    from kinto_attachment.storage.configure import configured_storage
    from kinto_attachment.storage.heartbeat import Heartbeat

    registry = config.registry
    settings = registry.attachment_settings = read_settings(config.get_settings())

    storage = registry.attachment_storage = configured_storage(config, settings)
    registry.heartbeats["attachments"] = Heartbeat(storage)
    registry.attachment_releases = Releases(registry.storage, storage)

    # Not before: a service takes over Kinto's settings as soon as its module is loaded.
    from kinto_attachment import listeners
    from kinto_attachment.http.attachment import attachment
    from kinto_attachment.http.files import files

    config.add_cornice_service(attachment)
    config.add_subscriber(bodies.limit_body, NewRequest)
    config.add_subscriber(bodies.read_ahead, NewRequest)
    config.add_subscriber(bodies.discard_body, NewResponse)
    if settings.serve_files:
        config.add_cornice_service(files)

    config.add_api_capability(
        "attachments",
        version=version("kinto-attachment"),
        description="Attach files to records.",
        url=DOCUMENTATION,
        gzipped=settings.defaults.gzipped,
        base_url=base_url_to_advertise(
            storage.base_url, settings.advertised_base_url or storage.base_url
        ),
    )
    config.include(listeners)
    config.add_subscriber(_watch_storage, ApplicationCreated)


def __getattr__(name):
    # Not before it is asked for: in a checkout that is not installed, the scripts run as well.
    if name == "__version__":
        return version("kinto-attachment")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _watch_storage(event):
    from kinto.core import metrics

    registry = event.app.registry
    metrics.watch_execution_time(registry.metrics, registry.attachment_storage, prefix="backend")
