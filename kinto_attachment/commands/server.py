"""The server of a settings file: its storages, without serving."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import transaction
from kinto.core.storage import memory
from kinto.core.storage.exceptions import BackendError
from pyramid.exceptions import ConfigurationError
from pyramid.paster import bootstrap

from kinto_attachment.deletions import Deletions
from kinto_attachment.kinto_internals import DATABASE_ERRORS
from kinto_attachment.links import Links
from kinto_attachment.resumable.uploads import Uploads


class ServerError(Exception):
    """The server cannot be used; the message says what to change."""


@dataclass(frozen=True)
class Server:
    """What a command needs of a server.

    :ivar objects: Kinto's storage: records, links, queued deletions.
    :ivar permissions: Kinto's permission backend.
    :ivar files: the attachment storage.
    :ivar settings: the plugin's.
    :ivar links: which record refers to which file.
    :ivar deletions: the deletion queue.
    :ivar uploads: the resumable uploads.
    :ivar api_path: the path of Kinto's API, ``/v1``.
    :ivar api_url: its URL, or ``None`` if the settings do not have it.
    """

    objects: Any
    permissions: Any
    files: Any
    settings: Any
    links: Links
    deletions: Deletions
    uploads: Uploads
    api_path: str
    api_url: str | None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done in the context, or undo it if that fails.

        What it enqueues is deleted before the context ends, since the command may end next.

        :raises BackendError: also if the commit fails, for which Kinto has no error of its own.
        """
        try:
            with transaction.manager:
                yield
        except DATABASE_ERRORS as error:
            # A failed commit leaves its transaction open, and no other can begin in this thread.
            transaction.abort()
            raise BackendError(original=error) from error
        self.deletions.wait_until_idle()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Open a transaction for reading, and end it with the context."""
        transaction.begin()
        try:
            yield
        finally:
            transaction.abort()


def open_server(ini: str) -> Server:
    """Return the server of a settings file.

    :raises ServerError: the settings are wrong, or its records cannot be reached.
    """
    registry = _load(ini)
    if isinstance(registry.storage, memory.Storage):
        raise ServerError(
            f"{ini}: with kinto.storage_backend = kinto.core.storage.memory, only the running "
            "server can read the records"
        )
    server = Server(
        registry.storage,
        registry.permission,
        registry.attachments.files,
        registry.attachments.settings,
        registry.attachments.links,
        registry.attachments.deletions,
        registry.attachments.uploads,
        f"/{registry.route_prefix}",
        _api_url(registry),
    )
    try:
        with server.reading():
            registry.storage.list_all("bucket", "", limit=1)
    except BackendError as error:
        raise ServerError(f"{ini}: the records cannot be read: {first_line(error)}") from error
    return server


def open_files(ini: str) -> Any:
    """Return the attachment storage of a settings file.

    :raises ServerError: the settings are wrong.
    """
    return _load(ini).attachments.files


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    lines = str(getattr(error, "original", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__


def _api_url(registry: Any) -> str | None:
    scheme, host = (registry.settings[name] for name in ("http_scheme", "http_host"))
    return f"{scheme or 'http'}://{host}/{registry.route_prefix}" if host else None


def _load(ini: str) -> Any:
    """Return the registry of a settings file with the plugin.

    :raises ServerError: the settings are wrong.
    """
    if not os.path.isfile(ini):
        raise ServerError(f"{ini}: the file does not exist; set --ini or KINTO_INI")
    # Kinto's PostgreSQL client logs a stack trace with each error, which is reported anyway.
    logging.getLogger("kinto").setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The name of a command, as Kinto's own, keeps plugins from starting a server's work.
            registry = bootstrap(ini, options={"command": "attachment"})["registry"]
    except ConfigurationError as error:
        raise ServerError(f"{ini}: {first_line(error)}") from error
    except Exception as error:
        # Any error of a plugin, a backend or the parser of the file.
        raise ServerError(f"{ini}: {type(error).__name__}: {first_line(error)}") from error
    if not hasattr(registry, "attachments"):
        raise ServerError(f"{ini}: kinto.includes does not name kinto_attachment")
    return registry
