"""Transport padding: white space at the end of the line of a boundary (RFC 2046, section 5.1.1).

Receivers must accept it; the parser does not.
"""

import itertools
import re
from collections.abc import Iterator


def without_padding(chunks: Iterator[bytes], boundary: bytes) -> Iterator[bytes]:
    """Yield the chunks of a body without padding, if there is some in the first of them.

    A body without any, as nearly all are, is passed on as it is.
    """
    line = re.escape(b"--" + boundary)
    padded = re.compile(rb"(\A|\r\n)(" + line + rb")[ \t]+(?=\r\n)")
    padding = re.compile(rb"(\r\n" + line + rb")[ \t]+(?=\r\n)")
    possible_padding = re.compile(rb"\r\n" + line + rb"[ \t]*\r?\Z")
    first = next(chunks, b"")
    if not padded.search(first):
        yield from itertools.chain(filter(None, [first]), chunks)
        return
    held_back = b""
    for chunk in itertools.chain([padded.sub(rb"\1\2", first)], chunks):
        chunk = padding.sub(rb"\1", held_back + chunk)
        end = _end(chunk, b"\r\n--" + boundary, possible_padding)
        held_back = chunk[end:]
        if end:
            yield chunk[:end]
    if held_back:
        yield held_back


def _end(chunk: bytes, delimiter: bytes, possible_padding: re.Pattern[bytes]) -> int:
    """Return where the beginning of a boundary starts that may be padded, else the length."""
    start = chunk.rfind(delimiter)
    if start >= 0 and possible_padding.match(chunk, start):
        return start
    for length in range(len(delimiter) - 1, 0, -1):
        if chunk.endswith(delimiter[:length]):
            return len(chunk) - length
    return len(chunk)
