"""The storage that the settings choose."""

from importlib.util import find_spec
from typing import Any

from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.settings import asbool
from pyramid_storage.interfaces import IFileStorage

from kinto_attachment.settings.values import Settings
from kinto_attachment.storage.folders import Folders
from kinto_attachment.storage.local import LocalStorage
from kinto_attachment.storage.pyramid import SpooledStorage


def configured_storage(config: Configurator, settings: Settings) -> Any:
    """Return the storage of the attachments, registered as the server's ``IFileStorage``.

    :raises ConfigurationError: it cannot be used. (Whether a bucket can be reached is for the
        heartbeat to tell.)
    """
    if settings.backend:
        return _included(config, settings)
    storage = _bucket(settings) if settings.aws else _folder(config, settings)
    config.registry.registerUtility(storage, IFileStorage)
    return storage


def _folder(config, settings):
    storage = LocalStorage(
        settings.base_path, settings.base_url, settings.fsync, _folders(settings)
    )
    # A command beside the server, like `kinto migrate`, leaves what is staged as it is.
    is_command = getattr(config.registry, "command", None)
    if not is_command and not asbool(config.get_settings()["readonly"]):
        storage.prepare()
    return storage


def _bucket(settings):
    if find_spec("boto3") is None:
        raise ConfigurationError(
            "kinto.attachment.aws.bucket_name needs boto3: pip install kinto-attachment[s3]"
        )
    # Here, since servers that keep files in a folder should not need boto3.
    from kinto_attachment.storage.s3.storage import S3Storage

    return S3Storage.from_settings(settings.aws, prefix="")


def _included(config, settings):
    try:
        config.include(settings.backend)
    except ImportError as error:
        raise ConfigurationError(
            f"kinto.attachment.backend = {settings.backend}: {error}"
        ) from error
    backend = config.registry.queryUtility(IFileStorage)
    if backend is None:
        raise ConfigurationError(
            f"kinto.attachment.backend = {settings.backend}: registers no IFileStorage"
        )
    return SpooledStorage(backend, settings.base_url, _folders(settings))


def _folders(settings):
    everyone = (settings.defaults, *settings.resources.values())
    return Folders(own.folder for own in everyone)
