"""The file of a record, for whoever may read the record."""

import time
from typing import Any
from urllib.parse import quote

from kinto.core.authorization import DYNAMIC
from pyramid.httpexceptions import HTTPNotFound
from pyramid.response import Response

from kinto_attachment import errors
from kinto_attachment.http import representation
from kinto_attachment.http.attachment import attachment
from kinto_attachment.http.files import CORS_HEADERS
from kinto_attachment.http.record import Record
from kinto_attachment.http.representation import Representation
from kinto_attachment.http.schemas import DOWNLOAD_RESPONSES, DownloadRequestSchema
from kinto_attachment.http.sending import charset, read_errors, respond
from kinto_attachment.http.transactions import Transactions
from kinto_attachment.kinto_internals import is_in_batch
from kinto_attachment.metadata import attachment_of, refers_to
from kinto_attachment.storage.contract import PresignedFiles


CACHE_CONTROL = "private, no-cache"
PRIVATE = {"Cache-Control": CACHE_CONTROL, "Vary": "Authorization"}
"""The permission is asked for again whenever a cache uses what it has."""

REDIRECT_SECONDS = 300


@attachment.get(
    permission=DYNAMIC,
    schema=DownloadRequestSchema(),
    cors_headers=CORS_HEADERS,
    tags=["Attachments"],
    operation_id="download_file",
    response_schemas=DOWNLOAD_RESPONSES,
)
def download_file(request: Any) -> Any:
    """Return the file of the record, or the requested range of it."""
    if is_in_batch(request):
        raise errors.download_in_batch()
    file = file_of(request)
    # The storage and the client may be slow, and no connection to the database waits for them.
    Transactions(request).restart()
    attachments = request.registry.attachments
    settings, files = attachments.settings, attachments.files
    if settings.deliver == "redirect" and request.method == "GET":
        # Also if its conditions say 304 or 412: a redirect precedes them (RFC 9110, 13.2.1).
        return _redirected(files, file, min(REDIRECT_SECONDS, settings.link_max_seconds))
    if settings.deliver == "accel":
        return _accelerated(files, file, settings.accel_prefix)
    return respond(request, files, file, PRIVATE)


def file_of(request: Any) -> Representation:
    """Return the file of the record of a request that only reads.

    :raises HTTPException: there is no record, or it has no file of ours.
    """
    record = Record(request)
    found = record.read()
    current = attachment_of(found)
    links = request.registry.attachments.links.of_records([record.uri])
    link = next((link for link in links if refers_to(current, link)), None)
    modified = (link or {}).get("last_modified") or found["last_modified"]
    file = link and representation.described(link["location"], current, modified // 1000)
    if not file:
        raise HTTPNotFound()
    return file


def presigned(files: PresignedFiles, file: Representation, since: int, expires: int) -> str:
    """Return a URL of the storage itself.

    :raises HTTPServiceUnavailable: it cannot be made, for example without credentials.
    """
    with read_errors():
        return files.presigned_url(
            file.key,
            since,
            expires,
            {
                "content-disposition": file.disposition or "attachment",
                "content-type": file.mimetype,
                "cache-control": CACHE_CONTROL,
            },
        )


def _redirected(files: PresignedFiles, file: Representation, seconds: int) -> Any:
    now = int(time.time())
    url = presigned(files, file, now, now + seconds)
    headers = {"Location": url, "Cache-Control": "no-store", "Vary": "Authorization"}
    return Response(status=307, headerlist=list(headers.items()))


def _accelerated(files: Any, file: Representation, prefix: str) -> Any:
    """Return a response whose file the web server in front adds, with ranges and conditions."""
    with read_errors():
        path = files.path(file.key)
        described = file.headers(charset(files, file))
    sent = {"X-Accel-Redirect": prefix + quote(file.key)} if prefix else {"X-Sendfile": path}
    # That is the web server's own.
    del described["Accept-Ranges"]
    headers = {**described, **PRIVATE, **sent}
    return Response(status=200, headerlist=list(headers.items()))
