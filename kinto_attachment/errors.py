"""Every way to refuse a request: status, errno and message.

Each function returns one of Kinto's JSON errors, ready to be raised. The numbers are those of
``kinto.core.errors.ERRORS``.
"""

from kinto.core.errors import ERRORS, http_error
from pyramid import httpexceptions


MAX_QUOTED_CHARACTERS = 100
"""How much of what a client sent is shown to it in a message."""


def not_multipart():
    return _parameters("Content-Type should be multipart/form-data")


def malformed(reason):
    return _parameters(f"body: Invalid multipart/form-data: {reason}")


def truncated(received, expected=None):
    total = f" of {expected}" if expected is not None else ""
    return malformed(f"the request ended after {received}{total} bytes, before its last boundary")


def wrong_digest(of, reason):
    return _parameters(f"The {of}'s {reason}")


def transfer_encoding(name, encoding):
    return _parameters(
        f"body: {_quoted(name)} should be sent as it is, without the"
        f" Content-Transfer-Encoding {_quoted(encoding)}"
    )


def content_encoding(of, encoding):
    error = http_error(
        httpexceptions.HTTPUnsupportedMediaType(),
        errno=ERRORS.INVALID_PARAMETERS,
        message=f"The {of} should be sent as it is, without the Content-Encoding"
        f" {_quoted(encoding)}",
    )
    # RFC 9110, section 15.5.16.
    error.headers["Accept-Encoding"] = "identity"
    return error


def length_required():
    return http_error(
        httpexceptions.HTTPLengthRequired(),
        errno=ERRORS.MISSING_CONTENT_LENGTH,
        message="The body should be sent with a Content-Length: this server does not take it in"
        " chunks (Transfer-Encoding)",
    )


def unknown_charset(name, charset):
    return _parameters(f"body: {name} should be in UTF-8, not in {_quoted(charset)}")


def filename_required():
    return _parameters("body: Filename is required.")


def extension_not_allowed():
    return _parameters("body: File extension is not allowed.")


def null_in_id():
    return _parameters("path: The id of a bucket, collection or record holds a NUL character")


def ids_too_long(limit):
    return _parameters(
        f"path: The ids of bucket and collection are names of folders here: up to {limit} bytes"
    )


def attachment_missing():
    return _posted_data("Attachment missing.")


def metadata_locked():
    return _posted_data("Attachment metadata cannot be modified")


def repeated_field(name):
    return _posted_data(f"body: {name} should be sent once")


def unknown_field(name):
    # Clients may match on its first half.
    return _posted_data(
        f"body: {_quoted(name)} not in ('data', 'permissions'), and the file goes in 'attachment'"
    )


def field_sent_as_file(name):
    return _posted_data(f"body: {name} should be passed as form data, not files")


def invalid_json(name, reason):
    return _posted_data(f"body: {name} is not valid JSON ({reason})")


def field_too_large(name, limit):
    return _too_large(f"body: {name} is larger than {limit} bytes")


def file_too_large(at_least, limit):
    return _too_large(f"body: attachment has at least {at_least} bytes, the limit is {limit}")


def form_too_large(reason):
    return _too_large(f"body: Too large a form: {reason}")


def no_such_range(size):
    error = http_error(
        httpexceptions.HTTPRequestRangeNotSatisfiable(),
        errno=ERRORS.INVALID_PARAMETERS,
        message=f"Range: the file has {size} bytes",
    )
    error.headers["Content-Range"] = f"bytes */{size}"
    return error


def storage_unavailable():
    """503: Kinto's view for it adds ``Retry-After`` (``kinto.core.views.errors``)."""
    return http_error(
        httpexceptions.HTTPServiceUnavailable(),
        errno=ERRORS.BACKEND,
        message="The attachment could not be stored, please retry later.",
    )


def _quoted(text):
    return repr(text[:MAX_QUOTED_CHARACTERS])


def _parameters(message):
    return _bad_request(ERRORS.INVALID_PARAMETERS, message)


def _posted_data(message):
    return _bad_request(ERRORS.INVALID_POSTED_DATA, message)


def _bad_request(errno, message):
    return http_error(
        httpexceptions.HTTPBadRequest(), errno=errno, error="Invalid parameters", message=message
    )


def _too_large(message):
    return http_error(
        httpexceptions.HTTPRequestEntityTooLarge(),
        errno=ERRORS.REQUEST_TOO_LARGE,
        message=message,
    )
