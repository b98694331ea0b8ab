"""The header Content-Disposition of a part.

Clients follow several standards at once, and a filename written by one and read by another is cut
off. Here, what can be read in one way only is read, and the rest is refused.
"""

import email.errors
import email.header
import re
from urllib.parse import unquote

from multipart import content_disposition_unquote

from kinto_attachment import errors


HEADER = "Content-Disposition"

NAME = re.compile(r'[^\s=;"]+')
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
UNESCAPED = re.compile(r'"[^"]*"')
"""As browsers write it: a backslash at the end does not escape the quote."""

CONTINUATION = re.compile(r"filename\*[0-9]+\*?")
ENCODED_WORD = re.compile(r"=\?[^?\s]+\?[bq]\?[^?]*\?=", re.IGNORECASE)

EXTENDED_CHARSETS = ("utf-8", "iso-8859-1")
"""The charsets of ``filename*`` (RFC 5987, section 3.2)."""


def parse(header: str) -> tuple[str, str | None]:
    """Return the name and the filename in a Content-Disposition (RFC 7578, section 4.2).

    The name is empty, and the filename ``None``, if there is none.

    A value without quotes goes up to the next semicolon, whatever is in it. A filename may be
    percent-encoded as by browsers (HTML), have backslashes before its quotes (RFC 9110, section
    5.6.4), or be made of encoded words (RFC 2047). ``filename*`` (RFC 5987) does not belong in a
    form; clients that send it anyway reduce ``filename`` to ASCII, if they send one.

    :raises HTTPBadRequest: the header cannot be read, or in more than one way.
    """
    parameters = _parameters(header)
    return content_disposition_unquote(parameters.get("name", "")), _filename(parameters)


def _parameters(header: str) -> dict[str, str]:
    """Return ``{lower-case name: value, with its quotes}``."""
    parameters = {}
    rest = header.partition(";")[2].lstrip("; \t")
    while rest:
        name, equals, rest = rest.partition("=")
        name = name.strip().lower()
        if not (equals and NAME.fullmatch(name)):
            raise errors.malformed(f"{HEADER} has something that is no parameter")
        if name in parameters:
            raise errors.malformed(f"{HEADER} has a parameter twice")
        parameters[name], rest = _value(rest.lstrip())
        rest = rest.lstrip("; \t")
    return parameters


def _value(text: str) -> tuple[str, str]:
    """Return the value at the beginning of a text, and the rest."""
    if not text.startswith('"'):
        value, _, rest = text.partition(";")
        if '"' in value:
            raise errors.malformed(f"{HEADER} has a quote inside of a value without quotes")
        return value.rstrip(), rest
    quoted = QUOTED.match(text) or UNESCAPED.match(text)
    if quoted is None:
        raise errors.malformed(f"{HEADER} has a quote that is not closed")
    rest = text[quoted.end() :].lstrip()
    if rest and not rest.startswith(";"):
        raise errors.malformed(f"{HEADER} has something after a closing quote")
    return quoted[0], rest


def _filename(parameters: dict[str, str]) -> str | None:
    if "filename*" in parameters:
        return _extended(content_disposition_unquote(parameters["filename*"]))
    if "filename" not in parameters:
        # Split up (RFC 2231), it still marks a file.
        return "" if any(map(CONTINUATION.fullmatch, parameters)) else None
    filename = content_disposition_unquote(parameters["filename"], filename=True)
    if filename.isascii() and ENCODED_WORD.search(filename):
        return _decoded(filename)
    return filename


def _extended(value: str) -> str:
    charset, _, rest = value.partition("'")
    encoded = rest.partition("'")[2]
    if charset.lower() not in EXTENDED_CHARSETS:
        raise errors.malformed(f"filename* should be in {' or '.join(EXTENDED_CHARSETS)}")
    try:
        return unquote(encoded, charset, "strict")
    except UnicodeError as error:
        raise errors.malformed(f"filename* is not {charset}") from error


def _decoded(filename: str) -> str:
    """Return a filename whose encoded words are decoded (RFC 2047)."""
    try:
        words = email.header.decode_header(filename)
        text = "".join(
            # A language may follow the charset (RFC 2231, section 5).
            word.decode((charset or "ascii").partition("*")[0])
            for word, charset in words
        )
        # Some codecs give lone surrogates.
        text.encode()
        return text
    except (email.errors.HeaderParseError, LookupError, ValueError) as error:
        raise errors.malformed("filename has an encoded word that cannot be read") from error
