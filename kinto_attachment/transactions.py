"""The transactions of a request, where it is not one of a batch.

Kinto gives a request one transaction (``pyramid_tm``), from its first read to its answer. On
PostgreSQL that is a connection held, and what conflicts with another transaction is a 409. An
upload may take an hour, and cannot easily be sent again: here its checks, and each try of its
changes, have transactions of their own.
"""

import contextlib
import random
import time

import transaction
from kinto.core.storage.exceptions import BackendError, IntegrityError
from kinto.core.utils import sqlalchemy


MAX_TRIES = 8
MAX_PAUSE_SECONDS = 0.25

DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError,) if sqlalchemy else ()

RETRYABLE = ("40001", "40P01")
"""A serialization failure and a deadlock (PostgreSQL's manual, appendix A)."""


class Transactions:
    """The transactions of a request, one after the other. Make it before anything is changed.

    Within a batch they do nothing: all its requests have one transaction in common.
    """

    def __init__(self, request):
        self._request = request
        self._is_shared = hasattr(request, "parent")
        running = transaction.get()
        # Kinto tells its ``AfterResourceChanged`` in such a hook (``kinto.core.events``). What was
        # to be done at an abort has been done with the first.
        self._before_commit = list(running.getBeforeCommitHooks())
        self._after_commit = list(running.getAfterCommitHooks())

    def renew(self):
        """Undo the running transaction, and begin another, which holds no connection yet."""
        if self._is_shared:
            return
        transaction.abort()
        self._forget()
        running = transaction.begin()
        for hook in self._before_commit:
            running.addBeforeCommitHook(*hook)
        for hook in self._after_commit:
            running.addAfterCommitHook(*hook)

    def run(self, change, between=contextlib.nullcontext):
        """Commit a change, and return its result. What conflicts with others is tried again.

        Kinto's listeners are told here, and not when the view has returned, since they write and
        conflict as well (``kinto.plugins.history``).

        :param change: does it, any number of times.
        :param between: gives the context in which an undone transaction is followed by the next.
        :raises BackendError: it still conflicts after some tries, or cannot be committed.
        """
        if self._is_shared:
            return change()
        for left in reversed(range(MAX_TRIES)):
            try:
                result = change()
                self._tell()
                break
            except BackendError as error:
                if not left or not is_conflict(error):
                    raise
            with between():
                self.renew()
            time.sleep(random.uniform(0, MAX_PAUSE_SECONDS))
        self._commit()
        return result

    def _tell(self):
        for event in self._request.get_resource_events():
            self._request.registry.notify(event)

    def _commit(self):
        try:
            transaction.commit()
        except DATABASE_ERRORS as error:
            # As Kinto's own clients of the database do (``kinto.core.storage.postgresql.client``).
            raise BackendError(original=error) from error
        # pyramid_tm ends one more transaction, whose events would be told again.
        self._forget()
        transaction.begin()

    def _forget(self):
        """Forget what was read, and events that have not happened or have been told."""
        bound_data = self._request.bound_data
        events = bound_data.get("resource_events")
        bound_data.clear()
        if events is not None:
            # Of the same kind: ours knows who told of a change (``kinto_attachment.listeners``).
            bound_data["resource_events"] = type(events)()


def is_conflict(error):
    """Return whether an error of Kinto's storage is one that another try may not meet."""
    if isinstance(error, IntegrityError):
        return True
    driver_error = getattr(error.original, "orig", None)
    code = getattr(driver_error, "pgcode", None) or getattr(driver_error, "sqlstate", None)
    return code in RETRYABLE
