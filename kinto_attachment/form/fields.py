"""The fields of a form: JSON objects."""

import codecs
from typing import Any

from kinto.core.utils import json

from kinto_attachment import errors
from kinto_attachment.kinto_internals import has_null_character


FIELDS = ("data", "permissions")

MAX_DEPTH = 100
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"

CHARSETS = {
    "utf-8": "utf-8",
    "utf-8-sig": "utf-8",
    "ascii": "utf-8",
    "iso8859-1": "latin-1",
    "cp1252": "cp1252",
}
"""What the text of a field is decoded from, by Python's names of the accepted charsets."""

BYTE_ORDER_MARK = "\ufeff"


class JsonField:
    """A field, collected from its pieces.

    :ivar value: the object, once the field has ended.
    """

    def __init__(self, name: str, charset: str | None, max_bytes: int) -> None:
        """Begin a field, in UTF-8 if no charset is named.

        :raises HTTPBadRequest: the charset is another.
        """
        self._name = name
        self._max_bytes = max_bytes
        self._received = bytearray()
        self.value: dict[str, Any] = {}
        try:
            self._charset = CHARSETS[codecs.lookup(charset or "utf-8").name]
        except (LookupError, ValueError) as error:
            raise errors.unknown_charset(name, charset) from error

    def write(self, chunk: bytes) -> None:
        if len(self._received) + len(chunk) > self._max_bytes:
            raise errors.field_too_large(self._name, self._max_bytes)
        self._received += chunk

    def end(self) -> None:
        """Read the JSON.

        :raises HTTPBadRequest: it is not a valid object.
        """
        try:
            text = self._received.decode(self._charset)
            self.value = json.loads(text.removeprefix(BYTE_ORDER_MARK))
            reason = _fault(self.value)
        except UnicodeDecodeError:
            reason = f"not {self._charset.upper()}"
        except RecursionError:
            reason = TOO_DEEP
        except ValueError as error:
            reason = str(error)
        if reason is not None:
            raise errors.invalid_json(self._name, reason)


def _fault(value: Any) -> str | None:
    """Return why this is not the value of a field, or ``None``."""
    if not isinstance(value, dict):
        return "should be an object"
    if _is_deeper(value, MAX_DEPTH):
        return TOO_DEEP
    if has_null_character(value):
        return "contains a NUL character"
    return None


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inner)
