"""Every way to refuse a request."""

from string import Formatter
from typing import Any, NamedTuple

from kinto.core.errors import ERRORS, http_error
from pyramid.httpexceptions import (
    HTTPBadRequest,
    HTTPClientError,
    HTTPConflict,
    HTTPException,
    HTTPForbidden,
    HTTPGone,
    HTTPLengthRequired,
    HTTPLocked,
    HTTPNotFound,
    HTTPNotImplemented,
    HTTPPreconditionFailed,
    HTTPRequestEntityTooLarge,
    HTTPRequestRangeNotSatisfiable,
    HTTPServiceUnavailable,
    HTTPTooManyRequests,
    HTTPUnsupportedMediaType,
)


MAX_QUOTED_CHARACTERS = 100
"""How much of a text that a client sent is quoted in a message."""


class HTTPChecksumMismatch(HTTPClientError):
    """A chunk has another checksum than the one that was sent (tus, extension Checksum)."""

    code = 460
    title = "Checksum Mismatch"


class _Quoting(Formatter):
    def convert_field(self, value: Any, conversion: Any) -> Any:
        value = value[:MAX_QUOTED_CHARACTERS] if conversion == "r" else value
        return super().convert_field(value, conversion)


class Refusal(NamedTuple):
    """A way to refuse a request: a function of the values that its message has placeholders for.

    :ivar errno: the number in the body (``kinto.core.errors.ERRORS``).
    :ivar headers: of the response, whose values may have placeholders as well.
    """

    status: type[HTTPException]
    errno: ERRORS
    message: str
    headers: dict[str, str] = {}

    def __call__(self, *values: Any) -> HTTPException:
        """Return one of Kinto's JSON errors, ready to be raised."""
        error = http_error(
            self.status(),
            errno=self.errno,
            error="Invalid parameters" if self.status is HTTPBadRequest else None,
            message=_Quoting().format(self.message, *values),
        )
        for name, value in self.headers.items():
            error.headers[name] = value.format(*values)
        return error


def _parameters(message: str) -> Refusal:
    return Refusal(HTTPBadRequest, ERRORS.INVALID_PARAMETERS, message)


def _posted_data(message: str) -> Refusal:
    return Refusal(HTTPBadRequest, ERRORS.INVALID_POSTED_DATA, message)


def _too_large(message: str) -> Refusal:
    return Refusal(HTTPRequestEntityTooLarge, ERRORS.REQUEST_TOO_LARGE, message)


not_multipart = _parameters("Content-Type should be multipart/form-data")
malformed = _parameters("body: Invalid multipart/form-data: {}")
truncated = _parameters(
    "body: Invalid multipart/form-data:"
    " the request ended after {}{} bytes, before its last boundary"
)
wrong_digest = _parameters("The {}'s {}")
transfer_encoding = _parameters(
    "body: {!r} should be sent as it is, without the Content-Transfer-Encoding {!r}"
)
unknown_charset = _parameters("body: {} should be in UTF-8, not in {!r}")
filename_required = _parameters("body: Filename is required.")
extension_not_allowed = _parameters("body: File extension is not allowed.")
null_in_id = _parameters("path: The id of a bucket, collection or record contains a NUL character")
ids_too_long = _parameters(
    "path: The ids of bucket and collection are names of folders here: up to {} bytes"
)

attachment_missing = _posted_data("Attachment missing.")
metadata_locked = _posted_data("Attachment metadata cannot be modified")
repeated_field = _posted_data("body: {} should be sent once")
unknown_field = _posted_data(
    # Clients may match on the first half.
    "body: {!r} not in ('data', 'permissions'), and the file goes in 'attachment'"
)
field_sent_as_file = _posted_data("body: {} should be passed as form data, not files")
invalid_json = _posted_data("body: {} is not valid JSON ({})")

field_too_large = _too_large("body: {} is larger than {} bytes")
file_too_large = _too_large("body: attachment has at least {} bytes, the limit is {}")
form_too_large = _too_large("body: the form is too large: {}")

