"""The responses of a server, read within bounds."""

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import requests
import urllib3

from kinto_attachment.scripts.errors import Failure, NotAllowed


ACCEPTED_ENCODING = "gzip"
"""What is decoded here. (``requests`` would accept all that urllib3 decodes.)"""

CHUNK_BYTES = 64 * 1024
MAX_JSON_BYTES = 16 * 1024 * 1024
"""Twice the size of a page of records, of which only some fields are requested."""

MAX_MESSAGE_BYTES = 1024 * 1024
GZIP_WBITS = 16 + zlib.MAX_WBITS


def check_status(response: requests.Response, *expected: int) -> requests.Response:
    """Return a response that has an expected status.

    :raises NotAllowed: it is 401 or 403.
    :raises Failure: it is another one. The message is the server's.
    """
    if response.status_code in expected:
        return response
    kind = NotAllowed if response.status_code in (401, 403) else Failure
    failure = kind(f"{response.status_code} {response.reason}{_message(response)}")
    failure.status = response.status_code
    raise failure


def _message(response: requests.Response) -> str:
    try:
        return f": {json.loads(_read(response, MAX_MESSAGE_BYTES))['message']}"
    except (urllib3.exceptions.HTTPError, OSError, Failure):
        return ""
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    finally:
        response.close()


def json_object(response: requests.Response) -> dict[str, Any]:
    """Return the JSON object in a response.

    :raises Failure: it is something else, or too large.
    :raises urllib3.exceptions.HTTPError: the connection failed within it.
    """
    try:
        body = json.loads(_read(response, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise not_kinto(response) from error
    if not isinstance(body, dict):
        raise not_kinto(response)
    return body


def not_kinto(response: requests.Response) -> Failure:
    """Return the failure of a response that Kinto never sends."""
    return Failure(f"the response of {response.url} is not one of Kinto")


def _read(response: requests.Response, max_bytes: int) -> bytes:
    """Return the decoded body of a response.

    Not by urllib3: its versions before 2.6 decompress all that arrives in one piece, to a thousand
    times its size.

    :raises Failure: it is larger, or has an encoding that was not accepted.
    :raises urllib3.exceptions.HTTPError: the connection failed within it.
    """
    subject = f"the response of {response.url}"
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    chunks: Iterable[bytes] = response.raw.stream(CHUNK_BYTES, decode_content=False)
    if encoding in ("gzip", "x-gzip"):
        chunks = _decompressed(chunks, subject)
    elif encoding not in ("", "identity"):
        raise Failure(f"{subject} is encoded as {encoding}, which was not accepted")
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            raise Failure(f"{subject} has more than {max_bytes >> 20} MiB")
    return bytes(body)


def _decompressed(chunks: Iterable[bytes], subject: str) -> Iterator[bytes]:
    """Return the content of gzip members, in pieces no larger than a chunk."""
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
        raise Failure(f"{subject} cannot be decompressed: {error}") from error
    if not decompressor.eof:
        raise Failure(f"{subject} cannot be decompressed: it is cut off")
