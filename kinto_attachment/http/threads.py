"""The threads of a server that read on for clients whose request is not yet, or no longer, served.

A read in WSGI blocks until the client sends something, which may be never, and cannot be cancelled:
Granian stops as a whole if an application returns while another thread still reads. So only some
of a server's threads may wait for such clients.
"""

import collections
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any


PIECE_BYTES = 64 * 1024
"""How much is read at once under a time limit. Some servers return only full reads."""

MAX_SILENT_SECONDS = 2
"""How long a thread waits for one of the reading ones to make progress, to take its place."""


class ReadingThreads:
    """A limit on the threads that read for such clients: half of all threads, at least one.

    WSGI does not say how many threads a server has: at least as many as ran at the same time.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entered: collections.Counter[int] = collections.Counter()
        self._most = 0
        self._last_progress: dict[int, float] = {}

    def enter(self) -> None:
        """Count this thread as a running one, until :meth:`leave` is called as often."""
        with self._changed:
            self._entered[threading.get_ident()] += 1
            self._most = max(self._most, len(self._entered))

    def leave(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._entered[thread] -= 1
            if not self._entered[thread]:
                del self._entered[thread]

    def read(
        self,
        body: Any,
        size: int,
        seconds: float,
        keep: Callable[[bytes], object] = lambda piece: None,
    ) -> bool:
        """Return whether this thread was allowed to read up to ``size`` bytes.

        It reads fewer if the client goes away or the time is over, which is checked between two
        reads. While too many others read, and make progress, it waits.

        :param keep: is called with each piece.
        """
        deadline = time.monotonic() + seconds
        thread = threading.get_ident()
        self.enter()
        is_allowed = self._begin(thread, deadline)
        if is_allowed:
            # Each server raises other exceptions when the client goes away.
            with contextlib.suppress(Exception):
                while size > 0 and time.monotonic() < deadline:
                    piece = body.read(min(size, PIECE_BYTES))
                    if not piece:
                        break
                    size -= len(piece)
                    keep(piece)
                    self._last_progress[thread] = time.monotonic()
            with self._changed:
                del self._last_progress[thread]
                self._changed.notify()
        self.leave()
        return is_allowed

    def _begin(self, thread: int, deadline: float) -> bool:
        with self._changed:
            while len(self._last_progress) >= max(1, self._most // 2):
                left = min(deadline, self._all_silent_at()) - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            self._last_progress[thread] = time.monotonic()
            return True

    def _all_silent_at(self) -> float:
        """Return when all reading threads will have been silent for too long, without progress."""
        return max(self._last_progress.values()) + MAX_SILENT_SECONDS
