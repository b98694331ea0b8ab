"""The server that a command is about, as its settings say, without serving."""

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
from kinto.core.utils import sqlalchemy
from pyramid.exceptions import ConfigurationError
from pyramid.paster import bootstrap


DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError,) if sqlalchemy else ()


class Unusable(Exception):
    """There is no server to look after: the message says what to change."""


@dataclass(frozen=True)
class Server:
    """What a command needs of a server.

    :ivar objects: Kinto's storage: records, links, releases.
    :ivar permissions: Kinto's permission backend.
    :ivar files: the storage of the attachments.
    :ivar settings: the plugin's.
    :ivar releases: what deletes the files that nobody holds any more.
    """

    objects: Any
    permissions: Any
    files: Any
    settings: Any
    releases: Any

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done inside, or undo it.

        :raises BackendError: it cannot be committed. (Kinto gives its errors this form, but for
            those of the commit.)
        """
        try:
            with transaction.manager:
                yield
        except DATABASE_ERRORS as error:
            # A failed commit leaves its transaction behind, and nothing would begin in this thread.
            transaction.abort()
            raise BackendError(original=error) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Have no transaction open but while something is read."""
        transaction.begin()
        try:
            yield
        finally:
            transaction.abort()


def open_server(ini: str) -> Server:
    """Return the server of a settings file.

    :raises Unusable: the settings are wrong, or its records cannot be reached.
    """
    registry = _load(ini)
    if not hasattr(registry, "attachment_storage"):
        raise Unusable(f"{ini}: kinto.includes does not name kinto_attachment")
    if isinstance(registry.storage, memory.Storage):
        raise Unusable(
            f"{ini}: with kinto.storage_backend = kinto.core.storage.memory the records are inside "
            "of the running server, where nobody else can see them"
        )
    server = Server(
        registry.storage,
        registry.permission,
        registry.attachment_storage,
        registry.attachment_settings,
        registry.attachment_releases,
    )
    try:
        with server.reading():
            registry.storage.list_all("bucket", "", limit=1)
    except BackendError as error:
        raise Unusable(f"{ini}: the records cannot be read: {first_line(error)}") from error
    return server


def open_files(ini: str) -> Any:
    """Return the storage of the attachments of a settings file.

    :raises Unusable: the settings are wrong.
    """
    registry = _load(ini)
    if not hasattr(registry, "attachment_storage"):
        raise Unusable(f"{ini}: kinto.includes does not name kinto_attachment")
    return registry.attachment_storage


def first_line(error: Exception) -> str:
    """Return what an error says, without what its library adds below."""
    lines = str(getattr(error, "original", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__


def _load(ini):
    if not os.path.isfile(ini):
        raise Unusable(f"{ini}: there is no such file: name it with --ini or in KINTO_INI")
    # Kinto's client of PostgreSQL logs a stack trace with each error, which is told anyway.
    logging.getLogger("kinto").setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Named as Kinto's own commands are, so that nothing is done that is for a server.
            return bootstrap(ini, options={"command": "attachment"})["registry"]
    except ConfigurationError as error:
        raise Unusable(f"{ini}: {first_line(error)}") from error
    except Exception as error:
        # Whatever a plugin, a backend or the parser of the file makes of a wrong value.
        raise Unusable(f"{ini}: {type(error).__name__}: {first_line(error)}") from error
