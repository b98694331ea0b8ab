"""The stored files in a local folder, served by Kinto itself.

All of them, for trying things out (``serve_files``), but for private ones; and those that a link
leads to, as long as it has not ended.
"""

import os
import time
from pathlib import Path
from typing import Any

from kinto.core import Service
from pyramid.httpexceptions import HTTPNotFound
from pyramid.security import NO_PERMISSION_REQUIRED

from kinto_attachment import errors, signatures
from kinto_attachment.form.mimetypes import mimetype_of
from kinto_attachment.http.representation import Representation, described
from kinto_attachment.http.schemas import FILE_RESPONSES
from kinto_attachment.http.sending import read_errors, respond
from kinto_attachment.http.transactions import Transactions
from kinto_attachment.kinto_internals import is_in_batch
from kinto_attachment.storage.names import PRIVATE_FOLDER, is_private


CORS_HEADERS = (
    *("ETag", "Last-Modified", "Accept-Ranges", "Content-Range"),
    *("Content-Disposition", "Repr-Digest"),
)
PRIVATE = {"Cache-Control": "private, no-cache"}

files = Service(
    name="attachment-files",
    path="/__files__/*subpath",
    description="The stored files",
)


@files.get(
    permission=NO_PERMISSION_REQUIRED,
    cors_headers=CORS_HEADERS,
    tags=["Attachments"],
    operation_id="get_file",
    response_schemas=FILE_RESPONSES,
)
def get_file(request: Any) -> Any:
    """Return a stored file, or the requested range of it."""
    if is_in_batch(request):
        raise errors.download_in_batch()
    key = "/".join(request.matchdict["subpath"])
    attachments = request.registry.attachments
    if "signature" in request.GET:
        return _linked_file(request, key)
    if not attachments.settings.serve_files:
        raise HTTPNotFound()
    file = _stored(attachments.files, key, attachments.settings.defaults.mimetypes)
    if _is_private(attachments.files, key):
        raise HTTPNotFound()
    return respond(request, attachments.files, file, {})


def _linked_file(request: Any, key: str) -> Any:
    attachments = request.registry.attachments
    query, settings = request.GET, attachments.settings
    signed = query.get("expires", ""), query["signature"]
    secret = settings.link_secret
    if not (secret and signatures.is_valid(secret, key, *signed, now=time.time())):
        # Not raised: an error without credentials would become a 401.
        return errors.invalid_link()
    file = _described(attachments, key)
    Transactions(request).restart()
    return respond(request, attachments.files, file, PRIVATE)


def _described(attachments: Any, key: str) -> Representation:
    """Return a file as a record describes it that refers to it.

    :raises HTTPNotFound: no record does (any more).
    """
    links: list[Any] = next(attachments.links.pages_to([key]), [])
    for link in links:
        file = described(key, link.get("attachment"), (link.get("last_modified") or 0) // 1000)
        if file:
            return file
    if not links:
        raise HTTPNotFound()
    return _stored(attachments.files, key, attachments.settings.defaults.mimetypes)


def _is_private(files: Any, key: str) -> bool:
    """Return whether a stored file is a private one, however its URL spells that.

    (A file system may ignore case, and an administrator may make links.)
    """
    if is_private(key):
        return True
    try:
        folder = os.stat(files.path(PRIVATE_FOLDER.rstrip("/")))
        above = Path(files.path(key)).parents
        return any(os.path.samestat(os.stat(path), folder) for path in above)
    except FileNotFoundError:
        return False


def _stored(files: Any, key: str, configured: dict[str, str]) -> Representation:
    """Return a file as the file system knows it.

    :raises HTTPNotFound: there is none.
    """
    with read_errors():
        path = files.path(key)
    try:
        stat = os.stat(path)
    except OSError as error:
        raise HTTPNotFound() from error
    if not os.path.isfile(path):
        raise HTTPNotFound()
    return Representation(
        key,
        stat.st_size,
        f"{stat.st_mtime_ns:x}-{stat.st_size:x}",
        int(stat.st_mtime),
        mimetype_of(os.path.basename(path), configured),
    )
