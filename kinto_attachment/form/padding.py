"""Transport padding: white space at the end of the line of a boundary (RFC 2046, section 5.1.1).

Receivers must accept it; the parser does not.
"""

import itertools
import re
from collections.abc import Iterator


def without_padding(chunks: Iterator[bytes], boundary: bytes) -> Iterator[bytes]:
    """Yield the chunks of a body without padding, if there may be some in the first of them.

    A body without any, as nearly all are, is passed on as it is.
    """
    first = next(chunks, b"")
    # Patterns take longer to compile than a small file to read, and to search than a large one.
    if not any(b"--" + boundary + space in first for space in (b" ", b"\t")):
        yield from itertools.chain(filter(None, [first]), chunks)
        return
    line = re.escape(b"--" + boundary)
    padded = re.compile(rb"(\A|\r\n)(" + line + rb")[ \t]+(?=\r\n)")
    padding = re.compile(rb"(\r\n" + line + rb")[ \t]+(?=\r\n)")
    possible_padding = re.compile(rb"\r\n" + line + rb"[ \t]*\r?\Z")
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
