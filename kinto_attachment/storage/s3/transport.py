"""How requests travel to S3: silence is bounded, and not the time that a transfer takes."""

import os
import socket
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
"""Those at which a store may work for a while before it says anything."""

SLOWNESS = 12
"""How many times the timeout a store may be silent at one of those."""

BLOCK_BYTES = 32 * 1024
"""What is handed to the socket at once: the timeout is for each of these blocks."""

SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]
if hasattr(socket, "TCP_NOTSENT_LOWAT"):
    # Otherwise the kernel takes megabytes at once, and then none for as long as a slow line needs
    # for a third of them. What is in flight, and thus the speed, is not limited by it.
    SOCKET_OPTIONS.append((socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, BLOCK_BYTES))


class TransferAbandoned(Exception):
    """Nobody wants the rest of a body to be sent."""


class Body:
    """The body of a request, as a file object over bytes that are in memory.

    :param abandoned: when it is set, nothing more is sent.
    """

    def __init__(self, content: bytes | bytearray, abandoned: threading.Event | None = None):
        self._content = memoryview(content)
        self._position = 0
        self._abandoned = abandoned or threading.Event()

    def __len__(self) -> int:
        return len(self._content)

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes.

        :raises TransferAbandoned: nobody wants them.
        """
        self._check()
        end = len(self) if size is None or size < 0 else self._position + size
        piece = bytes(self._content[self._position : end])
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Return the new position.

        :raises TransferAbandoned: nobody wants what follows.
        """
        self._check()
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self)}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def _check(self):
        if self._abandoned.is_set():
            raise TransferAbandoned("nobody waits for the upload any more")


class Transport:
    """Sends the requests of one client. To be registered for its event ``before-send.s3``.

    botocore's own timeout is for the sending of a whole body, and the same for all operations.
    """

    def __init__(self, timeout: float, max_connections: int, core: botocore.session.Session):
        self._timeout = timeout
        self._max_connections = max_connections
        self._core = core
        self._lock = threading.Lock()
        self._sessions: dict[bool, URLLib3Session] = {}

    def send(self, request: AWSPreparedRequest, event_name: str, **_: Any) -> AWSResponse:
        """Return the response on a request.

        :raises HTTPClientError: there is none.
        """
        # botocore asks for 100 Continue before every file object: a round trip for each, and a
        # second where the store does not know that.
        request.headers.pop("Expect", None)
        is_slow = event_name.rpartition(".")[2] in SLOW_OPERATIONS
        return self._session(is_slow, request.url).send(request)

    def _session(self, is_slow, url):
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

    def _verify(self):
        """Return the CA bundle that botocore would take, or ``True`` for its own."""
        bundle = self._core.get_config_variable("ca_bundle")
        return os.environ.get("REQUESTS_CA_BUNDLE", True) if bundle is None else bundle


class _PatientConnection:
    """A connection whose timeouts are for silence.

    What the socket has taken may still be on its way, in buffers that nobody can look into: an
    answer may take as long as the sending did, and then the timeout.
    """

    _sending_seconds = 0.0

    def request(self, *args, **kwargs):
        if self.sock is None:
            self.connect()
        # One that is used again has the timeout of its last answer. (urllib3 2 does that itself.)
        self.sock.settimeout(self.timeout)
        started = time.monotonic()
        try:
            super().request(*args, **kwargs)
        finally:
            self._sending_seconds = time.monotonic() - started

    def send(self, data):
        if hasattr(data, "read"):  # urllib3 1: http.client reads it in blocks.
            super().send(data)
            return
        content = memoryview(data)
        for start in range(0, len(content), BLOCK_BYTES):
            super().send(content[start : start + BLOCK_BYTES])

    def getresponse(self, *args, **kwargs):
        # urllib3 1 has set the socket's timeout, urllib3 2 is about to take that of the connection.
        self.sock.settimeout(self.sock.gettimeout() + self._sending_seconds)
        self.timeout += self._sending_seconds
        return super().getresponse(*args, **kwargs)


class _HTTPConnection(_PatientConnection, AWSHTTPConnection):
    pass


class _HTTPSConnection(_PatientConnection, AWSHTTPSConnection):
    pass


class _HTTPPool(AWSHTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(AWSHTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Session(URLLib3Session):
    def __init__(self, **options: Any):
        super().__init__(**options)
        # No parameter is for the classes of connections.
        self._pool_classes_by_scheme.update(http=_HTTPPool, https=_HTTPSPool)
