"""Threads in the background, one for each call."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar


T = TypeVar("T")


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
