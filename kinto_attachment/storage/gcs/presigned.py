"""URLs of objects that need no credentials, and end (V4 signing process).

The library's own function signs from the present second on, so that each URL is another one.
"""

import hashlib
import time
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import google.auth.iam
from google.auth.credentials import Signing
from google.auth.transport.requests import Request


ALGORITHM = "GOOG4-RSA-SHA256"


def presigned_url(
    endpoint: str, path: str, credentials: Any, since: int, expires: int, headers: dict[str, str]
) -> str:
    """Return the signed URL of an object.

    :param endpoint: the root of the store.
    :param path: of the object below it, percent-encoded.
    :param since: when it begins to be valid, in seconds since 1970.
    :param expires: when it ends.
    :param headers: what the response to it has.
    :raises ValueError: the credentials are not those of a service account.
    """
    signer = _signer(credentials)
    timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(since))
    scope = f"{timestamp[:8]}/auto/storage/goog4_request"
    parameters = {
        "X-Goog-Algorithm": ALGORITHM,
        "X-Goog-Credential": f"{credentials.service_account_email}/{scope}",
        "X-Goog-Date": timestamp,
        "X-Goog-Expires": str(expires - since),
        "X-Goog-SignedHeaders": "host",
        **{f"response-{name}": value for name, value in headers.items()},
    }
    query = urlencode(sorted(parameters.items()), quote_via=quote, safe="")
    host = f"host:{urlsplit(endpoint).netloc}\n"
    request = "\n".join(["GET", path, query, host, "host", "UNSIGNED-PAYLOAD"])
    digest = hashlib.sha256(request.encode()).hexdigest()
    signature = signer.sign("\n".join([ALGORITHM, timestamp, scope, digest]).encode()).hex()
    return f"{endpoint}{path}?{query}&X-Goog-Signature={signature}"


def _signer(credentials: Any) -> Any:
    """Return what signs with the private key of a service account, here or at Google."""
    if isinstance(credentials, Signing):
        return credentials.signer
    if not getattr(credentials, "service_account_email", None):
        raise ValueError("presigned URLs need the credentials of a service account")
    return google.auth.iam.Signer(Request(), credentials, credentials.service_account_email)
