"""Files that the running transaction created."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import transaction

from kinto_attachment.storage.contract import StorageError


logger = logging.getLogger(__name__)


class TransactionFiles:
    """The files that the running transaction created.

    Until the transaction ends, a new file belongs to it: it goes where the transaction fails.

    :param doubt: is called with the files of a transaction whose commit was sent, and then the
        connection to the database was lost.
    """

    def __init__(self, storage: Any, doubt: Callable[[list[str]], Any]):
        self._storage = storage
        self._doubt = doubt
        self._created: list[str] = []
        running = transaction.get()
        running.addAfterCommitHook(self._after_commit)
        running.addAfterAbortHook(self._after_abort)

    def created(self, name: str) -> None:
        """Remember a new file, to be deleted unless the transaction commits."""
        self._created.append(name)

    def hand_over(self, name: str) -> None:
        """Forget a new file: it is about to belong to another transaction."""
        self._created.remove(name)

    def _after_commit(self, success):
        if success:
            return
        # SQLAlchemy says so of its errors; ``transaction`` calls hooks while it handles them.
        if getattr(sys.exc_info()[1], "connection_invalidated", False):
            self._doubt(list(self._created))
            self._created.clear()
        self._after_abort()

    def _after_abort(self):
        # A failed commit is followed by an abort: what was done at the first is not done again.
        names = list(self._created)
        self._created.clear()
        if names:
            log_undeleted(self._storage, self._storage.delete_many(names))


def log_undeleted(storage: Any, failed: dict[str, StorageError]) -> None:
    """Log what ``delete_many`` could not delete."""
    for name, error in failed.items():
        logger.error(
            "The attachment file %s could not be deleted", storage.url(name), exc_info=error
        )
