"""All that the running transaction knows: new files, links as they were, deletions, locks."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import transaction

from kinto_attachment.kinto_internals import is_in_doubt


Link = dict[str, Any]
Discard = Callable[[list[str], bool], None]


class LinkSnapshot:
    """The links and the attachments that the running transaction came across.

    Kinto's events are sent at its end, when what they are about may have changed once more.

    :ivar by_record: ``{record URI: links}``, removed ones too.
    :ivar initial: the same, as it was when the transaction first came across the record.
    :ivar by_key: ``{key: links}``.
    :ivar without_uploads: the URIs of records that it locked and that have no resumable uploads.
    :ivar locked: ``{record URI: links}`` as they are now, of records that this transaction locked.
    :ivar removed_ids: the ids of links that the transaction has removed.
    :ivar attached: ``{record URI: attachment}`` of what was attached or detached with its links.
    :ivar permitted: ``{record URI: attachments}`` that the record had before, or was given by code
        on the server.
    """

    def __init__(self) -> None:
        self.by_record: dict[str, list[Link]] = {}
        self.initial: dict[str, list[Link]] = {}
        self.by_key: defaultdict[str, list[Link]] = defaultdict(list)
        self.locked: dict[str, list[Link]] = {}
        self.without_uploads: set[str] = set()
        self.removed_ids: set[str] = set()
        self.attached: dict[str, Any] = {}
        self.permitted: dict[str, list[Any]] = {}

    def remember(self, record_uri: str, links: list[Link]) -> None:
        """Remember links of a record, beside those already known."""
        self.initial.setdefault(record_uri, links)
        known = self.by_record.setdefault(record_uri, [])
        for link in links:
            if link not in known:
                known.append(link)
                self.by_key[link["location"]].append(link)


class UnitOfWork:
    """What the running transaction knows. Nothing else is hung onto a transaction.

    :ivar locked: the URIs that it has locked.
    :ivar links: what it has seen of links.
    :ivar new_keys: the files that it has created: they go if it fails.
    :ivar enqueued: what it has put into each deletion queue.
    :ivar legacy_links_exist: whether there are links of earlier plugins, by the object that asked.
    """

    def __init__(self, running: Any):
        self._running = running
        self._is_watched = False
        self.locked: set[str] = set()
        self.links = LinkSnapshot()
        self.new_keys: list[str] = []
        self.enqueued: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
        self.legacy_links_exist: dict[Any, bool] = {}

    def after_commit(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call a function after a successful commit."""
        self._running.addAfterCommitHook(lambda success: success and callback(*args))

    def add_new_file(self, key: str, discard: Discard) -> None:
        """Own a new file, until the transaction has ended.

        :param discard: is called with the keys of new files after a failure, and with whether the
            transaction is in doubt: its commit was sent, and then the connection was lost.
        """
        self.new_keys.append(key)
        if not self._is_watched:
            self._is_watched = True
            self._running.addAfterCommitHook(self._after_commit, args=(discard,))
            self._running.addAfterAbortHook(self._discard, args=(discard, False))

    def _after_commit(self, success: bool, discard: Discard) -> None:
        if success:
            self.new_keys.clear()
        else:
            self._discard(discard, is_in_doubt())

    def _discard(self, discard: Discard, in_doubt: bool) -> None:
        # abort() follows a failed commit, and a successful one: do not clean up twice.
        keys, self.new_keys = self.new_keys, []
        if keys:
            discard(keys, in_doubt)


def current() -> UnitOfWork:
    """Return what the running transaction knows."""
    running = transaction.get()
    try:
        return running.data(UnitOfWork)
    except KeyError:
        work = UnitOfWork(running)
        running.set_data(UnitOfWork, work)
        return work
