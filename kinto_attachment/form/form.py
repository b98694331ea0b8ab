"""A form: one multipart body, read once and part by part.

The form knows no request and no storage. The bytes come from a ``read`` callable, and those of the
file go to what ``stage`` returns, as they come and through a fixed amount of memory.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from multipart import (
    MultipartError,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from kinto_attachment import errors
from kinto_attachment.form import digests
from kinto_attachment.form.body import Body
from kinto_attachment.form.fields import FIELDS
from kinto_attachment.form.padding import without_padding
from kinto_attachment.form.parts import Parts
from kinto_attachment.form.upload import StagedFile, Upload


MAX_PARTS = 16
MAX_HEADER_BYTES = 24 * 1024
"""The longest header of a part: that of a filename of 5000 characters in UTF-8."""
MAX_ENVELOPE_BYTES = 1024 * 1024
"""How much of a request may be neither file nor field: boundaries, headers of the parts."""


@dataclass
class Form:
    """What was sent: one file, and the JSON objects beside it (empty if not sent)."""

    upload: Upload
    data: dict[str, Any]
    permissions: dict[str, Any]


def read_form(
    read: Callable[[int], bytes],
    content_type: str,
    content_length: int | None,
    stage: Callable[[str, str], StagedFile],
    max_field_bytes: int,
    max_file_bytes: int,
    mimetype_by_extension: dict[str, str],
    gzip_level: int | None = None,
    content_digest: str | None = None,
) -> Form:
    """Return the form of a ``multipart/form-data`` body (RFC 7578), its parts in any order.

    Whatever happens, a staged file that is not in the returned form has been discarded.

    :param read: returns at most so many bytes of the body, none at its end.
    :param content_length: of the body in bytes, ``None`` if the client did not send it.
    :param max_file_bytes: 0 for a file of any size.
    :param stage: makes a staged file for the filename and the mimetype that were sent; it may
        refuse.
    :param gzip_level: from 1 to 9; ``None`` to not compress the file.
    :param content_digest: the header of that name, which is about the whole body.
    :raises HTTPException: the form is refused (see :mod:`kinto_attachment.errors`).
    """
    boundary = _boundary(content_type)
    _refuse_too_long(content_length, max_field_bytes, max_file_bytes)
    hashes = digests.Hashes(digests.parse("request", {digests.CONTENT_DIGEST: content_digest}))
    body = Body(read, content_length, hashes)
    parts = Parts(stage, max_field_bytes, max_file_bytes, mimetype_by_extension, gzip_level)
    try:
        with _parser_errors(body):
            parser = PushMultipartParser(
                boundary,
                content_length=-1 if content_length is None else content_length,
                max_segment_count=MAX_PARTS,
                max_header_size=MAX_HEADER_BYTES,
            )
            for chunk in without_padding(body.chunks(), boundary):
                for event in parser.parse(chunk):
                    body.form_has_begun = True
                    parts.take(event)
            parser.close()
        if body.ended and content_length is not None:
            raise body.truncated()
        hashes.verify()
        return Form(*parts.values())
    except BaseException:
        parts.discard()
        raise


def _boundary(content_type: str) -> bytes:
    media_type, parameters = parse_options_header(content_type)
    if media_type != "multipart/form-data":
        raise errors.not_multipart()
    if not parameters.get("boundary"):
        raise errors.malformed("the Content-Type header has no boundary")
    # WSGI gives headers as latin-1 (PEP 3333), so this restores the bytes that were sent.
    return parameters["boundary"].encode("latin-1")


def _refuse_too_long(content_length: int | None, max_field_bytes: int, max_file_bytes: int) -> None:
    beside = len(FIELDS) * max_field_bytes + MAX_ENVELOPE_BYTES
    if content_length and 0 < max_file_bytes < content_length - beside:
        raise errors.file_too_large(content_length - beside, max_file_bytes)


@contextlib.contextmanager
def _parser_errors(body: Body) -> Iterator[None]:
    """Refuse the form when the parser does, with its reason in the words of RFC 7578."""
    try:
        yield
    except MultipartError as error:
        # A part, not a segment.
        reason = error.args[0].removesuffix(" (parser closed)")
        reason = reason.replace("segment", "part").replace("Segment", "Part")
        if isinstance(error, ParserLimitReached):
            raise errors.form_too_large(reason) from error
        raise (body.truncated() if body.ended else errors.malformed(reason)) from error
