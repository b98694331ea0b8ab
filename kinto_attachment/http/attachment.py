"""The attachment of a record: the views that attach and detach a file."""

import contextlib
import logging

from kinto.core import Service
from kinto.core.authorization import DYNAMIC
from pyramid.httpexceptions import HTTPNoContent

from kinto_attachment import attachments, errors
from kinto_attachment.http import bodies
from kinto_attachment.http.files import files
from kinto_attachment.http.schemas import (
    ATTACH_RESPONSES,
    DETACH_RESPONSES,
    AttachRequestSchema,
    DetachRequestSchema,
)
from kinto_attachment.records import AttachmentRouteFactory
from kinto_attachment.storage.contract import LocalFiles, StorageError
from kinto_attachment.transactions import Transactions


logger = logging.getLogger(__name__)

CHANGE_HEADERS = ("ETag", "Last-Modified")


class MediaType(str):
    """Media types are compared without regard to case (RFC 9110, section 8.3.1)."""

    def __eq__(self, other):
        return self.casefold() == other.casefold()

    __hash__ = str.__hash__


class AttachmentService(Service):
    """Kinto's service, but for a Content-Type that does not fit: that is a 400 here."""

    def error_handler(self, request):
        if request.errors.status == 415:
            return errors.not_multipart()
        return super().error_handler(request)


def attachment_context(request):
    """Return the context of a request on an attachment.

    :raises HTTPBadRequest: an id is one that PostgreSQL fails on, before Kinto looks at its form.
    """
    if any("\0" in id_ for id_ in request.matchdict.values()):
        raise errors.null_in_id()
    return AttachmentRouteFactory(request)


attachment = AttachmentService(
    name="attachment",
    path="/buckets/{bucket_id}/collections/{collection_id}/records/{id}/attachment",
    description="The file attached to a record",
    factory=attachment_context,
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
def attach_file(request):
    """Store the file and set the ``attachment`` of the record, which is created if need be."""
    request.context.check_preconditions()
    bodies.refuse_unreadable(request)
    transactions = Transactions(request)
    is_local = isinstance(request.registry.attachment_storage, LocalFiles)
    if not (bodies.is_read_ahead(request) and is_local):
        # Who is slow, the client or the storage, holds a thread of the server, but nothing of the
        # database.
        transactions.renew()
    with _storage_errors_as_503():
        form = attachments.receive(request)
        changed, attached = attachments.attach(request, form, _location_of(request), transactions)
    request.response.status_code = changed.status_code
    _copy_change_headers(changed, request.response)
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
def detach_file(request):
    """Detach the file from the record, and delete it."""
    changed = Transactions(request).run(lambda: attachments.detach(request))
    response = NoContent()
    if changed is not None:
        _copy_change_headers(changed, response)
    return response


class NoContent(HTTPNoContent):
    """An empty response, which in a batch is shown as an empty object.

    (``build_response`` in ``kinto.core.utils`` cannot show bytes that are not JSON.)
    """

    json: dict[str, object] = {}


def _location_of(request):
    settings = request.registry.attachment_settings
    if settings.serve_files and not settings.base_url:
        return lambda name: request.route_url(files.name, subpath=name)
    return request.registry.attachment_storage.url


def _copy_change_headers(source, target):
    for name in CHANGE_HEADERS:
        target.headers[name] = source.headers[name]


@contextlib.contextmanager
def _storage_errors_as_503():
    try:
        yield
    except StorageError as error:
        logger.exception("The attachment could not be stored")
        raise errors.storage_unavailable() from error
