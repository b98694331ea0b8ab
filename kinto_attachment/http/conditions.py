"""The conditions of a request on a file (RFC 9110, section 13).

Kinto's own are those of records, whose tags are numbers.
"""

import calendar
import contextlib
import re
import time
from collections.abc import Mapping
from enum import Enum


DATE_FORMATS = (
    "%a, %d %b %Y %H:%M:%S GMT",
    "%A, %d-%b-%y %H:%M:%S GMT",
    "%a %b %d %H:%M:%S %Y",
)
"""Those of HTTP (RFC 9110, section 5.6.7)."""

TAG = re.compile(r'(W/)?"([^"]*)"')


class Outcome(Enum):
    """What the conditions of a request say."""

    PROCEED = 200
    NOT_MODIFIED = 304
    FAILED = 412


def evaluate(headers: Mapping[str, str], tag: str, modified: int) -> Outcome:
    """Return what the conditions of a GET or HEAD say, in the order of section 13.2.2.

    A condition with an invalid date is ignored.

    :param tag: the strong entity tag of the file, without quotes.
    :param modified: when the file was modified, in seconds since 1970.
    """
    if "If-Match" in headers:
        if not _matches(headers["If-Match"], tag, is_weak_enough=False):
            return Outcome.FAILED
    elif (date := _seconds(headers, "If-Unmodified-Since")) is not None and modified > date:
        return Outcome.FAILED
    if "If-None-Match" in headers:
        if _matches(headers["If-None-Match"], tag, is_weak_enough=True):
            return Outcome.NOT_MODIFIED
    elif (date := _seconds(headers, "If-Modified-Since")) is not None and modified <= date:
        return Outcome.NOT_MODIFIED
    return Outcome.PROCEED


def range_applies(headers: Mapping[str, str], tag: str, modified: int) -> bool:
    """Return whether the Range of a request is one of this file (``If-Range``, section 13.1.5)."""
    if "If-Range" not in headers:
        return True
    if headers["If-Range"].strip() == f'"{tag}"':
        return True
    return _seconds(headers, "If-Range") == modified


def _matches(header: str, tag: str, is_weak_enough: bool) -> bool:
    if header.strip() == "*":
        return True
    return any(other == tag and (is_weak_enough or not weak) for weak, other in TAG.findall(header))


def _seconds(headers: Mapping[str, str], name: str) -> int | None:
    """Return the date in a header, in seconds since 1970, or ``None``."""
    text = headers.get(name, "").strip()
    for date_format in DATE_FORMATS:
        with contextlib.suppress(ValueError):
            return calendar.timegm(time.strptime(text, date_format))
    return None
