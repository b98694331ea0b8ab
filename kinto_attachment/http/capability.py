"""What the capability ``attachments`` tells clients."""

from typing import Any


class OfThisServer:
    """A base URL that begins with the scheme and the host of the request, or of Kinto's settings.

    :param path: what follows them.
    """

    def __init__(self, path: str):
        self._path = path

    def __json__(self, request: Any) -> str:
        if self._path.startswith("//"):
            return f"{request.scheme}:{self._path}"
        return f"{request.host_url}{self._path}"


class SchemeOfThisServer:
    """The scheme of the request, or of Kinto's settings, which locations with a host follow."""

    def __json__(self, request: Any) -> str:
        return f"{request.scheme}:"


def base_url_to_advertise(location_base_url: str, advertised_base_url: str) -> Any:
    """Return what a client gets the URL of a file with, by appending the location to it.

    Clients append what is no URL (kinto-http, with one slash between them; kinto-admin, where the
    location does not begin with the base URL). So, the path that locations begin with is not in it,
    and it has a scheme and a host: kinto-http knows no other URLs.

    :param location_base_url: what locations begin with.
    :param advertised_base_url: the base URL to tell clients, the same one where none is set.
    """
    base_url = advertised_base_url
    if location_base_url.startswith("/"):
        if base_url == location_base_url:
            is_host = location_base_url.startswith("//")
            return SchemeOfThisServer() if is_host else OfThisServer("")
        base_url = base_url.rstrip("/")
    return OfThisServer(base_url) if base_url.startswith("/") else base_url
