"""The HTTP edge: the attachment of a record, and the stored files for trying things out."""

import contextlib
import io
import logging
import math
import os
import re

import colander
from kinto.core import Service
from kinto.core.authorization import DYNAMIC
from kinto.core.resource.schema import (
    ErrorResponseSchema,
    PermissionsSchema,
    ResponseHeaderSchema,
)
from kinto.views.records import Record
from pyramid.httpexceptions import HTTPNoContent, HTTPNotFound
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from webob.datetime_utils import parse_date
from webob.static import FileApp

from kinto_attachment import attachments, errors
from kinto_attachment.form import reader as uploads
from kinto_attachment.http import bodies
from kinto_attachment.records import AttachmentRouteFactory, PreconditionsSchema
from kinto_attachment.storage import StorageError
from kinto_attachment.transactions import Transactions


logger = logging.getLogger(__name__)

MAX_DISCARDED_BYTES = 64 * 1024**2
MAX_DISCARDING_SECONDS = 30

ATTACHMENT_PATH = re.compile(r"/records/[^/]+/attachment/?\Z")
"""How the path of a request on an attachment ends, also where Kinto answers with a redirection."""

FILES_PATH = "/__files__"

CHANGE_HEADERS = ("ETag", "Last-Modified")

threads = bodies.ReadingThreads()

RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)
MAX_RANGE_DIGITS = 18

SERVED_FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # What was uploaded must not run scripts with the rights of a page of this server.
    "Content-Security-Policy": "sandbox",
}


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


def _optional(node_class, **kwargs):
    return node_class(missing=colander.drop, **kwargs)


class FormSchema(colander.MappingSchema):
    """The parts of a ``multipart/form-data`` body."""

    attachment = colander.SchemaNode(colander.String(), description="The file.")
    data = _optional(colander.MappingSchema, description="Attributes of the record, as JSON.")
    permissions = PermissionsSchema(
        missing=colander.drop,
        permissions=Record.permissions,
        description="Permissions of the record, as JSON.",
    )


class AttachRequestSchema(colander.MappingSchema):
    header = PreconditionsSchema()
    body = FormSchema()


class DetachRequestSchema(colander.MappingSchema):
    header = PreconditionsSchema()


class DescriptionSchema(colander.MappingSchema):
    filename = colander.SchemaNode(colander.String(), description="Original name.")
    hash = colander.SchemaNode(colander.String(), description="SHA-256, hexadecimal.")
    mimetype = colander.SchemaNode(colander.String())
    size = colander.SchemaNode(colander.Integer(), description="In bytes.")


class AttachmentSchema(DescriptionSchema):
    location = colander.SchemaNode(colander.String(), description="URL of the file.")
    original = DescriptionSchema(
        missing=colander.drop, description="What was sent, where it is stored compressed."
    )


class AttachedHeaderSchema(ResponseHeaderSchema):
    location = colander.SchemaNode(colander.String(), name="Location")


class AttachedResponseSchema(colander.MappingSchema):
    header = AttachedHeaderSchema()
    body = AttachmentSchema()


class EmptyResponseSchema(colander.MappingSchema):
    """A response without a body."""


class FileResponseSchema(colander.MappingSchema):
    """The bytes of a file."""


COMMON_RESPONSES = {
    "400": ErrorResponseSchema(description="The request is invalid."),
    "401": ErrorResponseSchema(description="The request is missing authentication headers."),
    "403": ErrorResponseSchema(description="The user is not allowed to write the record."),
    "404": ErrorResponseSchema(description="The bucket, collection or record does not exist."),
    "409": ErrorResponseSchema(description="Another change was made at once, please retry."),
    "412": ErrorResponseSchema(
        description="The record was changed since the value in `If-Match`, or exists."
    ),
    "503": ErrorResponseSchema(description="The file could not be stored, please retry later."),
    "default": ErrorResponseSchema(description="Unexpected error."),
}

