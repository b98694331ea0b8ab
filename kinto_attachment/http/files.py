"""The stored files, served by Kinto itself: for trying things out."""

import os
import re
from typing import Any

from kinto.core import Service
from pyramid.httpexceptions import HTTPNotFound
from pyramid.security import NO_PERMISSION_REQUIRED
from webob.datetime_utils import parse_date
from webob.static import FileApp

from kinto_attachment import errors
from kinto_attachment.form.mimetypes import mimetype_of
from kinto_attachment.http.schemas import FILE_RESPONSES
from kinto_attachment.kinto_internals import StreamedResponse


RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)
MAX_RANGE_DIGITS = 18

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # An uploaded file must not run scripts with the rights of a page of this server.
    "Content-Security-Policy": "sandbox",
}

files = Service(
    name="attachment-files",
    path="/__files__/*subpath",
    description="The stored files",
)


@files.get(
    permission=NO_PERMISSION_REQUIRED,
    cors_headers=("ETag", "Last-Modified", "Content-Range"),
    tags=["Attachments"],
    operation_id="get_file",
    response_schemas=FILE_RESPONSES,
)
def get_file(request: Any) -> Any:
    """Return a stored file, or the requested range of it."""
    try:
        key = "/".join(request.matchdict["subpath"])
        path = request.registry.attachments.files.path(key)
        stat = os.stat(path)
    except OSError as error:
        raise HTTPNotFound() from error
    if not os.path.isfile(path):
        raise HTTPNotFound()
    configured = request.registry.attachments.settings.defaults.mimetypes
    file_app = FileApp(
        path,
        content_type=mimetype_of(os.path.basename(path), configured),
        # The bytes are sent as they are: a .gz is a file, not an encoding of the response.
        content_encoding=None,
        charset=None,
        etag=f"{stat.st_mtime_ns:x}-{stat.st_size:x}",
    )
    # Without the server's file wrapper, which cannot start in the middle of a file.
    environ = {k: v for k, v in request.environ.items() if k != "wsgi.file_wrapper"}
    subrequest = type(request)(environ)
    subrequest.headers["Range"] = _plain_range(request.headers.get("Range", ""), stat.st_size)
    _ignore_odd_dates(subrequest.headers)
    served = subrequest.get_response(file_app)
    if served.status_code in (403, 404):
        # Deleted since, or not readable: WebOb's own pages would show its path.
        raise HTTPNotFound()
    if served.status_code == 416:
        raise errors.no_such_range(stat.st_size)
    return StreamedResponse(
        app_iter=served.app_iter,
        status=served.status,
        headerlist=[*served.headerlist, *SECURITY_HEADERS.items()],
    )


def _plain_range(header: str, size: int) -> str:
    """Return a Range that WebOb reads as RFC 9110 defines it; it ignores an empty one.

    WebOb fails on ``bytes=-``, and knows neither ``bytes=-0`` nor a suffix longer than the file.

    :param size: of the file, in bytes.
    """
    match = RANGE.fullmatch(header.strip())
    if match is None or not any(match.groups()):
        return ""
    first, last = (_bounded(digits) for digits in match.groups())
    if first is not None:
        return f"bytes={first}-{'' if last is None else last}"
    if not last:
        return f"bytes={size}-"
    return f"bytes={max(0, size - last)}-" if size else ""


def _bounded(digits: str) -> int | None:
    """Return a number, at most one that is larger than any file, and ``None`` without digits."""
    if len(digits) > MAX_RANGE_DIGITS:
        return 10**MAX_RANGE_DIGITS
    return int(digits) if digits else None


def _ignore_odd_dates(headers: Any) -> None:
    """Remove conditions with an invalid date, as if they were not sent (RFC 9110, section 13.1).

    The range goes with its ``If-Range``: without it, the client may get a range of another file.
    (WebOb fails on the year 99999, and compares with what it cannot read as a date.)
    """
    if not _is_date(headers.get("If-Modified-Since", "")):
        headers.pop("If-Modified-Since", None)
    if_range = headers.get("If-Range", "")
    if if_range.endswith(" GMT") and not _is_date(if_range):
        del headers["If-Range"], headers["Range"]


def _is_date(text: str) -> bool:
    try:
        return parse_date(text) is not None
    except (ValueError, OverflowError, OSError):
        return False
