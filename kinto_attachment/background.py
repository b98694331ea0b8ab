"""Work in threads in the background.

It imports the standard library alone, since the scripts run where only kinto-http is installed.
"""

import itertools
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from multiprocessing.util import Finalize
from typing import Any, TypeVar


logger = logging.getLogger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")

THREADS_NAME = "kinto-attachment"
MAX_EXIT_SECONDS = 0.7
"""How long a process that ends waits for its tasks: it is gone within a second."""


class Threads:
    """The threads of this process for work in the background, each kept for the next work.

    There are as many as ever worked at the same time: work that waits for other work always has a
    thread. They are daemon threads: a call that hangs does not keep the server from stopping.

    :ivar is_ending: whether the process ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process_id: int | None = None
        self._submitted: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]]
        self._idle = 0
        self._tasks: set[Future[None]] = set()
        self.is_ending = False

    def submit(self, function: Callable[[], T], is_task: bool = False) -> "Future[T]":
        """Return the future result of a function, which begins at once.

        :param is_task: whether a process that ends waits for it, for a moment.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._process_id != os.getpid():
                self._begin_process()
            if self._idle:
                self._idle -= 1
            else:
                threading.Thread(target=self._work, name=THREADS_NAME, daemon=True).start()
            if is_task:
                self._tasks.add(future)
                future.add_done_callback(self._tasks.discard)
            self._submitted.put((function, future))
        return future

    def _begin_process(self) -> None:
        """Begin without threads, since a fork copies none."""
        self._process_id = os.getpid()
        self._submitted = queue.SimpleQueue()
        self._idle = 0
        self._tasks = set()
        # Unlike atexit, this also runs in the worker processes of granian.
        Finalize(None, self.end, exitpriority=1)

    def _work(self) -> None:
        while True:
            self._run(*self._submitted.get())

    def _run(self, function: Callable[[], Any], future: "Future[Any]") -> None:
        # Idle before the result is known: whoever waits for it may have the next work.
        try:
            result = function()
        except BaseException as error:
            self._free()
            future.set_exception(error)
        else:
            self._free()
            future.set_result(result)

    def _free(self) -> None:
        with self._lock:
            self._idle += 1

    def end(self) -> None:
        """Make the tasks end, and wait a moment for them, since the process ends."""
        self.is_ending = True
        wait(list(self._tasks), MAX_EXIT_SECONDS)


THREADS = Threads()


def in_background(function: Callable[[], T]) -> "Future[T]":
    """Return the future result of a function that runs in a thread of this process."""
    return THREADS.submit(function)


class Task:
    """Work that one thread of this process does, once more after each time it is woken.

    :param work: does all that there is to do. It ends soon if the process ends.
    :param pause_seconds: how long the thread waits before it works once more, so that what comes in
        quick succession is done together. It does not wait before the first time.
    """

    def __init__(self, work: Callable[[], Any], pause_seconds: float = 0):
        self._work = work
        self._pause_seconds = pause_seconds
        self._changed = threading.Condition()
        self._is_woken = False
        self._waiting = 0
        self._process_id: int | None = None

    @property
    def is_ending(self) -> bool:
        """Whether the process ends, so that nothing is to be begun."""
        return THREADS.is_ending

    def wake(self) -> None:
        """Have the work done. Does not wait for it."""
        with self._changed:
            self._is_woken = True
            # A fork copies no threads.
            if self._process_id != os.getpid():
                THREADS.submit(self._run, is_task=True)
                self._process_id = os.getpid()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Return whether all is done for which it was woken, within so many seconds.

        There are no pauses meanwhile.
        """
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._process_id != os.getpid(), timeout)
            finally:
                self._waiting -= 1

    def _run(self) -> None:
        while self._goes_on():
            try:
                self._work()
            except Exception:
                logger.exception("A background thread failed")
            with self._changed:
                self._changed.wait_for(lambda: self._waiting, self._pause_seconds)

    def _goes_on(self) -> bool:
        with self._changed:
            if self._is_woken and not self.is_ending:
                self._is_woken = False
                return True
            self._process_id = None
            self._changed.notify_all()
            return False


def in_parallel(
    work: Callable[[Item], T],
    items: Iterable[Item],
    jobs: int,
    stop: Callable[[], None] = lambda: None,
    grace_seconds: float | None = None,
) -> Iterator[tuple[Item, "Future[T]"]]:
    """Return ``(item, future)`` for each item when work on it in one of ``jobs`` threads is done.

    Items are taken when they are needed, one ahead. If the iteration ends early (an interruption,
    an error of the items or of the consumer), no further work begins.

    :param stop: is called then, and asks the running work to end.
    :param grace_seconds: how long the running work is waited for then (``None``: until it ends).
    """
    items = iter(items)
    running: dict[Future[T], Item] = {}
    executor = ThreadPoolExecutor(jobs)
    try:
        while True:
            for item in itertools.islice(items, jobs + 1 - len(running)):
                running[executor.submit(work, item)] = item
            if not running:
                return
            wait(running, return_when=FIRST_COMPLETED)
            # In the order in which they began.
            for future in [future for future in running if future.done()]:
                yield running.pop(future), future
    except BaseException:
        stop()
        for future in running:
            future.cancel()
        wait(running, grace_seconds)
        raise
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
