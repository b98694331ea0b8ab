"""The headers that describe a stored file to whoever fetches it."""

import base64
import binascii
import codecs
import os
import re
import unicodedata
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

from kinto_attachment.settings.casts import MIMETYPE


UNKNOWN_TYPE = "application/octet-stream"
SAFE_INLINE = re.compile(
    r"image/(png|jpeg|gif|webp|avif|bmp|apng|x-icon|vnd\.microsoft\.icon)"
    r"|(audio|video)/[\w.+-]+|text/plain",
    re.IGNORECASE,
)
"""The types that a browser shows without running, or looking for, anything in them."""

SHA256 = re.compile("[0-9a-f]{64}")
MAX_FILENAME = 255
MAX_EXTENSION = 32
SAMPLE_BYTES = 64 * 1024

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # An uploaded file must not run scripts with the rights of a page of this server.
    "Content-Security-Policy": "sandbox",
}


@dataclass(frozen=True)
class Representation:
    """A stored file, as it is described to clients.

    :ivar size: in bytes.
    :ivar tag: its strong entity tag, without quotes.
    :ivar modified: in seconds since 1970.
    :ivar filename: to store it under, or ``None`` if the URL says it.
    :ivar sha256: in hexadecimal, ``None`` if it is not known.
    """

    key: str
    size: int
    tag: str
    modified: int
    mimetype: str
    filename: str | None = None
    sha256: str | None = None

    @property
    def is_text(self) -> bool:
        """Whether clients have to know its charset."""
        return self.mimetype.lower().startswith("text/")

    @property
    def validators(self) -> dict[str, str]:
        """The headers of every response on the file, also if the client has it already."""
        return {"ETag": f'"{self.tag}"', "Last-Modified": formatdate(self.modified, usegmt=True)}

    @property
    def disposition(self) -> str | None:
        """The header Content-Disposition."""
        return None if self.filename is None else disposition(self.filename, self.mimetype)

    def headers(self, charset: str | None = None) -> dict[str, str]:
        """Return the headers of a response with the file, or a part of it."""
        parameter = f"; charset={charset}" if charset else ""
        described = {
            **self.validators,
            **SECURITY_HEADERS,
            "Accept-Ranges": "bytes",
            "Content-Type": self.mimetype + parameter,
            "Content-Disposition": self.disposition,
            "Repr-Digest": self.sha256 and repr_digest(self.sha256),
        }
        return {name: value for name, value in described.items() if value}


def described(key: str, attachment: Any, modified: int) -> Representation | None:
    """Return a stored file as its metadata describes it, ``None`` if that is not possible."""
    if not isinstance(attachment, dict):
        return None
    size, sha256 = attachment.get("size"), attachment.get("hash")
    if type(size) is not int or size < 0 or not isinstance(sha256, str):
        return None
    if not SHA256.fullmatch(sha256):
        return None
    mimetype, filename = attachment.get("mimetype"), attachment.get("filename")
    return Representation(
        key,
        size,
        sha256,
        modified,
        mimetype if isinstance(mimetype, str) and MIMETYPE.fullmatch(mimetype) else UNKNOWN_TYPE,
        filename if isinstance(filename, str) and filename else os.path.basename(key),
        sha256,
    )


def disposition(filename: str, mimetype: str) -> str:
    """Return a Content-Disposition (RFC 6266): shown only if nothing in the file can run."""
    how = "inline" if SAFE_INLINE.fullmatch(mimetype) else "attachment"
    if len(filename) > MAX_FILENAME:
        extension = os.path.splitext(filename)[1][-MAX_EXTENSION:]
        filename = filename[: MAX_FILENAME - len(extension)] + extension
    decomposed = unicodedata.normalize("NFKD", filename)
    letters = "".join(one for one in decomposed if not unicodedata.combining(one))
    # Browsers differ in what they make of backslashes and percent signs.
    fallback = re.sub(r'[^ -~]|["%\\/]', "_", letters)
    header = f'{how}; filename="{fallback}"'
    if fallback != filename:
        encoded = quote(filename, safe="!#$&+-.^_`|~", encoding="utf-8", errors="replace")
        header += f"; filename*=UTF-8''{encoded}"
    return header


def repr_digest(sha256: str) -> str:
    """Return a Repr-Digest (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(binascii.unhexlify(sha256)).decode()}:"


def charset_of(sample: bytes, is_whole: bool) -> str | None:
    """Return the charset of a text, ``None`` if it is not UTF-8.

    :param sample: its first bytes.
    :param is_whole: whether these are all of them, so that no character is cut off.
    """
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, is_whole)
    except UnicodeDecodeError:
        return None
    return "utf-8"
