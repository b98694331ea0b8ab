"""A page to try attachments in a browser, if it is in ``kinto.includes``."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPMovedPermanently
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.static import static_view


PATH = "/__playground__/"

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' {files}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Everything comes from this server, except for the thumbnails."""


def includeme(config: Configurator) -> None:
    """Serve the page under ``/v1/__playground__/``.

    :raises ConfigurationError: the plugin itself is not included first.
    """
    if not hasattr(config.registry, "attachments"):
        raise ConfigurationError(
            "kinto.includes: kinto_attachment.playground must come after kinto_attachment"
        )
    static = static_view("kinto_attachment.playground:static", use_subpath=True, cache_max_age=0)
    config.add_route("attachment-playground", PATH + "*subpath")
    config.add_view(
        static,
        route_name="attachment-playground",
        decorator=_with_security_headers,
        permission=NO_PERMISSION_REQUIRED,
    )
    config.add_route("attachment-playground-redirect", PATH.rstrip("/"))
    config.add_view(
        lambda request: HTTPMovedPermanently(request.path_url + "/"),
        route_name="attachment-playground-redirect",
        permission=NO_PERMISSION_REQUIRED,
    )


def _with_security_headers(view: Callable[..., Any]) -> Callable[..., Any]:
    def secured(context: Any, request: Any) -> Any:
        response = view(context, request)
        origins = " ".join(_origins(request.registry.attachments.files))
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY.format(files=origins)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return secured


def _origins(files: Any) -> list[str]:
    """Return where files are, and where the links to private ones lead."""
    bucket_url = getattr(files, "bucket_url", str)
    urls = [files.base_url, bucket_url()]
    return sorted({_origin(url) for url in urls} - {""})


def _origin(url: str) -> str:
    """Return the scheme and host of a URL, or nothing for a relative one."""
    scheme, netloc = urlsplit(url)[:2]
    return f"{scheme}://{netloc}" if netloc else ""
