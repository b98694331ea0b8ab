"""Work in threads in the background.

It imports the standard library alone, since the scripts run where only kinto-http is installed.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar


T = TypeVar("T")
Item = TypeVar("Item")


def in_background(function: Callable[[], T]) -> "Future[T]":
    """Return the future result of a function that runs in a thread of its own.

    It is a daemon thread, so that a call that hangs does not keep the server from stopping.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


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