ATTACH_RESPONSES = {
    "200": AttachedResponseSchema(description="The file is attached to the existing record."),
    "201": AttachedResponseSchema(description="The record is created, with the file attached."),
    "411": ErrorResponseSchema(description="The server cannot tell where the body ends."),
    "413": ErrorResponseSchema(
        description="The file or a form field is too large, or there are too many fields."
    ),
    "415": ErrorResponseSchema(description="The request or a part is encoded, as by gzip."),
    **COMMON_RESPONSES,
}

DETACH_RESPONSES = {
    "204": EmptyResponseSchema(description="The record has no attachment (any more)."),
    **COMMON_RESPONSES,
}

FILE_RESPONSES = {
    "200": FileResponseSchema(description="The file."),
    "206": FileResponseSchema(description="The part of the file that `Range` asks for."),
    "304": EmptyResponseSchema(description="The client has this file already."),
    "404": ErrorResponseSchema(description="There is no such file."),
    "416": ErrorResponseSchema(description="The file has no such range."),
}


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
    _refuse_unreadable_body(request)
    transactions = Transactions(request)
    if not _is_read_ahead(request) or request.registry.attachment_storage.is_remote:
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


def _refuse_unreadable_body(request):
    if bodies.is_unreadable(request.environ):
        raise errors.length_required()
    encoding = request.headers.get("Content-Encoding", "").strip()
    if encoding.lower() not in uploads.PLAIN_CODINGS:
        raise errors.content_encoding("request", encoding)


class NoContent(HTTPNoContent):
    """An empty response, which in a batch is shown as an empty object.

    (``build_response`` in ``kinto.core.utils`` cannot show bytes that are not JSON.)
    """

    json = {}


class ReadAhead(io.BytesIO):
    """The whole body of a request, or what the client has sent of it."""


def limit_body(event):
    """Have the body of a request on an attachment end where it does, whoever reads it."""
    request = event.request
    if ATTACHMENT_PATH.search(request.environ["PATH_INFO"]):
        _limit_body(request.environ)
        threads.enter()
        request.add_finished_callback(lambda request: threads.leave())


def _limit_body(environ):
    environ["wsgi.input"] = bodies.Body(environ)
    # WebOb would turn it back to its beginning.
    environ.pop("webob.is_body_seekable", None)


def read_ahead(event):
    """Read the body of a small upload before the database is asked for anything.

    However slowly it comes, it holds nothing of the database then. And the checks and the change
    that follow can have one transaction in common, where the file is stored on this machine.
    """
    environ = event.request.environ
    body = environ["wsgi.input"]
    if (
        environ["REQUEST_METHOD"] == "POST"
        and isinstance(body, bodies.Body)
        and 0 < (body.bytes_left or 0) <= uploads.CHUNK_BYTES
        and not body.is_withheld
    ):
        pieces = []
        if threads.read(body, body.bytes_left, math.inf, pieces.append):
            environ["wsgi.input"] = ReadAhead(b"".join(pieces))


def _is_read_ahead(request):
    return isinstance(request.environ["wsgi.input"], ReadAhead)


def discard_body(event):
    """Read what is left of a body, within limits, so that the client gets its answer.

    Most clients send all of a body before they look for an answer; a server that answers and
    closes resets the connection, and the answer is lost. A body that is longer than the limit is
    not begun: those clients look earlier, or cannot be helped. Nor is one that the client has not
    begun to send (``Expect: 100-continue``).
    """
    response, environ = event.response, event.request.environ
    if not ATTACHMENT_PATH.search(environ["PATH_INFO"]):
        return
    if not isinstance(environ["wsgi.input"], bodies.Body | ReadAhead):
        # Kinto has refused it before (``restrict_http_methods_if_readonly``).
        _limit_body(environ)
    body = environ["wsgi.input"]
    if (
        isinstance(body, bodies.Body)
        and body.bytes_left != 0
        and (body.bytes_left or 0) <= MAX_DISCARDED_BYTES
        and not body.is_withheld
    ):
        length = response.content_length
        response.app_iter = _then_discard(response.app_iter, body)
        response.content_length = length


