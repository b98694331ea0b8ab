"""A SHA-256 that goes on in another process."""

from typing import Any


try:
    from rehashes import PySha256
except ImportError:  # Then the file is read once more at the end.
    PySha256 = None


class ResumableHash:
    """The hash of the bytes of a file so far, or nothing where ``rehashes`` is not installed.

    :param state: that of the first bytes, ``None`` if it is not known.
    :param size: how many bytes those are.
    """

    def __init__(self, state: str | None, size: int):
        self._hash: Any = None
        if PySha256 is not None and state is not None:
            self._hash = PySha256.deserialize(bytes.fromhex(state))
        elif PySha256 is not None and not size:
            self._hash = PySha256()

    @property
    def state(self) -> str | None:
        return None if self._hash is None else self._hash.serialize().hex()

    def update(self, chunk: bytes) -> None:
        if self._hash is not None:
            self._hash.update(chunk)

    def hexdigest(self) -> str | None:
        """Return the hash in hexadecimal, ``None`` if it is not known."""
        return None if self._hash is None else self._hash.finalize()
