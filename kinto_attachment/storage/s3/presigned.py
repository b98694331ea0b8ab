"""URLs of objects that need no credentials, and end (Signature Version 4, query parameters).

boto3 signs from the present second on, so that each URL is another one, and with version 2 where
the store is not Amazon's.
"""

import time
from typing import Any
from urllib.parse import urlencode

from botocore.auth import SIGV4_TIMESTAMP, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import NoCredentialsError


def presigned_url(
    url: str,
    credentials: Any,
    region: str,
    since: int,
    expires: int,
    headers: dict[str, str],
) -> str:
    """Return the signed URL of an object.

    :param url: the one without a signature.
    :param since: when it begins to be valid, in seconds since 1970.
    :param expires: when it ends.
    :param headers: what the response to it has.
    :raises NoCredentialsError: there are no credentials.
    """
    query = urlencode({f"response-{name}": value for name, value in headers.items()})
    request = AWSRequest("GET", f"{url}?{query}")
    _Signer(credentials, region, since, expires - since).add_auth(request)
    return str(request.url)


class _Signer(S3SigV4QueryAuth):
    # Not in the stubs of botocore.
    _modify_request_before_signing: Any
    _inject_signature_to_request: Any

    def __init__(self, credentials: Any, region: str, since: int, seconds: int):
        super().__init__(credentials, "s3", region, expires=seconds)
        self._since = since

    def add_auth(self, request: AWSRequest) -> None:
        """Sign a request from a given time on (``SigV4Auth.add_auth``, which takes the present)."""
        if self.credentials is None:
            raise NoCredentialsError
        request.context["timestamp"] = time.strftime(SIGV4_TIMESTAMP, time.gmtime(self._since))
        self._modify_request_before_signing(request)
        text = self.string_to_sign(request, self.canonical_request(request))
        self._inject_signature_to_request(request, self.signature(text, request))
