"""The transactions of a request, where it is not one of a batch.

Kinto gives a request one transaction (``pyramid_tm``), from its first read to its answer. On
PostgreSQL it holds a connection, and a conflict with another transaction is answered by 409. An
upload may take an hour, and cannot easily be sent again: its checks, and each try of its changes,
have transactions of their own.
"""

import contextlib
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from kinto.core.storage.exceptions import BackendError, IntegrityError

from kinto_attachment import kinto_internals


Result = TypeVar("Result")

MAX_TRIES = 8
MAX_PAUSE_SECONDS = 0.25

RETRYABLE = ("40001", "40P01")
"""A serialization failure and a deadlock (PostgreSQL's manual, appendix A)."""


class Transactions:
    """The transactions of a request, one after the other. Make it before anything is changed.

    Within a batch they do nothing: all its requests have one transaction in common.
    """

    def __init__(self, request: Any):
        self._request = request
        self._is_shared = kinto_internals.is_in_batch(request)
        # What was to be done at an abort is done with the first.
        self._hooks = kinto_internals.CommitHooks()

    def restart(self) -> None:
        """Undo the running transaction, and begin another, which holds no connection yet."""
        if self._is_shared:
            return
        self._request.tm.abort()
        kinto_internals.forget_changes(self._request)
        self._hooks.add_to(self._request.tm.begin())

    def run(
        self, change: Callable[[], Result], on_retry: Callable[[], Any] = contextlib.nullcontext
    ) -> Result:
        """Commit a change, and return its result. What conflicts with others is retried.

        Kinto's listeners are notified here, and not when the view has returned, since they write
        and conflict as well (``kinto.plugins.history``).

        :param change: does it, any number of times.
        :param on_retry: gives the context in which an undone transaction is followed by the next.
        :raises BackendError: it still conflicts after some tries, or cannot be committed.
        """
        if self._is_shared:
            return change()

        def change_and_notify() -> Result:
            result = change()
            kinto_internals.notify_changes(self._request)
            return result

        result = self.attempt(change_and_notify, on_retry)
        self._commit()
        return result

    def attempt(
        self, action: Callable[[], Result], on_retry: Callable[[], Any] = contextlib.nullcontext
    ) -> Result:
        """Return the result of an action in the running transaction, or in one that follows it.

        What conflicts with others is retried, as in :meth:`run`, but nothing is committed.
        """
        left = 1 if self._is_shared else MAX_TRIES
        while True:
            left -= 1
            try:
                return action()
            except BackendError as error:
                if not left or not is_conflict(error):
                    raise
            with on_retry():
                self.restart()
            time.sleep(random.uniform(0, MAX_PAUSE_SECONDS))

    def _commit(self) -> None:
        try:
            self._request.tm.commit()
        except kinto_internals.DATABASE_ERRORS as error:
            # As Kinto's own clients of the database do (``kinto.core.storage.postgresql.client``).
            raise BackendError(original=error) from error
        # pyramid_tm ends one more transaction, whose events would be sent again.
        kinto_internals.forget_changes(self._request)
        self._request.tm.begin()


def retried(factory: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a route factory that is called again if it conflicts.

    (It locks the record, and Kinto may write the timestamp of the collection there.)
    """
    return lambda request: Transactions(request).attempt(lambda: factory(request))


def is_conflict(error: BackendError) -> bool:
    """Return whether an error of Kinto's storage is one that a retry may not meet."""
    if isinstance(error, IntegrityError):
        return True
    driver_error = getattr(error.original, "orig", None)
    code = getattr(driver_error, "pgcode", None) or getattr(driver_error, "sqlstate", None)
    return code in RETRYABLE
