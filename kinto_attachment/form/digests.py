"""Digests: what a sender says about its bytes, compared with those received (RFC 9530)."""

import base64
import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import http_sf

from kinto_attachment import errors


CONTENT_DIGEST = "Content-Digest"
REPR_DIGEST = "Repr-Digest"
CONTENT_MD5 = "Content-MD5"

ALGORITHMS: dict[str, Any] = {
    "sha-256": hashlib.sha256,
    "sha-512": hashlib.sha512,
    # Against accidents, not against forgers.
    "md5": functools.partial(hashlib.md5, usedforsecurity=False),
    # Not in HTTP, but in the protocol of resumable uploads.
    "sha-1": functools.partial(hashlib.sha1, usedforsecurity=False),
}
"""The algorithms that are verified, by their names in HTTP. Others are ignored (RFC 9530)."""


class Digest(NamedTuple):
    """A digest that was sent.

    :ivar subject: what it is the digest of, as in an error message.
    :ivar field: the header field that it was sent in.
    """

    subject: str
    field: str
    algorithm: str
    value: bytes


def parse(subject: str, headers: Mapping[str, str | None]) -> list[Digest]:
    """Return the digests in header fields whose algorithms are known.

    :param headers: dictionaries of byte sequences (RFC 9530, RFC 9651), and base64 for
        ``Content-MD5`` (RFC 1864); ``None`` if the field was not sent.
    :raises HTTPBadRequest: a field is neither, or a digest does not have the length of its
        algorithm's.
    """
    digests = []
    for field, value in headers.items():
        for algorithm, digest in _items(subject, field, value):
            size = ALGORITHMS[algorithm]().digest_size
            if not isinstance(digest, bytes) or len(digest) != size:
                reason = f"{field} should have {size} bytes in base64 for {algorithm}"
                raise errors.wrong_digest(subject, reason)
            digests.append(Digest(subject, field, algorithm, digest))
    return digests


class Hashes:
    """The hashes of the bytes that pass: those by ``algorithms``, and those that digests need.

    :ivar size: how many bytes have passed.
    """

    def __init__(self, digests: Iterable[Digest] = (), algorithms: Iterable[str] = ()) -> None:
        self.size = 0
        self._digests = list(digests)
        needed = {*algorithms, *(digest.algorithm for digest in self._digests)}
        self._hashes = {algorithm: ALGORITHMS[algorithm]() for algorithm in needed}

    def update(self, chunk: bytes) -> None:
        self.size += len(chunk)
        for hash_ in self._hashes.values():
            hash_.update(chunk)

    def hexdigest(self, algorithm: str) -> str:
        """Return a hash of all bytes so far, in lower-case hexadecimal."""
        return self._hashes[algorithm].hexdigest()

    @property
    def is_compared(self) -> bool:
        """Whether there are digests to compare."""
        return bool(self._digests)

    def different(self) -> Digest | None:
        """Return a digest that all bytes so far do not have, or ``None``."""
        differ = (one for one in self._digests if self._hashes[one.algorithm].digest() != one.value)
        return next(differ, None)

    def verify(self) -> None:
        """Compare the digests with all bytes so far.

        :raises HTTPBadRequest: one differs.
        """
        if one := self.different():
            raise mismatch(one)


def mismatch(digest: Digest) -> Exception:
    """Return the refusal of bytes with another digest."""
    reason = f"{digest.field} has another {digest.algorithm} than the bytes received"
    return errors.wrong_digest(digest.subject, reason)


def _items(subject: str, field: str, value: str | None) -> list[tuple[str, Any]]:
    """Return ``(algorithm, digest)`` of the known algorithms in a header field."""
    if value is None:
        return []
    try:
        if field == CONTENT_MD5:
            return [("md5", base64.b64decode(value.strip(), validate=True))]
        parsed: Any = http_sf.parse(value.encode("ascii"), tltype="dictionary")
        return [(name, item[0]) for name, item in parsed.items() if name in ALGORITHMS]
    except ValueError as error:
        example = "Q2hlY2sgSW50ZWdyaXR5IQ==" if field == CONTENT_MD5 else "sha-256=:base64:"
        reason = f"{field} cannot be read, it should be like {example}"
        raise errors.wrong_digest(subject, reason) from error