def _then_discard(answer, body):
    """Yield an answer, which is sent at once (PEP 3333), and then read the body."""
    # Granian would not go on after an empty chunk of an empty answer.
    yield from filter(None, answer)
    threads.read(body, MAX_DISCARDED_BYTES, MAX_DISCARDING_SECONDS)


files = Service(
    name="attachment-files",
    path=FILES_PATH + "/*subpath",
    description="The stored files",
)


@files.get(
    permission=NO_PERMISSION_REQUIRED,
    cors_headers=("ETag", "Last-Modified", "Content-Range"),
    tags=["Attachments"],
    operation_id="get_file",
    response_schemas=FILE_RESPONSES,
)
def get_file(request):
    """Return a stored file, or the range of it that is asked for."""
    try:
        name = "/".join(request.matchdict["subpath"])
        path = request.registry.attachment_storage.path(name)
        stat = os.stat(path)
    except OSError as error:
        raise HTTPNotFound() from error
    if not os.path.isfile(path):
        raise HTTPNotFound()
    configured = request.registry.attachment_settings.defaults.mimetypes
    file_app = FileApp(
        path,
        content_type=uploads.mimetype_of(os.path.basename(path), configured),
        # The bytes are sent as they are: they are not another file's, encoded for the transfer.
        content_encoding=None,
        charset=None,
        etag=f"{stat.st_mtime_ns:x}-{stat.st_size:x}",
    )
    # Without the server's file wrapper, which cannot start in the middle of a file.
    environ = {k: v for k, v in request.environ.items() if k != "wsgi.file_wrapper"}
    asked = type(request)(environ)
    asked.headers["Range"] = _plain_range(request.headers.get("Range", ""), stat.st_size)
    _ignore_odd_dates(asked.headers)
    served = asked.get_response(file_app)
    if served.status_code in (403, 404):
        # Gone since it was looked at, or not to be opened: WebOb's own pages would tell its path.
        raise HTTPNotFound()
    if served.status_code == 416:
        raise errors.no_such_range(stat.st_size)
    return StreamedResponse(
        app_iter=served.app_iter,
        status=served.status,
        headerlist=[*served.headerlist, *SERVED_FILE_HEADERS.items()],
    )


def _plain_range(header, size):
    """Return a Range that WebOb reads as RFC 9110 means it; an empty one is ignored.

    (WebOb fails on ``bytes=-``, and knows neither ``bytes=-0`` nor the end of a file that is longer
    than the file.)

    :param size: of the file, in bytes.
    """
    match = RANGE.fullmatch(header.strip())
    if match is None or not any(match.groups()):
        return ""
    first, last = (_bounded(digits) for digits in match.groups())
    if first is not None:
        return f"bytes={first}-{'' if last is None else last}"
    if last == 0:
        return f"bytes={size}-"
    return f"bytes={max(0, size - last)}-" if size else ""


def _ignore_odd_dates(headers):
    """Remove conditions whose date is none: they are as good as not sent (RFC 9110, section 13.1).

    But the range goes with ``If-Range``: it is for those who know what they have a part of. (WebOb
    fails on the year 99999, and compares with what it cannot read as a date.)
    """
    if not _is_date(headers.get("If-Modified-Since", "")):
        headers.pop("If-Modified-Since", None)
    if_range = headers.get("If-Range", "")
    if if_range.endswith(" GMT") and not _is_date(if_range):
        del headers["If-Range"], headers["Range"]


def _is_date(text):
    try:
        return parse_date(text) is not None
    except (ValueError, OverflowError, OSError):
        return False


def _bounded(digits):
    """Return a number, or one that is larger than any file's, and ``None`` without digits."""
    if len(digits) > MAX_RANGE_DIGITS:
        return 10**MAX_RANGE_DIGITS
    return int(digits) if digits else None


class StreamedResponse(Response):
    """A response whose body is never in memory as a whole.

    Kinto's metrics read the body of every response for its length (``setup_metrics`` in
    ``kinto.core.initialization``): for this one they see none.
    """

    @property
    def body(self):
        return b""


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
