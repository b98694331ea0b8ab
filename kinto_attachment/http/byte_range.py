"""The bytes of a file that a request asks for (RFC 9110, section 14)."""

import re
from typing import NamedTuple


RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)", re.IGNORECASE)
MAX_DIGITS = 18


class ByteRange(NamedTuple):
    """Some bytes of a file, at least one."""

    first: int
    length: int

    def content_range(self, size: int) -> str:
        """Return the header Content-Range of these bytes of a file of this size."""
        return f"bytes {self.first}-{self.first + self.length - 1}/{size}"


class Unsatisfiable(Exception):
    """The file has none of the bytes."""


def requested_range(header: str, size: int) -> ByteRange | None:
    """Return the bytes that a Range asks for, ``None`` for the whole file.

    A header that is invalid, or that asks for several ranges, is ignored, as is the end of an empty
    file.

    :param size: of the file.
    :raises Unsatisfiable: the file ends before the first of them.
    """
    match = RANGE.fullmatch(header.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = (_bounded(digits) for digits in match.groups())
    if first is None:
        if not last:
            raise Unsatisfiable
        first, last = max(0, size - last), size - 1
        if not size:
            return None
    if last is not None and last < first:
        return None
    if first >= size:
        raise Unsatisfiable
    last = size - 1 if last is None else min(last, size - 1)
    return ByteRange(first, last - first + 1)


def _bounded(digits: str) -> int | None:
    """Return a number, at most one that is larger than any file, and ``None`` without digits."""
    if len(digits.lstrip("0")) > MAX_DIGITS:
        return 10**MAX_DIGITS
    return int(digits[-MAX_DIGITS:]) if digits else None
