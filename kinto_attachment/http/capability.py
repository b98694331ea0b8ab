"""The base URL of files in the capability ``attachments``."""

from collections.abc import Callable
from typing import Any


class PerRequest:
    """A URL that begins like that of the request, or as Kinto's settings say."""

    def __init__(self, url_of: Callable[[Any], str]) -> None:
        self._url_of = url_of

    def __json__(self, request: Any) -> str:
        return self._url_of(request)


def base_url_to_advertise(location_base_url: str, advertised_base_url: str) -> PerRequest | str:
    """Return the URL to which a client appends a location.

    Clients append what is no URL (kinto-http, with one slash between them; kinto-admin, if the
    location does not begin with the base URL). So, the path that locations begin with is not in it,
    and it has a scheme and a host: kinto-http knows no other URLs.

    :param location_base_url: what locations begin with.
    :param advertised_base_url: the base URL for clients, the same one if none is set.
    """
    base_url = advertised_base_url
    if location_base_url.startswith("/"):
        if base_url == location_base_url:
            is_host = base_url.startswith("//")
            return PerRequest(lambda request: f"{request.scheme}:" if is_host else request.host_url)
        base_url = base_url.rstrip("/")
    if base_url.startswith("//"):
        return PerRequest(lambda request: f"{request.scheme}:{base_url}")
    if base_url.startswith("/"):
        return PerRequest(lambda request: f"{request.host_url}{base_url}")
    return base_url
