"""The body of a request on an attachment: read up to its end, ahead of time or to discard it."""

import io
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from kinto_attachment import errors
from kinto_attachment.form.parts import PLAIN_CODINGS
from kinto_attachment.http.threads import ReadingThreads


ATTACHMENT_PATH = re.compile(r"/records/[^/]+/attachment(/uploads(/[^/]+)?)?/?\Z")
"""How the path of a request on an attachment ends, including one that Kinto redirects."""

MAX_AHEAD_BYTES = (1024 + 64) * 1024
"""How long a body is at most that is read before the first query: a file of 1 MiB, and fields."""

MAX_DISCARDED_BYTES = 64 * 1024**2
MAX_DISCARDING_SECONDS = 30

threads = ReadingThreads()


class Body(io.RawIOBase):
    """A ``wsgi.input`` that ends where the body does.

    A server that does not mark the end may block when more is read (PEP 3333), as wsgiref does, or
    return bytes of the next request.

    :ivar bytes_left: how many bytes there are to read, ``None`` if only the server knows.
    :ivar is_withheld: whether the client waits for a ``100 Continue`` that it has not been sent.
    """

    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__()
        self._read = environ["wsgi.input"].read
        self.bytes_left = _length(environ)
        # Most servers send "100 Continue" before they call the application. These do it when the
        # body is first read, or never (PEP 3333).
        is_lazy = environ.get("SERVER_SOFTWARE") == "Granian" or "uwsgi.version" in environ
        self.is_withheld = is_lazy and environ.get("HTTP_EXPECT", "").lower() == "100-continue"

    @property
    def is_discardable(self) -> bool:
        """Whether there is a rest to read, and not too much of it."""
        is_short = (self.bytes_left or 0) <= MAX_DISCARDED_BYTES
        return self.bytes_left != 0 and is_short and not self.is_withheld

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def read(self, size: int | None = -1) -> bytes:
        """Return at most so many bytes, none at the end.

        :raises Exception: whatever the server raises, usually because the client is gone.
        """
        if size is None or size < 0:
            return self.readall()
        if self.bytes_left is not None:
            size = min(size, self.bytes_left)
        if not size:
            return b""
        self.is_withheld = False
        chunk = self._read(size)
        if self.bytes_left is not None:
            self.bytes_left -= len(chunk)
        return chunk


class ReadAhead(io.BytesIO):
    """The whole body of a request, or what the client has sent of it."""


def refuse_unreadable(request: Any) -> None:
    """Refuse a body that is encoded, or whose end neither the client nor the server marks.

    :raises HTTPException: 411 or 415.
    """
    environ = request.environ
    if (
        "HTTP_TRANSFER_ENCODING" in environ
        and not environ.get("CONTENT_LENGTH")
        and not environ.get("wsgi.input_terminated")
    ):
        raise errors.length_required()
    encoding = request.headers.get("Content-Encoding", "").strip()
    if encoding.lower() not in PLAIN_CODINGS:
        raise errors.content_encoding("request", encoding)


def content_length(request: Any) -> int | None:
    """Return how many bytes there are to read, ``None`` if the server marks their end."""
    if request.content_length is None and not request.environ.get("wsgi.input_terminated"):
        return 0
    return request.content_length


def is_read_ahead(request: Any) -> bool:
    return isinstance(request.environ["wsgi.input"], ReadAhead)


def limit_body(event: Any) -> None:
    """Make the body of a request on an attachment end where it does, for all that read it."""
    request = event.request
    if ATTACHMENT_PATH.search(request.environ["PATH_INFO"]):
        _limit_body(request.environ)
        threads.enter()
        request.add_finished_callback(lambda request: threads.leave())


def _limit_body(environ: dict[str, Any]) -> None:
    environ["wsgi.input"] = Body(environ)
    # WebOb would seek to its beginning.
    environ.pop("webob.is_body_seekable", None)


def read_ahead(event: Any) -> None:
    """Read the body of a small upload before the first query to the database.

    So a slow client occupies no database connection. And the checks and the change that follow
    can share a transaction, if files are stored on this machine.
    """
    environ = event.request.environ
    body = environ["wsgi.input"]
    is_upload = environ["REQUEST_METHOD"] in ("POST", "PATCH")
    if not is_upload or not isinstance(body, Body) or body.is_withheld:
        return
    length = body.bytes_left or 0
    ahead = ReadAhead()
    if 0 < length <= MAX_AHEAD_BYTES and threads.read(body, length, math.inf, ahead.write):
        ahead.seek(0)
        environ["wsgi.input"] = ahead


def discard_body(event: Any) -> None:
    """Read what is left of a body, within limits, so that the client gets its response.

    Most clients send all of a body before they read the response; if the server responds and
    closes, the connection is reset and the response is lost. A body that is longer than the limit
    is not read: such clients look earlier, or cannot be helped. Nor is one that the client has not
    begun to send (``Expect: 100-continue``).
    """
    response, environ = event.response, event.request.environ
    if not ATTACHMENT_PATH.search(environ["PATH_INFO"]):
        return
    if not isinstance(environ["wsgi.input"], Body | ReadAhead):
        # Kinto has refused it before (``restrict_http_methods_if_readonly``).
        _limit_body(environ)
    body = environ["wsgi.input"]
    if isinstance(body, Body) and body.is_discardable:
        length = response.content_length
        response.app_iter = _then_discard(response.app_iter, body)
        response.content_length = length


def _then_discard(chunks: Iterable[bytes], body: Body) -> Iterator[bytes]:
    """Yield a response, which the server sends at once (PEP 3333), and then read the body."""
    # Granian would stop at an empty chunk of an empty response.
    yield from filter(None, chunks)
    threads.read(body, MAX_DISCARDED_BYTES, MAX_DISCARDING_SECONDS)


def _length(environ: dict[str, Any]) -> int | None:
    """Return how many bytes a body has, or ``None`` if the server marks its end."""
    try:
        return max(0, int(environ["CONTENT_LENGTH"]))
    except (KeyError, ValueError):
        return None if environ.get("wsgi.input_terminated") else 0
