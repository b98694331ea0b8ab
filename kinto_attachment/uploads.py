"""Bytes: one multipart body becomes a form, read once and part by part.

Nothing here knows a request or a storage. The bytes come from a ``read`` callable, and those of
the file go to whatever ``stage`` returns, as they come and through a fixed amount of memory.
"""

import hashlib
import logging
import mimetypes
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kinto.core.resource import has_null_character
from kinto.core.utils import json
from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from kinto_attachment import errors
from kinto_attachment.compression import GzipWriter
from kinto_attachment.settings import MIMETYPE


logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
MAX_PARTS = 16
MAX_ENVELOPE_BYTES = 1024 * 1024
"""How much of a request may be neither file nor field: boundaries, headers of the parts."""

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")

COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}
"""The mimetypes of what :func:`mimetypes.guess_type` calls an encoding."""


ACTIVE_TYPES = re.compile(
    r"text/(html|xml|xsl|vbscript|x-component)"
    r"|application/(xml|xml-dtd)|.*\+xml"
    r"|(text|application)/(x-)?(java|ecma|live|j)script[\d.]*"
    r"|multipart/.*|message/.*"
)
"""The mimetypes with which a browser runs what is in a file, or looks into it for what to run."""


GZIP_EXTENSION = ".gz"
GZIP_MIMETYPE = "application/x-gzip"


class StagedFile(Protocol):
    """Where the bytes of a file go (see :mod:`kinto_attachment.storage`)."""

    def write(self, chunk: bytes) -> None: ...

    def discard(self) -> None: ...


@dataclass
class Description:
    """What a record tells of some bytes.

    :ivar size: in bytes.
    :ivar hash: SHA-256 of the bytes, lower-case hexadecimal.
    """

    filename: str
    hash: str
    mimetype: str
    size: int


@dataclass
class Upload:
    """A file that has been received.

    :ivar description: of what is staged.
    :ivar original: of what was sent, where that is not what is staged.
    """

    description: Description
    original: Description | None
    staged: StagedFile


@dataclass
class Form:
    """What was sent: one file, and the JSON objects beside it (empty where there were none)."""

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
) -> Form:
    """Return the form of a ``multipart/form-data`` body (RFC 7578), its parts in any order.

    Whatever happens, a staged file that is not in the returned form has been discarded.

    :param read: returns at most so many bytes of the body, none at its end.
    :param content_length: of the body in bytes, ``None`` if the client did not tell.
    :param max_file_bytes: 0 for a file of any size.
    :param stage: makes a staged file for the filename and the mimetype that were sent; it may
        refuse.
    :param gzip_level: from 1 to 9; ``None`` where the file is not to be compressed.
    :raises HTTPException: the form is refused (see :mod:`kinto_attachment.errors`).
    """
    boundary = _boundary(content_type)
    _refuse_too_long(content_length, max_field_bytes, max_file_bytes)
    body = _Body(read, content_length)
    parts = _Parts(stage, max_field_bytes, max_file_bytes, mimetype_by_extension, gzip_level)
    try:
        parser = PushMultipartParser(
            boundary,
            content_length=-1 if content_length is None else content_length,
            max_segment_count=MAX_PARTS,
        )
        for event in parser.parse_blocking(body.read, CHUNK_BYTES):
            parts.take(event)
        if body.ended and content_length is not None:
            raise body.interrupted()
        return parts.form()
    except ParserLimitReached as error:
        parts.discard()
        raise errors.form_too_large(error.args[0]) from error
    except MultipartError as error:
        parts.discard()
        refusal = body.interrupted() if body.ended else errors.malformed(error.args[0])
        raise refusal from error
    except BaseException:
        parts.discard()
        raise


def guess_mimetype(filename: str) -> str:
    """Return the mimetype that goes with the name of a file."""
    mimetype, encoding = mimetypes.guess_type(filename)
    if encoding is not None:
        mimetype = COMPRESSED.get(encoding)
    return mimetype or "application/octet-stream"


def _boundary(content_type):
    media_type, parameters = parse_options_header(content_type)
    if media_type != "multipart/form-data":
        raise errors.not_multipart()
    if not parameters.get("boundary"):
        raise errors.malformed("the Content-Type header has no boundary")
    # WSGI gives headers as latin-1 (PEP 3333), so this restores the bytes that were sent.
    return parameters["boundary"].encode("latin-1")


def _refuse_too_long(content_length, max_field_bytes, max_file_bytes):
    beside = len(errors.FIELDS) * max_field_bytes + MAX_ENVELOPE_BYTES
    if max_file_bytes and (content_length or 0) > max_file_bytes + beside:
        raise errors.file_too_large(content_length - beside, max_file_bytes)


class _Body:
    """The bytes of a request, counted, so that one that was cut off is told from a bad one.

    :ivar ended: whether there was nothing to read where more was asked for. (The parser never asks
        for more than the Content-Length.)
    """

    def __init__(self, read, content_length):
        self._read = read
        self._expected = content_length
        self._received = 0
        self.ended = False

    def read(self, size):
        try:
            chunk = self._read(size)
        except OSError as error:
            # What WSGI servers raise when the client goes away.
            raise self.interrupted() from error
        self._received += len(chunk)
        self.ended = size > 0 and not chunk
        return chunk

    def interrupted(self):
        logger.info("Upload ended after %d of %s bytes", self._received, self._expected)
        return errors.truncated(self._received, self._expected)


