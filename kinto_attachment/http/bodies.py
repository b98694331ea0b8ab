"""The body of a request: read up to its end and no further, and by few threads at once.

WSGI has only a read that blocks until the client sends something, which may be never, and it
cannot be given up: Granian stops as a whole where an application returns while another thread
still reads. So not all threads of a server may wait for clients that need not be served.
"""

import collections
import contextlib
import io
import threading
import time


PIECE_BYTES = 64 * 1024
"""How much is read at once for a limited time. Some servers return only when all of it is here."""

MAX_SILENT_SECONDS = 2
"""How long a client is waited for by others that wait for its place."""


class Body(io.RawIOBase):
    """A ``wsgi.input`` that ends where the body does.

    A server that does not mark the end itself may block where more is read (PEP 3333), as wsgiref
    does, or give the next request.
    """

    def __init__(self, environ):
        super().__init__()
        self._read = environ["wsgi.input"].read
        self._left = _length(environ)
        self._expects_continue = environ.get("HTTP_EXPECT", "").lower() == "100-continue"
        self._is_lazy = _continues_lazily(environ)
        self._has_begun = False

    @property
    def bytes_left(self):
        """How many bytes there are to read, ``None`` if only the server knows."""
        return self._left

    @property
    def is_withheld(self):
        """Whether the client waits for a ``100 Continue`` that it has not been sent."""
        return self._expects_continue and self._is_lazy and not self._has_begun

    def readable(self):
        return True

    def readinto(self, buffer):
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def read(self, size=-1):
        """Return at most so many bytes, none at the end.

        :raises Exception: whatever the server raises, usually where the client is gone.
        """
        if size is None or size < 0:
            return self.readall()
        if self._left is not None:
            size = min(size, self._left)
        if not size:
            return b""
        self._has_begun = True
        chunk = self._read(size)
        if self._left is not None:
            self._left -= len(chunk)
        return chunk


def _length(environ):
    """Return how many bytes a body has, or ``None`` where the server marks its end."""
    try:
        return max(0, int(environ["CONTENT_LENGTH"]))
    except (KeyError, ValueError):
        return None if environ.get("wsgi.input_terminated") else 0


def _continues_lazily(environ):
    """Return whether ``100 Continue`` is sent when the body is first read, or never (PEP 3333).

    Most servers send it before they call the application, and have the body come in any case.
    """
    return environ.get("SERVER_SOFTWARE") == "Granian" or "uwsgi.version" in environ


def is_unreadable(environ):
    """Return whether a request has a body whose end neither the client nor the server tells."""
    return bool(
        "HTTP_TRANSFER_ENCODING" in environ
        and not environ.get("CONTENT_LENGTH")
        and not environ.get("wsgi.input_terminated")
    )


class ReadingThreads:
    """The threads that read for clients that need not be served, half of all at most.

    A server does not tell how many threads it has: as many as have been seen at once, or more.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._entered = collections.Counter()
        self._most = 0
        self._last_progress = {}

    def enter(self):
        """Have this thread be seen, until :meth:`leave` is called as often."""
        with self._changed:
            self._entered[threading.get_ident()] += 1
            self._most = max(self._most, len(self._entered))

    def leave(self):
        thread = threading.get_ident()
        with self._changed:
            self._entered[thread] -= 1
            if not self._entered[thread]:
                del self._entered[thread]

    def read(self, body, size, seconds, keep=lambda piece: None):
        """Read up to so many bytes, fewer where the client goes away or the time is over.

        The time is looked at between two reads: the last of them may take longer.

        :param keep: is given each piece.
        :returns: whether this thread was allowed to read. It waits for that while others receive.
        """
        deadline = time.monotonic() + seconds
        self.enter()
        is_allowed = self._begin(deadline)
        if is_allowed:
            self._read(body, size, deadline, keep)
        self.leave()
        return is_allowed

    def _read(self, body, size, deadline, keep):
        # What servers raise where the client goes away is different for each.
        with contextlib.suppress(Exception):
            while size > 0 and time.monotonic() < deadline:
                piece = body.read(min(size, PIECE_BYTES))
                if not piece:
                    break
                size -= len(piece)
                keep(piece)
                self._last_progress[threading.get_ident()] = time.monotonic()
        self._end()

    def _begin(self, deadline):
        with self._changed:
            while len(self._last_progress) >= max(1, self._most // 2):
                left = min(deadline, self._given_up_at()) - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            self._last_progress[threading.get_ident()] = time.monotonic()
            return True

    def _end(self):
        with self._changed:
            del self._last_progress[threading.get_ident()]
            self._changed.notify()

    def _given_up_at(self):
        """Return when all that read will have been silent for too long, if they stay silent."""
        return max(self._last_progress.values()) + MAX_SILENT_SECONDS
