"""Work on many items in parallel: what it returns, when items are taken, how it ends early."""

import signal
import sys
import threading
import time
import traceback

import pytest

from kinto_attachment.background import in_parallel


SECONDS = 30
"""Longer than anything here takes."""


def test_every_item_is_returned_with_its_result_or_its_error():
    done = list(in_parallel(lambda item: 6 // item, [1, 0, 2, 3], jobs=2))
    assert {item: future.exception() or future.result() for item, future in done if item} == {
        1: 6,
        2: 3,
        3: 2,
    }
    (error,) = [future.exception() for item, future in done if not item]
    assert isinstance(error, ZeroDivisionError)


def test_no_items_are_no_work():
    assert list(in_parallel(pytest.fail, [], jobs=3)) == []


def test_so_many_work_at_once_as_there_are_jobs():
    meeting = threading.Barrier(3)
    done = list(in_parallel(lambda item: meeting.wait(SECONDS), range(6), jobs=3))
    assert [future.exception() for _, future in done] == [None] * 6


def test_results_are_returned_when_they_are_there_and_not_in_the_order_of_items():
    second_is_returned = threading.Event()

    def work(item):
        return item == "second" or second_is_returned.wait(SECONDS)

    results = in_parallel(work, ["first", "second"], jobs=2)
    assert next(results)[0] == "second"
    second_is_returned.set()
    item, future = next(results)
    assert (item, future.result()) == ("first", True)


def test_items_are_taken_one_ahead():
    """They may be more than fit into memory: files of a storage, records of a server."""
    taken = []

    def items():
        for item in range(10):
            taken.append(item)
            yield item

    returned = []
    for item, _ in in_parallel(lambda item: item, items(), jobs=2):
        returned.append(item)
        assert len(taken) <= len(returned) + 2
    assert sorted(returned) == taken == list(range(10))


class Running:
    """Work that runs until it is asked to end.

    :ivar begun: the items that it has begun with.
    :ivar ended: those that it has ended with.
    """

    def __init__(self):
        self.begun, self.ended = [], []
        self._stop = threading.Event()
        self.stop = self._stop.set

    def __call__(self, item):
        self.begun.append(item)
        if item != "short":
            assert self._stop.wait(SECONDS)
        self.ended.append(item)


def test_when_the_consumer_fails_the_running_work_is_stopped_and_waited_for():
    running = Running()
    results = in_parallel(running, ["short", "long", "never"], 1, running.stop)
    with pytest.raises(RuntimeError, match="full"):
        for _ in results:
            results.throw(RuntimeError("the disk is full"))
    assert set(running.ended) == set(running.begun)
    assert "never" not in running.begun


def test_when_the_consumer_has_enough_no_further_work_begins():
    running = Running()
    results = in_parallel(running, ["short", *range(100)], 2, running.stop)
    assert next(results)[0] == "short"
    results.close()
    assert set(running.ended) == set(running.begun)
    assert len(running.begun) <= 3


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_when_an_item_cannot_be_had_the_error_is_raised_after_the_running_work(error):
    running = Running()

    def items():
        yield "long"
        raise error

    with pytest.raises(error):
        next(in_parallel(running, items(), 2, running.stop))
    assert set(running.ended) == set(running.begun)


def test_an_interruption_begins_no_further_work():
    running = Running()

    def interrupted(item):
        while not is_waiting_for_futures(threading.main_thread()):
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        running(item)

    with pytest.raises(KeyboardInterrupt):
        next(in_parallel(interrupted, ["long", "never"], 1, running.stop))
    assert running.begun == running.ended == ["long"]


def is_waiting_for_futures(thread):
    frames = traceback.extract_stack(sys._current_frames()[thread.ident])
    return any(f.name == "wait" and "concurrent/futures" in f.filename for f in frames)


def test_work_that_does_not_end_is_not_waited_for_after_the_grace_period():
    release = threading.Event()

    def work(item):
        return item == "short" or release.wait(SECONDS)

    results = in_parallel(work, ["short", "hangs"], 2, grace_seconds=0)
    assert next(results)[0] == "short"
    results.close()
    assert not release.is_set()
    release.set()