class _Parts:
    """The parts of a form, collected from the events of the parser."""

    def __init__(self, stage, max_field_bytes, max_file_bytes, mimetype_by_extension, gzip_level):
        self._stage = stage
        self._max_field_bytes = max_field_bytes
        self._max_file_bytes = max_file_bytes
        self._mimetype_by_extension = mimetype_by_extension
        self._gzip_level = gzip_level
        self._by_name = {}
        self._current = None
        self._refusal = None

    def take(self, event):
        """Take one of the three kinds of event: a part begins, a piece of it, its end."""
        if isinstance(event, MultipartSegment):
            self._current = self._begin(event)
        elif event:
            self._current.write(event)
        else:
            self._current.end()

    def form(self):
        if self._refusal is not None:
            raise self._refusal
        if "attachment" not in self._by_name:
            raise errors.attachment_missing()
        values = {name: part.value for name, part in self._by_name.items()}
        return Form(values["attachment"], values.get("data", {}), values.get("permissions", {}))

    def discard(self):
        if "attachment" in self._by_name:
            self._by_name["attachment"].discard()

    def _begin(self, segment):
        if self._refusal is None:
            self._refusal = self._refusal_of(segment)
        if self._refusal is not None:
            # The parts that follow are still counted, but nothing is stored any more.
            self.discard()
            return _IgnoredPart()
        file = segment.name == "attachment"
        part = self._file(segment) if file else _FieldPart(segment.name, self._max_field_bytes)
        self._by_name[segment.name] = part
        return part

    def _refusal_of(self, segment):
        if segment.name != "attachment" and segment.name not in errors.FIELDS:
            return errors.unknown_field(segment.name)
        if segment.name in self._by_name:
            return errors.repeated_field(segment.name)
        if segment.name != "attachment" and segment.filename is not None:
            return errors.field_sent_as_file(segment.name)
        return None

    def _file(self, segment):
        filename = _last_component(segment.filename or "")
        if not filename:
            raise errors.filename_required()
        mimetype = self._mimetype(filename, segment.content_type)
        staged = self._stage(filename, mimetype)
        if self._gzip_level is not None:
            staged = _GzippedFile(staged, self._gzip_level)
        return _FilePart(filename, mimetype, staged, self._max_file_bytes)

    def _mimetype(self, filename, sent):
        configured = self._mimetype_by_extension.get(os.path.splitext(filename)[1].lower())
        if configured:
            return configured
        # One who may upload a text should not make it a page that runs scripts.
        valid = MIMETYPE.fullmatch(sent or "") and not ACTIVE_TYPES.fullmatch(sent.lower())
        return sent if valid else guess_mimetype(filename)


class _FilePart:
    def __init__(self, filename, mimetype, staged, max_bytes):
        self._filename = filename
        self._mimetype = mimetype
        self._staged = staged
        self._max_bytes = max_bytes
        self._count = _Count()

    def write(self, chunk):
        self._count.add(chunk)
        if 0 < self._max_bytes < self._count.size:
            raise errors.file_too_large(self._count.size, self._max_bytes)
        self._staged.write(chunk)

    def end(self):
        if isinstance(self._staged, _GzippedFile):
            self._staged.close()

    def discard(self):
        self._staged.discard()

    @property
    def value(self):
        sent = self._count.description(self._filename, self._mimetype)
        if isinstance(self._staged, _GzippedFile):
            return Upload(self._staged.description(self._filename), sent, self._staged.staged)
        return Upload(sent, None, self._staged)


class _GzippedFile:
    """A staged file that receives what is written here compressed."""

    def __init__(self, staged, level):
        self.staged = staged
        self._count = _Count()
        self._writer = GzipWriter(self._write, level)

    def write(self, chunk):
        self._writer.write(chunk)

    def close(self):
        self._writer.close()

    def discard(self):
        self._writer.abort()
        self.staged.discard()

    def description(self, filename):
        return self._count.description(filename + GZIP_EXTENSION, GZIP_MIMETYPE)

    def _write(self, chunk):
        self._count.add(chunk)
        self.staged.write(chunk)


class _Count:
    """The size and the hash of what passes."""

    def __init__(self):
        self.size = 0
        self._digest = hashlib.sha256()

    def add(self, chunk):
        self.size += len(chunk)
        self._digest.update(chunk)

    def description(self, filename, mimetype):
        return Description(filename, self._digest.hexdigest(), mimetype, self.size)


class _IgnoredPart:
    def write(self, chunk):
        pass

    def end(self):
        pass


class _FieldPart:
    def __init__(self, name, max_bytes):
        self._name = name
        self._max_bytes = max_bytes
        self._received = bytearray()
        self.value = None

    def write(self, chunk):
        if len(self._received) + len(chunk) > self._max_bytes:
            raise errors.field_too_large(self._name, self._max_bytes)
        self._received += chunk

    def end(self):
        self.value = _json_object(self._name, bytes(self._received))


def _json_object(name, text):
    try:
        value = json.loads(text.decode("utf-8"))
        if not isinstance(value, dict):
            raise ValueError("should be an object")
        if has_null_character(value):
            raise ValueError("holds a NUL character")
    except (ValueError, RecursionError) as error:
        raise errors.invalid_json(name, error) from error
    return value


def _last_component(filename):
    """Return the last component of a path as the sender wrote it, without control characters."""
    name = CONTROL_CHARACTERS.sub("", filename)
    name = re.split(r"[/\\]", name)[-1].strip()
    return "" if name in (".", "..") else name
