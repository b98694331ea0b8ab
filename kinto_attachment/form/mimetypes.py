"""The mimetypes of files."""

import mimetypes
import os
import re

from kinto_attachment.settings.casts import MIMETYPE


KNOWN = {".pem": "application/x-pem-file", ".geojson": "application/geo+json"}
"""The mimetypes of extensions that clients and systems do not know, or know differently.

(RFC 7946, section 12; ``.pem`` as earlier plugins had it, since it is not registered.)
"""

COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}
"""The mimetypes of what :func:`mimetypes.guess_type` calls an encoding."""

IGNORED = re.compile(
    r"text/(html|xml|xsl|vbscript|x-component)"
    r"|application/(xml|xml-dtd)|.*\+xml"
    r"|(text|application)/(x-)?(java|ecma|live|j)script[\d.]*"
    r"|multipart/.*|message/.*"
    r"|(application|unknown)/unknown|application/x-unknown-content-type"
    r"|(application|binary)/octet-stream"
)
"""The mimetypes that are not taken from a client.

With the first ones, a browser runs what is in a file, or looks into it for what to run. The last
ones stand for none at all (MIME Sniffing Standard, section 7, and what clients send of a file whose
type they do not know).
"""


def mimetype_of(filename: str, configured: dict[str, str], sent: str | None = None) -> str:
    """Return the mimetype of a file: that of its extension, or the one that was sent, or a guess.

    :param configured: ``{extension: mimetype}``, extensions lower-case and with their dot.
    :param sent: ignored if it says nothing, or if browsers run such files: to be allowed to upload
        a text should not be enough to make it a page with scripts.
    """
    by_extension = KNOWN | configured
    extension = os.path.splitext(filename)[1].lower()
    if extension in by_extension:
        return by_extension[extension]
    if sent and MIMETYPE.fullmatch(sent) and not IGNORED.fullmatch(sent.lower()):
        return sent
    # As a path: a name like a URL (``data:…``) would have a type of its own.
    guess, encoding = mimetypes.guess_type(f"./{filename}")
    if encoding is not None:
        guess = COMPRESSED.get(encoding)
    return guess or "application/octet-stream"
