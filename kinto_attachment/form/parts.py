"""The parts of a form, collected from the events of the parser."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from multipart import MultipartSegment

from kinto_attachment import errors
from kinto_attachment.form import digests, disposition
from kinto_attachment.form.fields import FIELDS, JsonField
from kinto_attachment.form.mimetypes import mimetype_of
from kinto_attachment.form.upload import HASH, FilePart, StagedFile, Upload


FILE = "attachment"

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters and bidirectional overrides."""

PLAIN_ENCODINGS = ("7bit", "8bit", "binary")
"""The values of Content-Transfer-Encoding that change nothing (RFC 2045, section 6.2)."""

PLAIN_CODINGS = ("", "identity")
"""The values of Content-Encoding that change nothing (RFC 9110, section 12.5.3)."""


@dataclass
class Parts:
    """The parts of a form, of which only the file is not kept in memory.

    The parameters are those of :func:`kinto_attachment.form.form.read_form`.
    """

    stage: Callable[[str, str], StagedFile]
    max_field_bytes: int
    max_file_bytes: int
    mimetype_by_extension: dict[str, str]
    gzip_level: int | None
    _file: FilePart | None = None
    _fields: dict[str, JsonField] = field(default_factory=dict)
    _current: FilePart | JsonField | None = None
    _refusal: Exception | None = None

    def take(self, event: Any) -> None:
        """Take one of the three kinds of event: a part begins, a piece of it, its end."""
        if isinstance(event, MultipartSegment):
            self._current = self._begin(event)
        elif self._current is not None:
            if event:
                self._current.write(event)
            else:
                self._current.end()

    def values(self) -> tuple[Upload, dict[str, Any], dict[str, Any]]:
        """Return the file, and the data and permissions, empty if they were not sent.

        :raises HTTPException: a part is refused, or there is no file.
        """
        if self._refusal is not None:
            raise self._refusal
        if self._file is None:
            raise errors.attachment_missing()
        values = {name: begun.value for name, begun in self._fields.items()}
        return self._file.upload, values.get("data", {}), values.get("permissions", {})

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()

    def _begin(self, segment: MultipartSegment) -> FilePart | JsonField | None:
        """Return the part that begins, ``None`` if it is ignored."""
        _check_headers(segment)
        segment.name, segment.filename = disposition.parse(segment.header(disposition.HEADER))
        if self._refusal is None:
            self._refusal = self._refusal_of(segment)
        if self._refusal is not None:
            # The parser still counts the parts that follow, but nothing is stored any more.
            self.discard()
            return None
        if segment.name == FILE:
            self._file = self._begin_file(segment)
            return self._file
        begun = JsonField(segment.name, segment.charset, self.max_field_bytes)
        self._fields[segment.name] = begun
        return begun

    def _refusal_of(self, segment: MultipartSegment) -> Exception | None:
        name = segment.name
        if name != FILE and name not in FIELDS:
            return errors.unknown_field(name)
        if name in self._fields or (name == FILE and self._file is not None):
            return errors.repeated_field(name)
        if name != FILE and segment.filename is not None:
            return errors.field_sent_as_file(name)
        encoding = segment.header("Content-Transfer-Encoding", "binary").strip()
        if encoding.lower() not in PLAIN_ENCODINGS:
            return errors.transfer_encoding(name, encoding)
        coding = segment.header("Content-Encoding", "").strip()
        if coding.lower() not in PLAIN_CODINGS:
            return errors.content_encoding(name, coding)
        return None

    def _begin_file(self, segment: MultipartSegment) -> FilePart:
        filename = last_component(segment.filename or "")
        if not filename:
            raise errors.filename_required()
        mimetype = mimetype_of(filename, self.mimetype_by_extension, segment.content_type)
        fields = (digests.CONTENT_DIGEST, digests.REPR_DIGEST, digests.CONTENT_MD5)
        parsed = digests.parse(FILE, {name: _combined(segment, name) for name in fields})
        sent = digests.Hashes(parsed, [HASH])
        staged = self.stage(filename, mimetype)
        try:
            return FilePart(filename, mimetype, staged, self.max_file_bytes, self.gzip_level, sent)
        except BaseException:
            # There may be no thread left to compress it.
            staged.discard()
            raise


def _check_headers(segment: MultipartSegment) -> None:
    """Refuse headers that others read differently than the parser does."""
    if any("\n" in value or "\r" in value for _, value in segment.headerlist):
        raise errors.malformed("Invalid line break in part header")
    names = [name for name, _ in segment.headerlist]
    for name in ("Content-Disposition", "Content-Type"):
        if names.count(name) > 1:
            raise errors.malformed(f"Multiple part {name} headers")


def _combined(segment: MultipartSegment, field: str) -> str | None:
    """Return the value of a field that may be sent in several lines (RFC 9110, section 5.3)."""
    values = [value for name, value in segment.headerlist if name == field.title()]
    return ", ".join(values) if values else None


def last_component(filename: str) -> str:
    """Return the last component of a path, without control characters."""
    name = CONTROL_CHARACTERS.sub("", filename)
    name = re.split(r"[/\\]", name)[-1].strip()
    return "" if name in (".", "..") else name
