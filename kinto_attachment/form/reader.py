"""Bytes: one multipart body becomes a form, read once and part by part.

Nothing here knows a request or a storage. The bytes come from a ``read`` callable, and those of
the file go to whatever ``stage`` returns, as they come and through a fixed amount of memory.
"""

import codecs
import contextlib
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
from kinto_attachment.form import digests, disposition
from kinto_attachment.form.gzip import GzipWriter
from kinto_attachment.form.padding import Unpadded
from kinto_attachment.settings.casts import MIMETYPE


logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
MAX_PARTS = 16
MAX_HEADER_BYTES = 24 * 1024
"""The longest header of a part: that of a filename of 5000 characters in UTF-8."""
MAX_JSON_DEPTH = 100
TOO_DEEP = f"nested deeper than {MAX_JSON_DEPTH} levels"
MAX_ENVELOPE_BYTES = 1024 * 1024
"""How much of a request may be neither file nor field: boundaries, headers of the parts."""

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Those without a sign, and those that show what follows in another order than it is read in."""

HASH = "sha-256"

PLAIN_ENCODINGS = ("7bit", "8bit", "binary")
"""The values of Content-Transfer-Encoding that change nothing (RFC 2045, section 6.2)."""

PLAIN_CODINGS = ("", "identity")
"""The values of Content-Encoding that change nothing (RFC 9110, section 12.5.3)."""

CHARSETS = {
    "utf-8": "utf-8",
    "utf-8-sig": "utf-8",
    "ascii": "utf-8",
    "iso8859-1": "latin-1",
    "cp1252": "cp1252",
}
"""What the text of a field is decoded from, by Python's names of the charsets that are read."""

BYTE_ORDER_MARK = "\ufeff"

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
    r"|(application|unknown)/unknown|application/x-unknown-content-type"
)
"""The mimetypes with which a browser runs what is in a file, or looks into it for what to run.

The last ones stand for none at all (MIME Sniffing Standard, section 7).
"""


GZIP_EXTENSION = ".gz"
GZIP_MIMETYPE = "application/x-gzip"


class StagedFile(Protocol):
    """Where the bytes of a file go (see :mod:`kinto_attachment.storage.contract`)."""

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
    content_digest: str | None = None,
) -> Form:
    """Return the form of a ``multipart/form-data`` body (RFC 7578), its parts in any order.

    Whatever happens, a staged file that is not in the returned form has been discarded.

    :param read: returns at most so many bytes of the body, none at its end.
    :param content_length: of the body in bytes, ``None`` if the client did not tell.
    :param max_file_bytes: 0 for a file of any size.
    :param stage: makes a staged file for the filename and the mimetype that were sent; it may
        refuse.
    :param gzip_level: from 1 to 9; ``None`` where the file is not to be compressed.
    :param content_digest: the header of that name, which is about the whole body.
    :raises HTTPException: the form is refused (see :mod:`kinto_attachment.errors`).
    """
    boundary = _boundary(content_type)
    _refuse_too_long(content_length, max_field_bytes, max_file_bytes)
    with _digest_errors("request"):
        hashes = digests.Hashes(_digests({digests.CONTENT_DIGEST: content_digest}))
    body = _Body(read, content_length, hashes)
    parts = _Parts(stage, max_field_bytes, max_file_bytes, mimetype_by_extension, gzip_level)
    try:
        parser = PushMultipartParser(
            boundary,
            content_length=-1 if content_length is None else content_length,
            max_segment_count=MAX_PARTS,
            max_header_size=MAX_HEADER_BYTES,
        )
        for event in parser.parse_blocking(Unpadded(body.read, boundary).read, CHUNK_BYTES):
            body.form_has_begun = True
            parts.take(event)
        if body.ended and content_length is not None:
            raise body.interrupted()
        with _digest_errors("request"):
            hashes.verify()
        return parts.form()
    except ParserLimitReached as error:
        parts.discard()
        raise errors.form_too_large(_in_our_words(error)) from error
    except MultipartError as error:
        parts.discard()
        refusal = body.interrupted() if body.ended else errors.malformed(_in_our_words(error))
        raise refusal from error
    except BaseException:
        parts.discard()
        raise


def mimetype_of(filename: str, configured: dict[str, str]) -> str:
    """Return the mimetype that goes with the name of a file: the configured one, or a guess.

    :param configured: ``{extension: mimetype}``, extensions lower-case and with their dot.
    """
    extension = os.path.splitext(filename)[1].lower()
    return configured.get(extension) or _guess_mimetype(filename)


