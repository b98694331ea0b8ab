"""The header Content-Disposition of a part: its parameters, each as it was meant, or refused.

Clients follow several standards at once, and what is written by one and read by another loses the
end of a filename. What can be read in one way only is read, and nothing is cut off.
"""

import email.errors
import email.header
import re
from typing import NamedTuple
from urllib.parse import unquote

from multipart import content_disposition_unquote


HEADER = "Content-Disposition"

NAME = re.compile(r'[^\s=;"]+')
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
UNESCAPED = re.compile(r'"[^"]*"')
"""As browsers write it: a backslash at the end is none before a quote."""

CONTINUATION = re.compile(r"filename\*[0-9]+\*?")
ENCODED_WORD = re.compile(r"=\?[^?\s]+\?[bq]\?[^?]*\?=", re.IGNORECASE)

EXTENDED_CHARSETS = ("utf-8", "iso-8859-1")
"""The charsets of ``filename*`` (RFC 5987, section 3.2)."""


class Disposition(NamedTuple):
    """The parameters of a part.

    :ivar name: of its field, empty if there is none.
    :ivar filename: ``None`` if there is none.
    """

    name: str
    filename: str | None


class DispositionError(ValueError):
    """The header cannot be read, or in more than one way."""


def parse(header: str) -> Disposition:
    """Return the parameters of a Content-Disposition (RFC 7578, section 4.2).

    A value without quotes goes up to the next semicolon, whatever is in it. A filename may be
    percent-encoded as by browsers (HTML), have backslashes before its quotes (RFC 9110, section
    5.6.4), or be made of encoded words (RFC 2047). ``filename*`` (RFC 5987) has no place in a form;
    clients that send it all the same put into ``filename``, if anything, a name without what is
    not ASCII.

    :raises DispositionError: the header cannot be read, or in more than one way.
    """
    parameters = _parameters(header)
    name = content_disposition_unquote(parameters.get("name", ""))
    return Disposition(name, _filename(parameters))


def _parameters(header):
    """Return ``{lower-case name: value, with its quotes}``."""
    parameters = {}
    rest = header.partition(";")[2].lstrip("; \t")
    while rest:
        name, equals, rest = rest.partition("=")
        name = name.strip().lower()
        if not (equals and NAME.fullmatch(name)):
            raise DispositionError(f"{HEADER} has something that is no parameter")
        if name in parameters:
            raise DispositionError(f"{HEADER} has a parameter twice")
        parameters[name], rest = _value(rest.lstrip())
        rest = rest.lstrip("; \t")
    return parameters


def _value(text):
    """Return the value that a text begins with, and what follows it."""
    if not text.startswith('"'):
        value, _, rest = text.partition(";")
        if '"' in value:
            raise DispositionError(f"{HEADER} has a quote inside of a value without quotes")
        return value.rstrip(), rest
    quoted = QUOTED.match(text) or UNESCAPED.match(text)
    if quoted is None:
        raise DispositionError(f"{HEADER} has a quote that is not closed")
    rest = text[quoted.end() :].lstrip()
    if rest and not rest.startswith(";"):
        raise DispositionError(f"{HEADER} has something after a closing quote")
    return quoted[0], rest


def _filename(parameters):
    if "filename*" in parameters:
        return _extended(content_disposition_unquote(parameters["filename*"]))
    if "filename" not in parameters:
        # In pieces (RFC 2231), it is still that of a file.
        return "" if any(map(CONTINUATION.fullmatch, parameters)) else None
    filename = content_disposition_unquote(parameters["filename"], filename=True)
    if filename.isascii() and ENCODED_WORD.search(filename):
        return _decoded(filename)
    return filename


def _extended(value):
    charset, _, rest = value.partition("'")
    encoded = rest.partition("'")[2]
    if charset.lower() not in EXTENDED_CHARSETS:
        raise DispositionError(f"filename* should be in {' or '.join(EXTENDED_CHARSETS)}")
    try:
        return unquote(encoded, charset, "strict")
    except UnicodeError as error:
        raise DispositionError(f"filename* is not {charset}") from error


def _decoded(filename):
    """Return a filename whose encoded words are decoded (RFC 2047)."""
    try:
        words = email.header.decode_header(filename)
        text = "".join(
            # A language may follow the charset (RFC 2231, section 5).
            word.decode((charset or "ascii").partition("*")[0])
            for word, charset in words
        )
        # Some codecs give what no text is made of.
        text.encode()
        return text
    except (email.errors.HeaderParseError, LookupError, ValueError) as error:
        raise DispositionError("filename has an encoded word that cannot be read") from error
