"""Slow lines, and a store that is silent."""

import os
import sys
import threading
import time
import traceback

import pytest

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.heartbeat import Heartbeat
from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.s3 import (
    MIB,
    PART_BYTES,
    HeartbeatRequest,
    SlowLine,
    eventually,
    logged_exceptions,
    through,
)
from tests.support.storage_contract import store


def reached_by(bucket, line, **more):
    """Return the storage as it is reached by a line: half a second of silence, and no retry."""
    options = through(bucket, line) | {"aws.timeout": 0.5, "aws.num_retries": 0}
    storage = S3Storage.from_settings(options | {f"aws.{k}": v for k, v in more.items()}, "")
    # Here, since the making of a client takes as long as that.
    assert storage.bucket.client.boto3_client
    return storage


class TestTimeouts:
    @pytest.fixture
    def make_line(self, bucket):
        lines = []

        def make(bytes_per_second):
            lines.append(SlowLine(bucket.endpoint_url, bytes_per_second))
            return lines[-1]

        yield make
        for line in lines:
            line.stop()

    @pytest.mark.parametrize("size", [2 * MIB, 2 * PART_BYTES], ids=["small", "large"])
    def test_a_line_that_makes_progress_may_be_slow(self, bucket, make_line, size):
        storage = reached_by(bucket, make_line(size / 4))
        content = os.urandom(size)
        began = time.monotonic()
        store(storage, content, unique=True)
        assert time.monotonic() - began > 3
        assert bucket.content("story.txt") == content

    def test_an_answer_may_take_as_long_as_the_sending_did(self, bucket, proxy):
        # As if the end of the body were still in buffers on its way.
        proxy.misbehave = lambda handler, seen: threading.Event().wait(1)
        line = SlowLine(proxy.url, MIB / 2)
        try:
            store(reached_by(bucket, line), b"x" * MIB, unique=True)
        finally:
            line.stop()
        assert len(bucket.content("story.txt")) == MIB

    def test_a_slow_line_times_out_when_it_is_cut(self, bucket, make_line):
        line = make_line(MIB)
        storage = reached_by(bucket, line)
        store(storage, b"x" * 3 * MIB, "before", unique=True)
        line.cut()
        began = time.monotonic()
        with pytest.raises(StorageError):
            store(storage, b"x" * 3 * MIB, "after", unique=True)
        assert time.monotonic() - began < 1.5

    @pytest.mark.parametrize("size", [11, PART_BYTES], ids=["small", "one part"])
    def test_a_server_that_reads_nothing_times_out(self, bucket, silence, size):
        storage = reached_by(bucket, silence, num_retries=2)
        began = time.monotonic()
        with pytest.raises(StorageError):
            store(storage, b"x" * size, unique=True)
        # A kernel whose buffers are full may find room for a little more at first.
        assert time.monotonic() - began < 3 * (0.5 + 0.5)

    def test_a_server_that_is_silent_about_a_part_times_out(self, bucket, proxy):
        ended = threading.Event()
        proxy.misbehave = lambda handler, seen: seen.operation == "UploadPart" and ended.wait(30)
        staged = reached_by(bucket, proxy, num_retries=2).stage("large", "text/plain", unique=True)
        began = time.monotonic()
        with pytest.raises(StorageError):
            staged.write(b"x" * 4 * PART_BYTES)
        assert time.monotonic() - began < 3 * 0.5 + 1
        ended.set()
        staged.discard()
        assert eventually(lambda: bucket.uploads() == [])

    @pytest.mark.parametrize("operation", ["Complete", "CopyObject", "DeleteObjects"])
    def test_s3_may_work_for_longer_than_the_timeout(self, bucket, proxy, operation):
        proxy.misbehave = lambda handler, seen: (
            seen.operation == operation and threading.Event().wait(1.5)
        )
        storage = reached_by(bucket, proxy)
        names = [store(storage, b"x" * (PART_BYTES + 1)), store(storage)]
        assert bucket.keys() == sorted(names)
        assert storage.delete_many(names) == {}
        assert bucket.keys() == []

    def test_s3_may_work_for_ever_while_it_sends_something(self, bucket, proxy, monkeypatch):
        monkeypatch.setattr("kinto_attachment.storage.s3.transport.SLOWNESS", 1)

        def say_so(handler, seen):
            if seen.operation != "Complete":
                return False
            answers = []
            monkeypatch.setattr(proxy, "answer", lambda *args: answers.append(args))
            proxy.forward(handler)
            ((_, status, content, _),) = answers
            declaration, _, rest = content.partition(b"?>")
            handler.send_response_only(status)
            handler.end_headers()
            handler.wfile.write(declaration + b"?>")
            for _ in range(10):
                threading.Event().wait(0.2)
                handler.wfile.write(b" ")
            handler.wfile.write(rest)
            handler.close_connection = True
            return True

        proxy.misbehave = say_so
        assert store(reached_by(bucket, proxy), b"x" * (PART_BYTES + 1), unique=True)
        assert len(bucket.content("story.txt")) == PART_BYTES + 1

    def test_a_discarded_file_is_not_sent_to_its_end(self, bucket, make_line):
        line = make_line(PART_BYTES / 30)
        storage = reached_by(bucket, line, timeout=8)
        staged = storage.stage("large", "text/plain", unique=True)
        staged.write(b"x" * (2 * PART_BYTES + 1))
        assert eventually(bucket.uploads)
        began = time.monotonic()
        staged.discard()
        assert time.monotonic() - began < 6
        assert eventually(lambda: bucket.uploads() == [])
        assert eventually(lambda: not threads_in(storage.bucket.call.__code__))

    def test_the_heartbeat_is_true_and_quick_although_every_call_is_slow(self, bucket, proxy):
        bucket.client.put_object(Bucket=bucket.name, Key="first", Body=b"")
        storage = S3Storage.from_settings(through(bucket, proxy), "")
        assert storage.bucket.client.boto3_client

        def take_time(handler, seen):
            threading.Event().wait(0.4)
            return False

        proxy.misbehave = take_time
        heartbeat = Heartbeat(storage)
        began = time.monotonic()
        assert heartbeat(HeartbeatRequest) is True
        assert time.monotonic() - began < 2
        assert eventually(lambda: bucket.keys() == ["first"])

    def test_the_heartbeat_logs_that_its_file_was_not_deleted_although_it_has_answered(
        self, bucket, proxy, monkeypatch, caplog
    ):
        monkeypatch.setattr("kinto_attachment.storage.heartbeat.HEARTBEAT_TIMEOUT_SECONDS", 5)
        answered = threading.Event()
        proxy.misbehave = lambda handler, seen: (
            seen.operation == "DeleteObject"
            and answered.wait(30)
            and proxy.refuse(handler, 403, "AccessDenied")
        )
        storage = S3Storage.from_settings(through(bucket, proxy) | {"aws.timeout": 30}, "")
        assert Heartbeat(storage)(HeartbeatRequest) is True
        assert logged_exceptions(caplog) == []
        answered.set()
        (logged,) = eventually(lambda: logged_exceptions(caplog))
        assert "AccessDenied" in logged
        assert bucket.name in logged


def threads_in(code):
    """Return the threads that run a function."""
    return [
        frame
        for top in sys._current_frames().values()
        for frame, _ in traceback.walk_stack(top)
        if frame.f_code is code
    ]
