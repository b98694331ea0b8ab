"""Work in the background: threads that are kept, and tasks."""

import os
import threading

import pytest

from kinto_attachment.background import Task, Threads


SECONDS = 60


@pytest.fixture
def threads(monkeypatch):
    """The threads of a process that has none yet."""
    threads = Threads()
    monkeypatch.setattr("kinto_attachment.background.THREADS", threads)
    return threads


class Held:
    """Work that waits until it may go on.

    :ivar begun: is set when it waits.
    """

    def __init__(self):
        self.times = 0
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self):
        self.times += 1
        self.begun.set()
        assert self.go.wait(SECONDS)


def test_work_that_follows_other_work_starts_no_thread(threads):
    names = {threads.submit(threading.get_ident).result(SECONDS) for _ in range(100)}
    assert len(names) == 1


def test_work_that_waits_for_other_work_has_a_thread_of_its_own(threads):
    first, second = Held(), Held()
    futures = [threads.submit(first), threads.submit(second)]
    assert first.begun.wait(SECONDS) and second.begun.wait(SECONDS)
    second.go.set()
    futures[1].result(SECONDS)
    first.go.set()
    futures[0].result(SECONDS)


def test_an_error_of_the_work_is_that_of_its_future(threads):
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 / 0).result(SECONDS)
    assert threads.submit(lambda: 1).result(SECONDS) == 1


def test_work_for_which_no_thread_can_start_is_not_done_later(threads, monkeypatch):
    done = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            threads.submit(lambda: done.append("first"))
    threads.submit(lambda: done.append("second")).result(SECONDS)
    assert done == ["second"]


def test_a_task_works_once_more_for_all_that_wakes_it_meanwhile(threads):
    work = Held()
    task = Task(work)
    assert task.wait_until_idle(0), "nothing has woken it"
    task.wake()
    assert work.begun.wait(SECONDS)
    for _ in range(10):
        task.wake()
    assert not task.wait_until_idle(0)
    work.go.set()
    assert task.wait_until_idle(SECONDS)
    assert work.times == 2


def test_a_task_pauses_after_its_work_unless_it_is_waited_for(threads):
    worked = threading.Semaphore(0)
    task = Task(worked.release, pause_seconds=SECONDS)
    task.wake()
    assert worked.acquire(timeout=SECONDS), "it does not pause before its work"
    task.wake()
    assert not worked.acquire(timeout=0.2)
    assert task.wait_until_idle(SECONDS / 2)
    assert worked.acquire(blocking=False)
    assert not worked.acquire(blocking=False)


def test_a_task_that_fails_is_logged_and_works_when_it_is_woken_again(threads, caplog):
    results = iter([ZeroDivisionError("not today"), None])

    def work():
        if error := next(results):
            raise error

    task = Task(work)
    for _ in range(2):
        task.wake()
        assert task.wait_until_idle(SECONDS)
    assert caplog.text.count("not today") == 1
    assert list(results) == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_task_works_in_a_forked_process(threads):
    work = Held()
    task = Task(work)
    task.wake()
    assert work.begun.wait(SECONDS)
    child = os.fork()
    if not child:
        work.go.set()
        task.wake()
        # Without handlers of the parent, such as those of pytest.
        os._exit(0 if task.wait_until_idle(SECONDS) and work.times == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not task.wait_until_idle(0), "that of this process works on"
    work.go.set()
    assert task.wait_until_idle(SECONDS)


def test_a_process_that_ends_does_not_wait_for_a_task_that_hangs(threads, monkeypatch):
    monkeypatch.setattr("kinto_attachment.background.MAX_EXIT_SECONDS", 0.01)
    work = Held()
    task = Task(work)
    task.wake()
    assert work.begun.wait(SECONDS)
    task.wake()
    threads.end()
    work.go.set()
    assert task.wait_until_idle(SECONDS)
    assert work.times == 1, "it begins nothing more"