def _guess_mimetype(filename):
    # As a path: a name like a URL (``data:…``) would tell a type of its own.
    mimetype, encoding = mimetypes.guess_type(f"./{filename}")
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


def _in_our_words(error):
    """Return what is wrong in the words of RFC 7578: a part, not a segment."""
    text = error.args[0].removesuffix(" (parser closed)")
    return text.replace("segment", "part").replace("Segment", "Part")


@contextlib.contextmanager
def _digest_errors(of):
    try:
        yield
    except digests.DigestError as error:
        raise errors.wrong_digest(of, error) from error


def _digests(headers):
    """Return the digests in ``{field: value or None}``."""
    return [
        digest
        for field, value in headers.items()
        if value is not None
        for digest in digests.parse(field, value)
    ]


def _refuse_too_long(content_length, max_field_bytes, max_file_bytes):
    beside = len(errors.FIELDS) * max_field_bytes + MAX_ENVELOPE_BYTES
    if max_file_bytes and (content_length or 0) > max_file_bytes + beside:
        raise errors.file_too_large(content_length - beside, max_file_bytes)


class _Body:
    """The bytes of a request, counted, so that one that was cut off is told from a bad one.

    The first chunk is a full one: what the parser makes of a preamble depends on where it is cut.

    :ivar ended: whether there was nothing to read where there should have been more.
    :ivar form_has_begun: whether a part has been seen.
    """

    def __init__(self, read, content_length, hashes):
        self._read = read
        self._expected = content_length
        self._hashes = hashes
        self._received = 0
        self.ended = False
        self.form_has_begun = False

    def read(self, size):
        if self._received:
            chunk = self._some(size)
            if chunk and not self.form_has_begun:
                raise errors.form_too_large(f"no part begins in its first {CHUNK_BYTES} bytes")
        else:
            chunk = self._all(size)
        self.ended = size > 0 and not chunk and self._received != self._expected
        return chunk

    def _all(self, size):
        chunks = bytearray()
        while len(chunks) < size and (chunk := self._some(size - len(chunks))):
            chunks += chunk
        return bytes(chunks)

    def _some(self, size):
        if self._expected is not None:
            size = min(size, self._expected - self._received)
        if not size:
            return b""
        try:
            chunk = self._read(size)
        except Exception as error:
            # What servers raise where the client goes away is different for each.
            raise self.interrupted() from error
        self._received += len(chunk)
        self._hashes.update(chunk)
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
        _check_headers(segment)
        segment.name, segment.filename = _disposition(segment)
        if self._refusal is None:
            self._refusal = self._refusal_of(segment)
        if self._refusal is not None:
            # The parts that follow are still counted, but nothing is stored any more.
            self.discard()
            return _IgnoredPart()
        part = self._file(segment) if segment.name == "attachment" else self._field(segment)
        self._by_name[segment.name] = part
        return part

    def _refusal_of(self, segment):
        if segment.name != "attachment" and segment.name not in errors.FIELDS:
            return errors.unknown_field(segment.name)
        if segment.name in self._by_name:
            return errors.repeated_field(segment.name)
        if segment.name != "attachment" and segment.filename is not None:
            return errors.field_sent_as_file(segment.name)
        encoding = segment.header("Content-Transfer-Encoding", "binary").strip()
        if encoding.lower() not in PLAIN_ENCODINGS:
            return errors.transfer_encoding(segment.name, encoding)
        coding = segment.header("Content-Encoding", "").strip()
        if coding.lower() not in PLAIN_CODINGS:
            return errors.content_encoding(segment.name, coding)
        return None

    def _field(self, segment):
        return _FieldPart(segment.name, _charset(segment), self._max_field_bytes)

    def _file(self, segment):
        filename = _last_component(segment.filename or "")
        if not filename:
            raise errors.filename_required()
        mimetype = self._mimetype(filename, segment.content_type)
        with _digest_errors("attachment"):
            count = _Count(_digests_of_part(segment))
        staged = self._stage(filename, mimetype)
        if self._gzip_level is not None:
            staged = self._gzipped(staged)
        return _FilePart(filename, mimetype, staged, self._max_file_bytes, count)

    def _gzipped(self, staged):
        try:
            return _GzippedFile(staged, self._gzip_level)
        except BaseException:
            # There may be no more threads to be had.
            staged.discard()
            raise

    def _mimetype(self, filename, sent):
        extension = os.path.splitext(filename)[1].lower()
        # One who may upload a text should not make it a page that runs scripts.
        valid = MIMETYPE.fullmatch(sent or "") and not ACTIVE_TYPES.fullmatch(sent.lower())
        if valid and extension not in self._mimetype_by_extension:
            return sent
        return mimetype_of(filename, self._mimetype_by_extension)


