"""The bodies of a server's answers, read within bounds."""

import zlib
from collections.abc import Iterable, Iterator

import requests


ACCEPTED_ENCODING = "gzip"
"""What :func:`read_body` decodes. (``requests`` would ask for all that urllib3 decodes.)"""

CHUNK_BYTES = 64 * 1024
GZIP_WBITS = 16 + zlib.MAX_WBITS


class BodyRefused(Exception):
    """A body is larger than it may be, or encoded as it should not be."""


def read_body(response: requests.Response, max_bytes: int) -> bytes:
    """Return the decoded body of a response.

    Not by urllib3: its versions before 2.6 decompress whatever arrives in one piece, which makes
    a thousand times as much of it.

    :raises BodyRefused: it has more bytes, or an encoding that was not asked for.
    :raises urllib3.exceptions.HTTPError: the connection failed within it.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    chunks: Iterable[bytes] = response.raw.stream(CHUNK_BYTES, decode_content=False)
    if encoding in ("gzip", "x-gzip"):
        chunks = _decompressed(chunks)
    elif encoding not in ("", "identity"):
        raise BodyRefused(f"is encoded as {encoding}, which was not asked for")
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            raise BodyRefused(f"has more than {max_bytes >> 20} MiB")
    return bytes(body)


def _decompressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what gzip members hold, in pieces no larger than those that came."""
    decompressor = zlib.decompressobj(GZIP_WBITS)
    try:
        for chunk in chunks:
            while chunk:
                if decompressor.eof:
                    decompressor = zlib.decompressobj(GZIP_WBITS)
                yield decompressor.decompress(chunk, CHUNK_BYTES)
                chunk = decompressor.unconsumed_tail or decompressor.unused_data
        yield decompressor.flush()
    except zlib.error as error:
        raise BodyRefused(f"cannot be decompressed: {error}") from error
    if not decompressor.eof:
        raise BodyRefused("cannot be decompressed: it is cut off")
