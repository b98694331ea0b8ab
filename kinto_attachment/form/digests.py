"""Digests: what a sender says that its bytes are, compared with those that come (RFC 9530)."""

import base64
import functools
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import http_sf


CONTENT_DIGEST = "Content-Digest"
REPR_DIGEST = "Repr-Digest"
CONTENT_MD5 = "Content-MD5"

ALGORITHMS = {
    "sha-256": hashlib.sha256,
    "sha-512": hashlib.sha512,
    # Against accidents, not against forgers.
    "md5": functools.partial(hashlib.md5, usedforsecurity=False),
}
"""The algorithms that are verified, by their names in HTTP. Others are ignored (RFC 9530)."""


class DigestError(ValueError):
    """A digest cannot be read, or is not that of the bytes. The message is for the sender."""


class Digest(NamedTuple):
    """A digest that was sent, and the header field that it was sent in."""

    field: str
    algorithm: str
    value: bytes


def parse(field: str, value: str) -> list[Digest]:
    """Return the digests of a header field whose algorithms are known.

    :param value: a dictionary of byte sequences (RFC 9530, RFC 9651), or base64 (``Content-MD5``,
        RFC 1864).
    :raises DigestError: it is neither, or a digest has not the length of its algorithm's.
    """
    try:
        read = _content_md5 if field == CONTENT_MD5 else _dictionary
        digests = [Digest(field, *item) for item in read(value) if item[0] in ALGORITHMS]
    except ValueError as error:
        raise DigestError(f"{field} cannot be read, it should be like {_example(field)}") from error
    for digest in digests:
        size = ALGORITHMS[digest.algorithm]().digest_size
        if not isinstance(digest.value, bytes) or len(digest.value) != size:
            raise DigestError(f"{field} should have {size} bytes in base64 for {digest.algorithm}")
    return digests


class Hashes:
    """The hashes of what passes: those by ``algorithms``, and those that ``digests`` need."""

    def __init__(self, digests: Iterable[Digest] = (), algorithms: Iterable[str] = ()):
        self._digests = list(digests)
        needed = {*algorithms, *(digest.algorithm for digest in self._digests)}
        self._hashes = {algorithm: ALGORITHMS[algorithm]() for algorithm in needed}

    def update(self, chunk: bytes) -> None:
        """Hash some more bytes."""
        for hash_ in self._hashes.values():
            hash_.update(chunk)

    def hexdigest(self, algorithm: str) -> str:
        """Return a hash of all that has passed, in lower-case hexadecimal."""
        return self._hashes[algorithm].hexdigest()

    def verify(self) -> None:
        """Compare the digests with all that has passed.

        :raises DigestError: one is another.
        """
        for field, algorithm, value in self._digests:
            if self._hashes[algorithm].digest() != value:
                raise DigestError(f"{field} has another {algorithm} than the bytes that came")


def _dictionary(value):
    parsed = http_sf.parse(value.encode("ascii"), tltype="dictionary")
    return [(algorithm, item[0]) for algorithm, item in parsed.items()]


def _content_md5(value):
    return [("md5", base64.b64decode(value.strip(), validate=True))]


def _example(field):
    return "Q2hlY2sgSW50ZWdyaXR5IQ==" if field == CONTENT_MD5 else "sha-256=:base64:"
