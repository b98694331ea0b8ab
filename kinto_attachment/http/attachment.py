"""The attachment of a record: the views that attach and detach a file."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from kinto.core import Service
from kinto.core.authorization import DYNAMIC

from kinto_attachment import errors
from kinto_attachment.form.form import Form, read_form
from kinto_attachment.http import bodies
from kinto_attachment.http.files import files
from kinto_attachment.http.record import AttachmentRouteFactory, Record
from kinto_attachment.http.schemas import (
    ATTACH_RESPONSES,
    DETACH_RESPONSES,
    AttachRequestSchema,
    DetachRequestSchema,
)
from kinto_attachment.http.transactions import Transactions, retried
from kinto_attachment.kinto_internals.answers import MediaType, NoContent
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.names import is_private


logger = logging.getLogger(__name__)

CHANGE_HEADERS = ("ETag", "Last-Modified")


class AttachmentService(Service):
    """Kinto's service, but for a Content-Type that does not fit: that is a 400 here."""

    def error_handler(self, request: Any) -> Any:
        if request.errors.status == 415:
            return errors.not_multipart()
        return super().error_handler(request)


attachment = AttachmentService(
    name="attachment",
    path="/buckets/{bucket_id}/collections/{collection_id}/records/{id}/attachment",
    description="The file attached to a record",
    factory=retried(AttachmentRouteFactory),
)


@attachment.post(
    permission=DYNAMIC,
    content_type=MediaType("multipart/form-data"),
    schema=AttachRequestSchema(),
    cors_headers=(*CHANGE_HEADERS, "Location"),
    tags=["Attachments"],
    operation_id="attach_file",
    response_schemas=ATTACH_RESPONSES,
)
def attach_file(request: Any) -> dict[str, Any]:
    """Store the file and set the ``attachment`` of the record, which is created if need be."""
    record = Record(request)
    record.check_preconditions()
    bodies.refuse_unreadable(request)
    transactions = Transactions(request)
    attachments = request.registry.attachments
    if not (bodies.is_read_ahead(request) and attachments.has_local_files):
        # A slow client or storage holds a thread of the server, but no connection to the database.
        transactions.restart()
    with storage_errors_as_503():
        form = _receive(request, record)
        changed, attached = attachments.attach(record, form, location_of(request), transactions)
    request.response.status_code = changed.status_code
    copy_change_headers(changed, request.response)
    request.response.headers["Location"] = request.route_url("record-object", **request.matchdict)
    return attached


@attachment.delete(
    permission=DYNAMIC,
    schema=DetachRequestSchema(),
    cors_headers=CHANGE_HEADERS,
    tags=["Attachments"],
    operation_id="detach_file",
    response_schemas=DETACH_RESPONSES,
)
def detach_file(request: Any) -> NoContent:
    """Detach the file from the record, and delete it."""
    detach = partial(request.registry.attachments.detach, Record(request))
    changed = Transactions(request).run(detach)
    response = NoContent()
    if changed is not None:
        copy_change_headers(changed, response)
    return response


def _receive(request: Any, record: Record) -> Form:
    """Return the form of a request, its file staged.

    :raises HTTPException: the form is refused, and nothing is left of it.
    """
    attachments = request.registry.attachments
    settings = attachments.settings
    own = settings.for_collection(record.bucket_id, record.collection_id)
    form = read_form(
        request.environ["wsgi.input"].read,
        request.headers.get("Content-Type", ""),
        bodies.content_length(request),
        stage=partial(attachments.stage, record),
        max_field_bytes=settings.max_field_size_bytes,
        max_file_bytes=own.max_size_bytes,
        mimetype_by_extension=own.mimetypes,
        gzip_level=settings.gzip_level if own.gzipped else None,
        content_digest=request.headers.get("Content-Digest"),
    )
    try:
        record.check_permissions_field(form.permissions)
    except BaseException:
        form.upload.staged.discard()
        raise
    return form


def location_of(request: Any) -> Callable[[str], str]:
    """Return a function that returns the URL of a key, of a file of the record of the request.

    That of a private file does not contain the key.
    """
    attachments = request.registry.attachments
    is_served = attachments.settings.serve_files and not attachments.settings.base_url

    def url(key: str) -> str:
        if is_private(key):
            return _private_location(request, is_served)
        return (
            request.route_url(files.name, subpath=key) if is_served else attachments.files.url(key)
        )

    return url


def _private_location(request: Any, is_served: bool) -> str:
    """Return the URL of the attachment of the record, relative to the host if those of files are.

    :param is_served: whether the server itself serves public files.
    """
    ids = {name: request.matchdict[name] for name in ("bucket_id", "collection_id", "id")}
    attachments = request.registry.attachments
    base_url = attachments.files.base_url
    # Otherwise clients append what is relative to the URL of another host.
    is_of_host = attachments.settings.advertised_base_url in ("", base_url)
    is_relative = not base_url or (base_url.startswith("/") and not base_url.startswith("//"))
    if is_of_host and is_relative and not is_served:
        return request.route_path(attachment.name, **ids)
    return request.route_url(attachment.name, **ids)


def copy_change_headers(source: Any, target: Any) -> None:
    """Copy the headers of Kinto's response on a change."""
    for name in CHANGE_HEADERS:
        target.headers[name] = source.headers[name]


@contextlib.contextmanager
def storage_errors_as_503() -> Iterator[None]:
    """Answer a failure of the storage in the context by 503, and log it."""
    try:
        yield
    except StorageError as error:
        logger.exception("The attachment could not be stored")
        raise errors.storage_unavailable() from error
