"""The locations of files that a command moves, as the server would make them."""

import urllib.parse
from collections.abc import Callable
from typing import Any

from kinto_attachment import metadata
from kinto_attachment.commands.server import Server, ServerError
from kinto_attachment.storage.names import is_private


SERVED = "/__files__/"
"""The path of the files that the server itself serves."""


class Locations:
    """The locations of files.

    :param api_url: the URL of Kinto's API, without a slash at its end, ``None`` if it is not known.
    """

    def __init__(self, server: Server, api_url: str | None):
        self._server = server
        self._api_url = api_url or server.api_url
        settings, base_url = server.settings, server.files.base_url
        # As in http.attachment, which sees the host of a request.
        self._are_served = settings.serve_files and not settings.base_url
        is_of_host = settings.advertised_base_url in ("", base_url)
        is_path = not base_url or (base_url.startswith("/") and not base_url.startswith("//"))
        self._are_relative = is_of_host and is_path and not self._are_served

    def of(self, record_uri: str, key: str, attachment: Any) -> Callable[[str], str]:
        """Return what gives the location of a record's file by its key.

        :param key: of the file that the record has by now.
        :raises ServerError: the URL of Kinto's API is needed, and not known.
        """
        if not is_private(key):
            api_url = self._server.api_path
            if not self._are_relative:
                api_url = self._api_url or _api_url_in(attachment, f"{SERVED}{_quoted(key)}")
            return lambda _key: api_url + metadata.path_of_private(record_uri)
        if self._are_served:
            path = metadata.path_of_private(record_uri)
            api_url = self._api_url or _api_url_in(attachment, path)
            return lambda new_key: f"{api_url}{SERVED}{_quoted(new_key)}"
        return self._server.files.url


def _api_url_in(attachment: Any, rest: str) -> str:
    """Return the URL of Kinto's API, with which a location begins.

    :raises ServerError: it ends in something else.
    """
    location = metadata.location_of(attachment) or ""
    if "://" not in location or not location.endswith(rest):
        raise ServerError("the URL of Kinto's API is not known: set --server-url")
    return location.removesuffix(rest)


def _quoted(key: str) -> str:
    return urllib.parse.quote(key)
