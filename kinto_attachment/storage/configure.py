"""The storage that the settings choose."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.settings import asbool
from pyramid_storage.interfaces import IFileStorage

from kinto_attachment.settings.values import Settings
from kinto_attachment.storage.contract import Storage
from kinto_attachment.storage.folders import Folders
from kinto_attachment.storage.local import LocalStorage
from kinto_attachment.storage.pyramid import PyramidStorage


def configured_storage(config: Configurator, settings: Settings) -> Storage:
    """Return the storage of the attachments, registered as the server's ``IFileStorage``.

    :raises ConfigurationError: it cannot be used. (Whether a bucket can be reached is checked by
        the heartbeat.)
    """
    if settings.backend:
        return _backend(config, settings, settings.backend)
    if settings.gcloud:
        storage = _gcs_bucket(settings.gcloud)
    elif settings.aws:
        storage = _bucket(config, settings.aws)
    else:
        return _folder(config, settings, settings.base_path or "")
    if settings.advertised_base_url and not settings.base_url:
        # Relative locations, which clients append to the URL in the capability.
        storage.base_url = ""
    return storage


def _folder(config: Configurator, settings: Settings, base_path: str) -> Storage:
    folders = _folders(settings)
    storage = LocalStorage(base_path, settings.base_url, settings.fsync, folders)
    # A command beside the server, like `kinto migrate`, leaves staged files as they are.
    is_command = getattr(config.registry, "command", None)
    if not is_command and not asbool(config.get_settings()["readonly"]):
        storage.prepare()
    config.registry.registerUtility(storage, IFileStorage)
    return storage


def _bucket(config: Configurator, aws: Mapping[str, Any]) -> Storage:
    if find_spec("boto3") is None:
        raise ConfigurationError(
            "kinto.attachment.aws.bucket_name needs boto3: pip install kinto-attachment[s3]"
        )
    # Imported here, since servers with files in a folder do not need boto3.
    from kinto_attachment.storage.s3.adapter import RepairedS3FileStorage

    adapter = RepairedS3FileStorage.from_settings(aws, prefix="")
    config.registry.registerUtility(adapter, IFileStorage)
    return adapter.storage


def _gcs_bucket(gcloud: Mapping[str, Any]) -> Storage:
    try:
        # As above. It is no IFileStorage, which would have to store files that are not streamed.
        from kinto_attachment.storage.gcs.storage import GCSStorage
    except ImportError as error:
        raise ConfigurationError(
            "kinto.attachment.gcloud.bucket_name needs google-cloud-storage 3:"
            f" pip install kinto-attachment[gcs] ({error})"
        ) from error
    return GCSStorage(gcloud)


def _backend(config: Configurator, settings: Settings, module: str) -> Storage:
    setting = f"kinto.attachment.backend = {module}"
    try:
        config.include(module)
    except ImportError as error:
        raise ConfigurationError(f"{setting}: {error}") from error
    backend = config.registry.queryUtility(IFileStorage)
    if backend is None:
        raise ConfigurationError(f"{setting}: registers no IFileStorage")
    return PyramidStorage(backend, settings.base_url, _folders(settings))


def _folders(settings: Settings) -> Folders:
    return Folders(own.folder for own in (settings.defaults, *settings.resources.values()))
