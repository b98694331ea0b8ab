"""The headers of the protocol tus 1.0.0 (https://tus.io/protocols/resumable-upload)."""

import base64
import re
from email.utils import formatdate
from typing import Any

from kinto_attachment import errors
from kinto_attachment.form.digests import ALGORITHMS, CONTENT_DIGEST, Digest, Hashes, parse


VERSION = "1.0.0"
CAPABILITY = f"tus-{VERSION}"
EXTENSIONS = "creation,creation-with-upload,creation-defer-length,termination,expiration,checksum"
CHECKSUMS = {"sha1": "sha-1", "sha256": "sha-256", "sha512": "sha-512", "md5": "md5"}
"""The algorithms of ``Upload-Checksum``, and their names in HTTP."""

UPLOADS_PATH = re.compile(r"/records/[^/]+/attachment/uploads(/[^/]+)?/?\Z")
"""How the path of a request on uploads ends."""

EXPOSED_HEADERS = (
    "Backoff, Retry-After, Alert, Content-Length, Content-Type, Location, Content-Location, ETag,"
    " Last-Modified, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size,"
    " Tus-Checksum-Algorithm, Upload-Offset, Upload-Length, Upload-Defer-Length, Upload-Metadata,"
    " Upload-Expires"
)


def override_method(event: Any) -> None:
    """Make the method of a request that which ``X-HTTP-Method-Override`` names."""
    request = event.request
    method = request.headers.get("X-HTTP-Method-Override")
    if method and UPLOADS_PATH.search(request.environ["PATH_INFO"]):
        request.method = method.upper()


def add_headers(event: Any) -> None:
    """Add what every response on uploads has, errors as well."""
    if UPLOADS_PATH.search(event.request.environ["PATH_INFO"]):
        headers = event.response.headers
        headers["Tus-Resumable"] = VERSION
        if event.request.method == "HEAD" and event.response.status_code in (409, 503):
            # The only failure after which tus-js-client does not begin anew.
            event.response.status_code = 423
        if "Access-Control-Allow-Origin" in headers:
            headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS


def check_version(request: Any) -> None:
    """:raises HTTPPreconditionFailed: the client speaks another version."""
    if request.headers.get("Tus-Resumable") != VERSION:
        raise errors.tus_version(VERSION)


def options(max_size: int) -> dict[str, str]:
    """Return the headers that say what this server can do.

    :param max_size: of a file in bytes, 0 for any.
    """
    headers = {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
    }
    return {**headers, "Tus-Max-Size": str(max_size)} if max_size else headers


def number(request: Any, name: str) -> int | None:
    """Return the number in a header, ``None`` if it was not sent.

    :raises HTTPBadRequest: it is none.
    """
    text = request.headers.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        raise errors.wrong_header(name, "a whole number of bytes")
    return int(text)


def required_number(request: Any, name: str) -> int:
    """Return the number in a header.

    :raises HTTPBadRequest: there is none.
    """
    found = number(request, name)
    if found is None:
        raise errors.wrong_header(name, "a whole number of bytes")
    return found


def new_length(request: Any) -> int | None:
    """Return the length of an upload that begins, ``None`` if it is to come later.

    :raises HTTPBadRequest: neither is said, or both.
    """
    length, deferred = number(request, "Upload-Length"), request.headers.get("Upload-Defer-Length")
    if deferred not in (None, "1"):
        raise errors.wrong_header("Upload-Defer-Length", "1")
    if (length is None) == (deferred is None):
        raise errors.wrong_header("Upload-Length or Upload-Defer-Length", "sent, one of them")
    return length


def metadata(header: str) -> dict[str, bytes]:
    """Return the pairs in ``Upload-Metadata``.

    :raises HTTPBadRequest: it has no pairs, a key twice, or a value that is not base64.
    """
    found: dict[str, bytes] = {}
    for pair in header.split(",") if header.strip() else ():
        key, _, value = pair.strip().partition(" ")
        if not key or key in found:
            raise errors.wrong_metadata(f"{key} should be sent once" if key else "a key is empty")
        try:
            found[key] = base64.b64decode(value.strip(), validate=True)
        except ValueError as error:
            raise errors.wrong_metadata(f"{key} should be in base64") from error
    return found


def hashes(request: Any) -> Hashes:
    """Return the hashes of the bytes of a request, with the digests that it has of them.

    :raises HTTPBadRequest: one cannot be read, or its algorithm is unknown.
    """
    sent = parse("request", {CONTENT_DIGEST: request.headers.get(CONTENT_DIGEST)})
    header = request.headers.get("Upload-Checksum")
    if header is not None:
        name, _, value = header.strip().partition(" ")
        algorithm = CHECKSUMS.get(name)
        if algorithm is None:
            raise errors.wrong_header("Upload-Checksum", f"by one of {', '.join(CHECKSUMS)}")
        try:
            digest = base64.b64decode(value.strip(), validate=True)
        except ValueError:
            digest = b""
        if len(digest) != ALGORITHMS[algorithm]().digest_size:
            raise errors.wrong_header("Upload-Checksum", f"a digest of {name} in base64")
        sent.append(Digest("request", "Upload-Checksum", algorithm, digest))
    return Hashes(sent)


def expires(milliseconds: int) -> dict[str, str]:
    """Return the header that says when an upload expires."""
    return {"Upload-Expires": formatdate(milliseconds // 1000, usegmt=True)}