length_required = Refusal(
    HTTPLengthRequired,
    ERRORS.MISSING_CONTENT_LENGTH,
    "The body should be sent with a Content-Length:"
    " this server does not accept chunks (Transfer-Encoding)",
)
content_encoding = Refusal(
    HTTPUnsupportedMediaType,
    ERRORS.INVALID_PARAMETERS,
    "The {} should be sent as it is, without the Content-Encoding {!r}",
    # RFC 9110, section 15.5.16.
    {"Accept-Encoding": "identity"},
)
no_such_range = Refusal(
    HTTPRequestRangeNotSatisfiable,
    ERRORS.INVALID_PARAMETERS,
    "Range: the file has {} bytes",
    {"Content-Range": "bytes */{}"},
)

file_changed = Refusal(HTTPPreconditionFailed, ERRORS.MODIFIED_MEANWHILE, "The file is another one")
download_in_batch = _parameters("Downloads cannot be in a batch: ask for links there")
wrong_expiry = _parameters("querystring: expires_in should be a number of seconds from 1 to {}")
invalid_link = Refusal(HTTPForbidden, ERRORS.FORBIDDEN, "The link has ended, or is not valid")
no_links = Refusal(
    HTTPNotFound, ERRORS.MISSING_RESOURCE, "The storage of this server makes no links"
)
cannot_read = Refusal(
    HTTPNotImplemented, ERRORS.BACKEND, "The storage of this server cannot read files"
)

tus_version = Refusal(
    HTTPPreconditionFailed,
    ERRORS.INVALID_PARAMETERS,
    "Tus-Resumable should be {0}",
    {"Tus-Version": "{0}"},
)
wrong_header = _parameters("header: {} should be {}")
wrong_metadata = _parameters("header: Upload-Metadata: {}")
length_changed = _parameters("header: Upload-Length is {} already")
in_batch = _parameters("Resumable uploads cannot be in a batch")
chunk_cut_off = _parameters("body: it ended after {} of {} bytes, which are kept: see HEAD")
not_resumable = Refusal(
    HTTPNotFound,
    ERRORS.MISSING_RESOURCE,
    "This collection has no resumable uploads (kinto.attachment.resumable)",
)
unknown_upload = Refusal(HTTPNotFound, ERRORS.MISSING_RESOURCE, "There is no such upload")
expired_upload = Refusal(HTTPGone, ERRORS.MISSING_RESOURCE, "The upload has expired: begin anew")
wrong_offset = Refusal(
    HTTPConflict, ERRORS.CONSTRAINT_VIOLATED, "Upload-Offset should be that of HEAD, not {}"
)
superseded = Refusal(
    HTTPConflict, ERRORS.CONSTRAINT_VIOLATED, "Another request has taken over the upload: see HEAD"
)
being_completed = Refusal(
    HTTPLocked,
    ERRORS.CONSTRAINT_VIOLATED,
    "Another request is completing the upload, please retry.",
    {"Retry-After": "1"},
)
not_a_chunk = Refusal(
    HTTPUnsupportedMediaType,
    ERRORS.INVALID_PARAMETERS,
    "Content-Type should be application/offset+octet-stream",
)
too_many_uploads = Refusal(
    HTTPTooManyRequests,
    ERRORS.CLIENT_REACHED_CAPACITY,
    "There are {} unfinished uploads of this user: finish or delete one",
)
longer_than_declared = _too_large("body: the upload has {} bytes (Upload-Length)")
checksum_mismatch = Refusal(
    HTTPChecksumMismatch,
    ERRORS.INVALID_PARAMETERS,
    "The bytes differ from their {}, and are discarded: send them again",
)
# Kinto's view of a 503 adds Retry-After (``kinto.core.views.errors``).
storage_unavailable = Refusal(
    HTTPServiceUnavailable,
    ERRORS.BACKEND,
    "The attachment could not be stored, please retry later.",
)
storage_unreadable = Refusal(
    HTTPServiceUnavailable,
    ERRORS.BACKEND,
    "The attachment could not be read, please retry later.",
)
