"""The transport of requests to S3: silence is limited, the duration of a transfer is not."""

import http.client
import os
import threading
import time
from typing import Any

import botocore.session
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
    AWSPreparedRequest,
    AWSResponse,
)
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from kinto_attachment.storage.sockets import BLOCK_BYTES, SOCKET_OPTIONS


SLOW_OPERATIONS = frozenset(
    {
        "CompleteMultipartUpload",
        "CopyObject",
        "UploadPartCopy",
        "DeleteObjects",
        "ListObjectsV2",
        "ListMultipartUploads",
    }
)
"""Operations during which a store may be silent for a while."""

SLOWNESS = 12
"""How many times the timeout a store may be silent during one of those."""


class TransferAbandoned(Exception):
    """The rest of a body is not needed any more."""


class Body:
    """The body of a request, as a file object over bytes in memory.

    :param abandoned: when it is set, no more bytes are sent.
    """

    def __init__(self, content: bytes | bytearray, abandoned: threading.Event | None = None):
        self._content = memoryview(content)
        self._position = 0
        self._abandoned = abandoned or threading.Event()

    def __len__(self) -> int:
        return len(self._content)

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes.

        :raises TransferAbandoned: they are not needed.
        """
        self._check()
        end = len(self) if size is None or size < 0 else self._position + size
        piece = bytes(self._content[self._position : end])
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Return the new position.

        :raises TransferAbandoned: the bytes there are not needed.
        """
        self._check()
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self)}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def _check(self) -> None:
        if self._abandoned.is_set():
            raise TransferAbandoned("the upload is discarded")


class Transport:
    """Sends the requests of one client, as a handler of its event ``before-send.s3``.

    botocore's own timeout is for the sending of a whole body, and the same for all operations.
    """

    def __init__(self, timeout: float, max_connections: int, core: botocore.session.Session):
        self._timeout = timeout
        self._max_connections = max_connections
        self._core = core
        self._lock = threading.Lock()
        self._sessions: dict[bool, URLLib3Session] = {}

    def send(self, request: AWSPreparedRequest, event_name: str, **_: Any) -> AWSResponse:
        """Return the response to a request.

        :raises HTTPClientError: there is none.
        """
        # botocore requests 100 Continue before every file object: a round trip for each, and a
        # second if the store does not support it.
        if "Expect" in request.headers:
            del request.headers["Expect"]
        is_slow = event_name.rpartition(".")[2] in SLOW_OPERATIONS
        return self._session(is_slow, request.url).send(request)

    def _session(self, is_slow: bool, url: str) -> URLLib3Session:
        with self._lock:
            if is_slow not in self._sessions:
                silence = self._timeout * (SLOWNESS if is_slow else 1)
                self._sessions[is_slow] = _Session(
                    timeout=(self._timeout, silence),
                    max_pool_connections=self._max_connections,
                    socket_options=SOCKET_OPTIONS,
                    proxies=get_environ_proxies(url),
                    verify=self._verify(),
                )
            return self._sessions[is_slow]

    def _verify(self) -> Any:
        """Return the CA bundle that botocore would use, or ``True`` for its own."""
        bundle = self._core.get_config_variable("ca_bundle")
        return os.environ.get("REQUESTS_CA_BUNDLE", True) if bundle is None else bundle


class _SilenceTimeout(http.client.HTTPConnection):
    """A connection whose timeouts limit silence.

    Bytes that the socket has accepted may still be in flight, in buffers that cannot be inspected:
    the answer may take as long as the sending did, and then the timeout.
    """

    sock: Any
    timeout: Any
    _sending_seconds = 0.0

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        # A reused connection has the timeout of its last answer. (urllib3 2 resets it itself.)
        self.sock.settimeout(self.timeout)
        started = time.monotonic()
        try:
            super().request(*args, **kwargs)
        finally:
            self._sending_seconds = time.monotonic() - started

    def send(self, data: Any) -> None:
        if hasattr(data, "read"):  # urllib3 1: http.client reads it in blocks.
            super().send(data)
            return
        content = memoryview(data)
        for start in range(0, len(content), BLOCK_BYTES):
            super().send(content[start : start + BLOCK_BYTES])

    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        # urllib3 1 has set the timeout of the socket, urllib3 2 is about to set it from its own.
        self.sock.settimeout(self.sock.gettimeout() + self._sending_seconds)
        self.timeout += self._sending_seconds
        return super().getresponse(*args, **kwargs)


# The stubs of botocore and of urllib3 disagree about the class of responses.
class _HTTPConnection(_SilenceTimeout, AWSHTTPConnection):  # type: ignore[misc]
    pass


class _HTTPSConnection(_SilenceTimeout, AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _HTTPPool(AWSHTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(AWSHTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Session(URLLib3Session):
    # Private, but no parameter sets the classes of connections.
    _pool_classes_by_scheme: dict[str, Any]

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._pool_classes_by_scheme.update(http=_HTTPPool, https=_HTTPSPool)
