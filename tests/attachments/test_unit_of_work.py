"""The files of a transaction: kept by a commit, deleted by an abort."""

import os

import pytest
import transaction
from kinto.core.storage.memory import Storage as Memory

from kinto_attachment import unit_of_work
from kinto_attachment.deletions import Deletions
from kinto_attachment.legacy_links import LegacyLinks
from kinto_attachment.storage.local import LocalStorage
from tests.support.local import listing, store


@pytest.fixture
def storage(tmp_path):
    storage = LocalStorage(str(tmp_path / "files"))
    storage.prepare()
    return storage


@pytest.fixture
def running():
    transaction.begin()
    yield
    transaction.abort()


def own(storage, *keys, in_doubt=()):
    """Make new files belong to the running transaction, which is in doubt about some or fails."""
    deletions = Deletions(None, storage, None)

    def discard(keys, is_in_doubt):
        assert is_in_doubt == (sorted(keys) == list(in_doubt))
        if not is_in_doubt:
            deletions.discard(keys)

    for key in keys:
        unit_of_work.current().add_new_file(key, discard)


def test_a_commit_keeps_new_files(storage, running):
    own(storage, store(storage, "new.txt"))
    transaction.commit()
    assert listing(storage) == ["new.txt"]


def test_an_abort_deletes_new_files(storage, running):
    store(storage, "old.txt")
    own(storage, store(storage, "new.txt"))
    transaction.abort()
    assert listing(storage) == ["old.txt"]


class Refusal(Exception):
    connection_invalidated = False


class LostConnection(Exception):
    """As SQLAlchemy tells of it (``DBAPIError``)."""

    connection_invalidated = True


class RefusingManager:
    """A data manager that does not let its transaction commit."""

    transaction_manager = transaction.manager

    def __init__(self, error):
        self.error = error

    def tpc_vote(self, running):
        raise self.error

    def abort(self, running):
        pass

    tpc_begin = commit = tpc_finish = tpc_abort = abort

    def sortKey(self):
        return "refusing"


def test_a_refused_commit_deletes_new_files(storage, running):
    store(storage, "old.txt")
    own(storage, store(storage, "new.txt"))
    transaction.get().join(RefusingManager(Refusal()))
    with pytest.raises(Refusal):
        transaction.commit()
    assert listing(storage) == ["old.txt"]
    transaction.abort()
    assert listing(storage) == ["old.txt"]


def test_a_commit_in_doubt_deletes_nothing(storage, running):
    own(storage, store(storage, "new.txt"), in_doubt=["new.txt"])
    transaction.get().join(RefusingManager(LostConnection()))
    with pytest.raises(LostConnection):
        transaction.commit()
    transaction.abort()
    assert listing(storage) == ["new.txt"]


def test_the_abort_that_follows_a_commit_deletes_nothing(storage, running):
    own(storage, store(storage, "new.txt"))
    running = transaction.get()
    transaction.commit()
    running.abort()
    assert listing(storage) == ["new.txt"]


def test_others_are_deleted_if_a_file_cannot_be(storage, running, caplog):
    os.mkdir(os.path.join(storage.base_path, "folder.txt"))
    own(storage, "folder.txt")
    own(storage, store(storage, "new.txt"))
    transaction.abort()
    assert listing(storage) == []
    assert "folder.txt" in caplog.text


def test_servers_of_one_process_know_their_own_legacy_links_and_queues(running):
    """Also within one transaction, as a script on two servers may have it."""
    first, second = Memory(), Memory()
    second.create("attachments", "__attachments__", {"location": "a.txt"})
    assert not LegacyLinks(first).exist()
    assert LegacyLinks(second).exist()
    queues = [Deletions(storage, None, None) for storage in (first, second)]
    processed = []
    for queue in queues:
        queue.process = lambda entries: processed.append(len(entries))
        queue.enqueue(["a.txt"])
    transaction.commit()
    assert all(queue.wait_until_idle(60) for queue in queues)
    assert processed == [1, 1]