class _FilePart:
    def __init__(self, filename, mimetype, staged, max_bytes, count):
        self._filename = filename
        self._mimetype = mimetype
        self._staged = staged
        self._max_bytes = max_bytes
        self._count = count

    def write(self, chunk):
        self._count.add(chunk)
        if 0 < self._max_bytes < self._count.size:
            raise errors.file_too_large(self._count.size, self._max_bytes)
        self._staged.write(chunk)

    def end(self):
        with _digest_errors("attachment"):
            self._count.verify()
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
    """The size and the hash of what passes, and whether the digests are those of it."""

    def __init__(self, sent=()):
        self.size = 0
        self._hashes = digests.Hashes(sent, [HASH])
        self.verify = self._hashes.verify

    def add(self, chunk):
        self.size += len(chunk)
        self._hashes.update(chunk)

    def description(self, filename, mimetype):
        return Description(filename, self._hashes.hexdigest(HASH), mimetype, self.size)


class _IgnoredPart:
    def write(self, chunk):
        pass

    def end(self):
        pass


class _FieldPart:
    def __init__(self, name, charset, max_bytes):
        self._name = name
        self._charset = charset
        self._max_bytes = max_bytes
        self._received = bytearray()
        self.value = None

    def write(self, chunk):
        if len(self._received) + len(chunk) > self._max_bytes:
            raise errors.field_too_large(self._name, self._max_bytes)
        self._received += chunk

    def end(self):
        self.value = _json_object(self._name, bytes(self._received), self._charset)


def _json_object(name, text, charset):
    try:
        value = json.loads(text.decode(charset).removeprefix(BYTE_ORDER_MARK))
        reason = _fault(value)
    except UnicodeDecodeError:
        reason = f"not {charset.upper()}"
    except RecursionError:
        reason = TOO_DEEP
    except ValueError as error:
        reason = str(error)
    if reason is not None:
        raise errors.invalid_json(name, reason)
    return value


def _fault(value):
    """Return why this is not what a field holds, or ``None``."""
    if not isinstance(value, dict):
        return "should be an object"
    if _is_deeper(value, MAX_JSON_DEPTH):
        return TOO_DEEP
    if has_null_character(value):
        return "holds a NUL character"
    return None


def _is_deeper(value, levels):
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inner)


def _check_headers(segment):
    """Refuse what others read differently than the parser does."""
    if any("\n" in value or "\r" in value for _, value in segment.headerlist):
        raise errors.malformed("Invalid line break in part header")
    names = [name for name, _ in segment.headerlist]
    for name in ("Content-Disposition", "Content-Type"):
        if names.count(name) > 1:
            raise errors.malformed(f"Multiple part {name} headers")


def _disposition(segment):
    """Return name and filename, read without losing a part of them as the parser may."""
    try:
        return disposition.parse(segment.header(disposition.HEADER))
    except disposition.DispositionError as error:
        raise errors.malformed(str(error)) from error


def _charset(segment):
    """Return the charset of a field's text, which is UTF-8 where none is named."""
    try:
        return CHARSETS[codecs.lookup(segment.charset or "utf-8").name]
    except (LookupError, ValueError) as error:
        raise errors.unknown_charset(segment.name, segment.charset) from error


def _digests_of_part(segment):
    fields = (digests.CONTENT_DIGEST, digests.REPR_DIGEST, digests.CONTENT_MD5)
    return _digests({field: _combined(segment, field) for field in fields})


def _combined(segment, field):
    """Return the value of a field, of several lines if need be (RFC 9110, section 5.3)."""
    values = [value for name, value in segment.headerlist if name == field.title()]
    return ", ".join(values) if values else None


def _last_component(filename):
    """Return the last component of a path as the sender wrote it, without control characters."""
    name = CONTROL_CHARACTERS.sub("", filename)
    name = re.split(r"[/\\]", name)[-1].strip()
    return "" if name in (".", "..") else name
