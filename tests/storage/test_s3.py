"""Files in a bucket: what is sent, what is kept, and what happens when S3 does not work."""

import multiprocessing
import os
import re
import sys
import threading
import time
import traceback

import pytest
import requests
from botocore.exceptions import ClientError, ReadTimeoutError

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.heartbeat import Heartbeat
from kinto_attachment.storage.s3.bucket import MAX_DELETED_AT_ONCE
from kinto_attachment.storage.s3.client import S3Error
from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.app import ATTACHMENT, RECORD
from tests.support.forms import file_part, part
from tests.support.s3 import MIB, PART_BYTES, Proxy, SlowLine, eventually, is_signed_for, through
from tests.support.storage_contract import read, stage, store
from tests.support.users import ALICE


@pytest.fixture
def app(make_app, bucket):
    """A Kinto whose files are in a bucket."""
    return make_app(**bucket.settings())


@pytest.fixture
def storage(bucket):
    return S3Storage.from_settings(bucket.options, "")


@pytest.fixture
def watched(bucket, proxy):
    """The storage, its requests seen by the proxy."""
    return S3Storage.from_settings(through(bucket, proxy), "")


def content_of(bucket, attachment):
    return bucket.content(attachment["location"].removeprefix(bucket.location("")))


class TestAttachments:
    def test_an_uploaded_file_is_fetched_from_its_location(self, app, bucket):
        attachment = app.upload(file_part(b"once upon a time")).json
        response = requests.get(attachment["location"], timeout=10)
        assert response.content == b"once upon a time"
        assert response.headers["Content-Type"].startswith("text/plain")

    def test_a_large_file_is_the_one_that_was_sent(self, app, bucket):
        content = os.urandom(2 * PART_BYTES + MIB)
        attachment = app.upload(file_part(content, "a.pdf", "application/pdf")).json
        assert content_of(bucket, attachment) == content
        assert bucket.uploads() == []

    def test_the_previous_file_goes_when_another_is_attached(self, app, bucket):
        app.upload(file_part(b"old"))
        attachment = app.upload(file_part(b"new")).json
        assert content_of(bucket, attachment) == b"new"
        assert len(bucket.keys()) == 1

    def test_the_file_goes_when_it_is_detached(self, app, bucket):
        app.upload()
        app.delete(ATTACHMENT, headers=ALICE)
        assert bucket.keys() == []

    @pytest.mark.parametrize("size", [11, 2 * PART_BYTES + 1], ids=["small", "large"])
    def test_nothing_is_left_of_a_file_whose_form_is_refused(self, app, bucket, size):
        app.upload(file_part(b"x" * size), part("data", "{not JSON"), status=400)
        assert bucket.keys() == []
        assert bucket.uploads() == []

    @pytest.mark.parametrize("size", [11, 2 * PART_BYTES + 1], ids=["small", "large"])
    def test_nothing_is_left_of_a_file_whose_record_is_refused(self, make_app, bucket, size):
        app = make_app(**bucket.settings(), experimental_collection_schema_validation="true")
        schema = {"type": "object", "properties": {"title": {"type": "string"}}}
        app.create_collection(schema=schema)
        app.upload(file_part(b"x" * size), part("data", '{"title": 1}'), status=400)
        assert bucket.keys() == []
        assert bucket.uploads() == []

    def test_the_capability_tells_the_url_of_the_bucket(self, app, bucket):
        capability = app.get("/").json["capabilities"]["attachments"]
        assert capability["base_url"] == bucket.location("")

    def test_a_base_url_stands_instead_of_that_of_the_bucket(self, make_app, bucket):
        app = make_app(**bucket.settings(base_url="https://cdn.example.org"))
        location = app.upload().json["location"]
        assert location == f"https://cdn.example.org/{bucket.keys()[0]}"


class TestWhatIsSent:
    def test_a_small_upload_is_one_request(self, make_app, bucket, proxy):
        app = make_app(**bucket.settings(aws__endpoint_url=proxy.url))
        app.upload(file_part(b"x" * PART_BYTES))
        assert proxy.operations() == ["PutObject"]

    def test_a_small_upload_under_its_own_name_asks_whether_it_is_free_and_then_still_there(
        self, make_app, bucket, proxy
    ):
        app = make_app(**bucket.settings(aws__endpoint_url=proxy.url, randomize="false"))
        app.upload()
        assert proxy.operations() == ["HeadObject", "PutObject", "HeadObject"]
        assert proxy.seen[1].headers["If-None-Match"] == "*"

    def test_nothing_is_sent_of_a_small_file_before_its_form_is_checked(
        self, make_app, bucket, proxy
    ):
        app = make_app(**bucket.settings(aws__endpoint_url=proxy.url))
        app.upload(file_part(b"x" * PART_BYTES), part("data", "{not JSON"), status=400)
        assert proxy.operations() == []

    def test_a_large_file_goes_up_while_it_comes(self, watched, proxy):
        staged = stage(watched, b"x" * (2 * PART_BYTES + 1), unique=True)
        assert eventually(lambda: proxy.operations().count("UploadPart") == 2)
        assert "Complete" not in proxy.operations()
        staged.publish()
        assert proxy.operations() == [
            "Create",
            "UploadPart",
            "UploadPart",
            "UploadPart",
            "Complete",
        ]

    def test_no_more_than_two_parts_are_on_their_way(self, watched, bucket, proxy):
        blocked = threading.Event()
        first_two = threading.Barrier(3)

        def misbehave(handler, seen):
            if seen.operation == "UploadPart" and not blocked.is_set():
                first_two.wait(30)
                blocked.wait(30)
            return False

        proxy.misbehave = misbehave
        done = threading.Event()
        staged = watched.stage("large", "text/plain", unique=True)
        chunk = b"x" * 65536
        written = []

        def write():
            for _ in range(6 * PART_BYTES // len(chunk)):
                staged.write(chunk)
                written.append(len(chunk))
            staged.publish()
            done.set()

        threading.Thread(target=write, daemon=True).start()
        first_two.wait(30)
        # The writer has half of a third part in memory, and waits.
        assert not done.wait(0.5)
        assert 2 * PART_BYTES < sum(written) <= 2.5 * PART_BYTES
        assert proxy.operations().count("UploadPart") == 2
        blocked.set()
        assert done.wait(30)
        assert proxy.most_parts_at_once <= 2
        assert bucket.content("large") == b"x" * (6 * PART_BYTES)

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    @pytest.mark.parametrize("unique", [True, False])
    def test_mimetype_and_headers_are_those_of_the_object(self, bucket, size, unique):
        options = {
            **bucket.options,
            "aws.cache_control": "public, max-age=31536000, immutable",
            "aws.content_disposition": "inline",
        }
        store(S3Storage.from_settings(options, ""), b"x" * size, unique=unique)
        stored = bucket.client.head_object(Bucket=bucket.name, Key="story.txt")
        assert stored["ContentType"] == "text/plain"
        assert stored["CacheControl"] == "public, max-age=31536000, immutable"
        assert stored["ContentDisposition"] == "inline"

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    @pytest.mark.parametrize(
        ("acl", "sent"), [(None, "public-read"), ("private", "private"), ("", None)]
    )
    def test_the_acl_is_the_configured_one(self, bucket, proxy, size, acl, sent):
        options = through(bucket, proxy) | ({} if acl is None else {"aws.acl": acl})
        store(S3Storage.from_settings(options, ""), b"x" * size, unique=True)
        assert proxy.seen[0].headers.get("x-amz-acl") == sent

    def test_a_large_file_is_private_until_it_has_its_name(self, watched, proxy):
        store(watched, b"x" * (PART_BYTES + 1))
        made = [seen for seen in proxy.seen if seen.operation in ("Create", "CopyObject")]
        assert [seen.headers.get("x-amz-acl") for seen in made] == [None, "public-read"]

    @pytest.mark.parametrize(
        ("checksums", "header"),
        [(None, "Content-MD5"), ("when_required", "Content-MD5"), ("when_supported", "crc32")],
    )
    def test_a_checksum_travels_with_every_part(self, bucket, proxy, checksums, header):
        options = through(bucket, proxy) | ({"aws.checksums": checksums} if checksums else {})
        storage = S3Storage.from_settings(options, "")
        store(storage, b"x", "small", unique=True)
        store(storage, b"x" * (PART_BYTES + 1), "large", unique=True)
        sent = [seen for seen in proxy.seen if seen.method == "PUT"]
        assert len(sent) == 3
        for seen in sent:
            assert any(header in name for name in seen.headers)

    @pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
    def test_a_file_that_is_damaged_on_its_way_is_refused(self, bucket, proxy, checksums):
        def damage(handler, seen):
            handler.body = handler.body.replace(b"time", b"lime")
            return False

        proxy.misbehave = damage
        storage = S3Storage.from_settings(through(bucket, proxy) | {"aws.checksums": checksums}, "")
        with pytest.raises(StorageError):
            store(storage, b"once upon a time", unique=True)
        assert bucket.keys() == []

    def test_on_amazon_botocore_chooses_the_checksums(self):
        options = {"aws.bucket_name": "files", "aws.region": "eu-central-1"}
        storage = S3Storage.from_settings(options, "")
        assert (
            storage.bucket.client.boto3_client.meta.config.request_checksum_calculation
            == "when_supported"
        )
        assert storage.bucket.checksum(b"x") == {}

    def test_a_thousand_are_deleted_by_one_request(self, watched, bucket, proxy):
        store(watched, name="story.txt", unique=True)
        proxy.seen.clear()
        gone = [f"gone-{number}" for number in range(MAX_DELETED_AT_ONCE)]
        assert watched.delete_many([*gone, "story.txt", "also-gone"]) == {}
        assert proxy.operations() == ["DeleteObjects", "DeleteObjects"]
        assert bucket.keys() == []


def reached_by(bucket, line, **more):
    """Return the storage as it is reached by a line: half a second of silence, and no retry."""
    options = through(bucket, line) | {"aws.timeout": 0.5, "aws.num_retries": 0}
    storage = S3Storage.from_settings(options | {f"aws.{k}": v for k, v in more.items()}, "")
    # Here, since the making of a client takes as long as that.
    assert storage.bucket.client.boto3_client
    return storage


class TestPatience:
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
        # As where the end of what was sent is still in buffers on its way.
        proxy.misbehave = lambda handler, seen: threading.Event().wait(1)
        line = SlowLine(proxy.url, MIB / 2)
        try:
            store(reached_by(bucket, line), b"x" * MIB, unique=True)
        finally:
            line.stop()
        assert len(bucket.content("story.txt")) == MIB

    def test_a_line_that_was_slow_is_given_up_when_it_is_cut(self, bucket, make_line):
        line = make_line(MIB)
        storage = reached_by(bucket, line)
        store(storage, b"x" * 3 * MIB, "before", unique=True)
        line.cut()
        began = time.monotonic()
        with pytest.raises(StorageError):
            store(storage, b"x" * 3 * MIB, "after", unique=True)
        assert time.monotonic() - began < 1.5

    @pytest.mark.parametrize("size", [11, PART_BYTES], ids=["small", "one part"])
    def test_a_server_that_reads_nothing_is_given_up(self, bucket, silence, size):
        storage = reached_by(bucket, silence, num_retries=2)
        began = time.monotonic()
        with pytest.raises(StorageError):
            store(storage, b"x" * size, unique=True)
        # A kernel whose buffers are full may find room for a little more at first.
        assert time.monotonic() - began < 3 * (0.5 + 0.5)

    def test_a_server_that_is_silent_about_a_part_is_given_up(self, bucket, proxy):
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

    def test_s3_may_work_for_ever_as_long_as_it_says_so(self, bucket, proxy, monkeypatch):
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

    def test_what_is_discarded_is_not_sent_to_its_end(self, bucket, make_line):
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

    def test_the_heartbeat_is_true_and_quick_where_every_call_takes_long(self, bucket, proxy):
        bucket.client.put_object(Bucket=bucket.name, Key="first", Body=b"")
        storage = S3Storage.from_settings(through(bucket, proxy), "")
        assert storage.bucket.client.boto3_client

        def take_time(handler, seen):
            threading.Event().wait(0.4)
            return False

        proxy.misbehave = take_time
        heartbeat = Heartbeat(storage)
        began = time.monotonic()
        assert heartbeat(Request) is True
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
        assert Heartbeat(storage)(Request) is True
        assert logged_exceptions(caplog) == []
        answered.set()
        (logged,) = eventually(lambda: logged_exceptions(caplog))
        assert "AccessDenied" in logged
        assert bucket.name in logged


class Request:
    class registry:  # noqa: N801
        settings = {"readonly": False}


def threads_in(code):
    """Return the threads that run a function."""
    return [
        frame
        for top in sys._current_frames().values()
        for frame, _ in traceback.walk_stack(top)
        if frame.f_code is code
    ]


class TestEndpointWithPath:
    """Stores of which the root is not that of their host, like Supabase's."""

    PREFIX = "/storage/v1/s3"

    @pytest.fixture
    def proxy(self, fake_bucket):
        proxy = Proxy(fake_bucket.endpoint_url, self.PREFIX)
        yield proxy
        proxy.stop()

    @pytest.fixture(params=["", "/"])
    def storage(self, request, fake_bucket, proxy):
        options = fake_bucket.options | {"aws.endpoint_url": proxy.url + request.param}
        return S3Storage.from_settings(options | {"aws.region": "us-east-1"}, "")

    def test_every_request_goes_below_it_and_is_signed_for_that(self, storage, proxy, fake_bucket):
        small = store(storage)
        large = store(storage, b"x" * (PART_BYTES + 1))
        assert [read(storage, small), len(read(storage, large))] == [
            b"once upon a time",
            PART_BYTES + 1,
        ]
        assert {stored.key for stored in storage.files()} == {small, large}
        assert storage.delete_many([small, large]) == {}
        assert list(storage.incomplete_uploads()) == []
        assert {"PutObject", "Create", "UploadPart", "Complete", "CopyObject", "DeleteObjects"} <= {
            *proxy.operations()
        }
        for seen in proxy.seen:
            assert seen.path.startswith(f"{self.PREFIX}/{fake_bucket.name}")
            assert is_signed_for(seen, proxy.url)
        assert fake_bucket.keys() == []

    def test_locations_are_below_it(self, storage, proxy, fake_bucket):
        assert storage.url("f/a.txt") == f"{proxy.url}/{fake_bucket.name}/f/a.txt"
        store(storage)
        response = requests.get(storage.url("story.txt"), timeout=10)
        assert response.content == b"once upon a time"


class TestNames:
    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    def test_the_nth_file_of_a_name_takes_no_more_requests_than_another(
        self, watched, bucket, proxy, size
    ):
        taken = ["story.txt", *(f"story-{number}.txt" for number in range(1, 100))]
        for name in taken:
            bucket.client.put_object(Bucket=bucket.name, Key=name, Body=b"")
        name = store(watched, b"x" * size)
        assert re.fullmatch(r"story-\d{3,4}\.txt", name)
        assert bucket.content(name) == b"x" * size
        # Five in order, one of two digits, perhaps two more.
        assert proxy.operations().count("HeadObject") <= 8

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    def test_without_if_none_match_equal_names_do_not_overwrite(self, watched, bucket, proxy, size):
        proxy.misbehave = lambda handler, seen: (
            "If-None-Match" in seen.headers and proxy.refuse(handler, 501, "NotImplemented")
        )
        contents = [bytes([number]) * size for number in (1, 2)]
        names = [store(watched, content) for content in contents]
        assert bucket.files() == dict(zip(names, contents, strict=True))
        assert names == ["story.txt", "story-1.txt"]
        # The store is asked to once, and not again.
        assert sum("If-None-Match" in seen.headers for seen in proxy.seen) == 1

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    def test_where_if_none_match_is_ignored_equal_names_do_not_overwrite(
        self, storage, bucket, size
    ):
        storage.bucket.client.boto3_client.meta.events.register("before-sign.s3", _hide_condition)
        contents = [bytes([number]) * size for number in (1, 2)]
        names = [store(storage, content) for content in contents]
        assert names == ["story.txt", "story-1.txt"]
        assert bucket.files() == dict(zip(names, contents, strict=True))

    def test_a_conflict_with_another_write_leads_to_the_next_name(self, watched, bucket, proxy):
        refusals = iter([True])
        proxy.misbehave = lambda handler, seen: (
            "If-None-Match" in seen.headers
            and next(refusals, False)
            and proxy.refuse(handler, 409, "ConditionalRequestConflict")
        )
        assert store(watched) == "story-1.txt"


def _hide_condition(request, **kwargs):
    del request.headers["If-None-Match"]


def refusing(status, code):
    return lambda proxy: lambda handler, seen: proxy.refuse(handler, status, code)


def breaking_off(proxy):
    def break_off(handler, seen):
        handler.close_connection = True
        return True

    return break_off


def answering_nonsense(proxy):
    return lambda handler, seen: proxy.answer(handler, 500, b"<html>") or True


def swallowing(proxy, operation):
    """S3 does what it is asked to, and the answer is lost on its way."""

    def swallow(handler, seen):
        if seen.operation != operation:
            return False
        proxy.forward(handler, answer=False)
        handler.close_connection = True
        return True

    return swallow


FAULTS = {
    "refuses": refusing(403, "AccessDenied"),
    "has no such bucket": refusing(404, "NoSuchBucket"),
    "is overloaded": refusing(503, "SlowDown"),
    "breaks off": breaking_off,
    "answers nonsense": answering_nonsense,
}


def heartbeat_of(app):
    return app.get("/__heartbeat__", status="*").json["attachments"]


def logged_exceptions(caplog):
    return [
        f"{record.getMessage()}\n{record.exc_text}"
        for record in caplog.records
        if record.name.startswith("kinto_attachment") and record.exc_info
    ]


def assert_unavailable(app, bucket_name, caplog, *parts):
    """A file cannot be attached, and that is all that happens."""
    before = app.record()
    caplog.clear()
    response = app.upload(*parts, status=503)
    assert response.json["errno"] == 201
    assert response.headers["Retry-After"]
    (logged,) = logged_exceptions(caplog)
    assert bucket_name in logged
    assert app.record() == before
    caplog.clear()
    assert heartbeat_of(app) is False
    (logged,) = logged_exceptions(caplog)
    assert bucket_name in logged


class TestFaults:
    @pytest.fixture
    def app(self, make_app, bucket, proxy):
        app = make_app(**bucket.settings(aws__endpoint_url=proxy.url))
        app.put_json(RECORD, {"data": {"title": "before"}}, headers=ALICE)
        return app

    @pytest.mark.parametrize("size", [11, 3 * PART_BYTES], ids=["small", "large"])
    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
    def test_a_file_is_refused_while_s3(self, app, bucket, proxy, caplog, fault, size):
        proxy.misbehave = fault(proxy)
        assert_unavailable(app, bucket.name, caplog, file_part(b"x" * size))
        assert bucket.keys() == []

    @pytest.mark.parametrize("operation", ["UploadPart", "Complete"])
    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
    def test_nothing_is_left_of_a_large_file_at_which_s3_failed_midway(
        self, app, bucket, proxy, fault, operation
    ):
        misbehave = fault(proxy)
        proxy.misbehave = lambda handler, seen: (
            seen.operation == operation and misbehave(handler, seen)
        )
        app.upload(file_part(b"x" * 3 * PART_BYTES), status=503)
        assert eventually(lambda: bucket.uploads() == [])
        assert bucket.keys() == []

    def test_a_file_is_refused_while_s3_is_down(self, make_app, bucket, proxy, caplog):
        proxy.stop()
        app = make_app(**bucket.settings(aws__endpoint_url=proxy.url))
        app.put_json(RECORD, {"data": {"title": "before"}}, headers=ALICE)
        assert_unavailable(app, bucket.name, caplog)

    @pytest.mark.parametrize("size", [11, 2 * PART_BYTES], ids=["small", "large"])
    def test_a_file_is_refused_while_s3_never_answers(
        self, make_app, bucket, silence, caplog, size
    ):
        app = make_app(
            **bucket.settings(aws__endpoint_url=silence.url, aws__timeout="0.3", aws__num_retries=2)
        )
        app.put_json(RECORD, {"data": {"title": "before"}}, headers=ALICE)
        assert_unavailable(app, bucket.name, caplog, file_part(b"x" * size))

    @pytest.mark.parametrize("wrong", ["access_key", "secret_key", "bucket_name"])
    def test_a_file_is_refused_where_the_settings_do_not_fit(self, make_app, bucket, caplog, wrong):
        options = bucket.settings()
        options[f"attachment__aws__{wrong}"] = "wrong"
        app = make_app(**options)
        app.put_json(RECORD, {"data": {"title": "before"}}, headers=ALICE)
        assert_unavailable(app, options["attachment__aws__bucket_name"], caplog)

    def test_a_file_is_refused_where_there_are_no_credentials(
        self, make_app, bucket, caplog, monkeypatch
    ):
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        app = make_app(**bucket.settings(aws__access_key="", aws__secret_key=""))
        app.put_json(RECORD, {"data": {"title": "before"}}, headers=ALICE)
        assert_unavailable(app, bucket.name, caplog)

    def test_the_heartbeat_is_true_while_s3_works(self, app, bucket, monkeypatch):
        # The server takes its time for the first file of a bucket, and the machine for others.
        monkeypatch.setattr("kinto_attachment.storage.heartbeat.HEARTBEAT_TIMEOUT_SECONDS", 30)
        bucket.client.put_object(Bucket=bucket.name, Key="first", Body=b"")
        assert heartbeat_of(app) is True
        assert bucket.keys() == ["first"]

    @pytest.mark.parametrize(("retries", "tries"), [(0, 1), (2, 3)])
    def test_it_is_tried_as_often_as_configured(self, bucket, proxy, retries, tries):
        proxy.misbehave = refusing(503, "SlowDown")(proxy)
        options = through(bucket, proxy) | {"aws.num_retries": retries, "aws.timeout": 0.3}
        with pytest.raises(StorageError):
            S3Storage.from_settings(options, "").exists("story.txt")
        assert len(proxy.seen) == tries

    def test_all_tries_and_pauses_fit_into_the_timeout_times_the_tries(self, bucket, monkeypatch):
        pauses = []
        monkeypatch.setattr("time.sleep", pauses.append)
        options = bucket.options | {"aws.num_retries": 4, "aws.timeout": 2}
        storage = S3Storage.from_settings({**options, "aws.endpoint_url": "http://127.0.0.1:1"}, "")
        with pytest.raises(StorageError):
            storage.exists("story.txt")
        config = storage.bucket.client.boto3_client.meta.config
        assert len(pauses) == 4
        assert 5 * config.read_timeout + sum(pauses) < 5 * 2
        assert config.connect_timeout == config.read_timeout

    def test_a_single_failure_is_not_noticed(self, app, bucket, proxy):
        failures = iter([True])
        proxy.misbehave = lambda handler, seen: (
            next(failures, False) and proxy.refuse(handler, 500, "InternalError")
        )
        app.upload()
        assert len(bucket.keys()) == 1

    def test_what_s3_refuses_is_not_tried_again(self, app, proxy):
        proxy.misbehave = refusing(403, "AccessDenied")(proxy)
        app.upload(status=503)
        assert proxy.operations() == ["PutObject"]

    @pytest.mark.parametrize(
        ("operation", "size"), [("PutObject", 11), ("Complete", 3 * PART_BYTES)]
    )
    def test_a_file_that_s3_has_stored_without_saying_so_is_deleted(
        self, app, bucket, proxy, operation, size
    ):
        proxy.misbehave = swallowing(proxy, operation)
        app.upload(file_part(b"x" * size), status=503)
        assert eventually(lambda: "DeleteObject" in proxy.operations() and bucket.keys() == [])

    @pytest.mark.parametrize(
        ("operation", "size"), [("PutObject", 11), ("Complete", 3 * PART_BYTES)]
    )
    def test_what_is_replaced_is_not_deleted(self, watched, bucket, proxy, operation, size):
        store(watched, b"previous")
        proxy.misbehave = swallowing(proxy, operation)
        staged = watched.replace("story.txt", "text/plain")
        staged.write(b"x" * size)
        with pytest.raises(StorageError):
            staged.publish()
        staged.discard()
        assert not eventually(lambda: "DeleteObject" in proxy.operations(), seconds=1)
        assert bucket.keys() == ["story.txt"]

    def test_one_that_cannot_be_deleted_keeps_no_other_from_being_deleted(
        self, watched, bucket, proxy
    ):
        names = [store(watched, name=name, unique=True) for name in ("a.txt", "b.txt")]
        proxy.misbehave = lambda handler, seen: (
            (b"b.txt" in handler.path.encode() and proxy.refuse(handler, 403, "AccessDenied"))
            or (seen.operation == "DeleteObjects" and proxy.refuse(handler, 501, "NotImplemented"))
        )
        failed = watched.delete_many(names)
        assert list(failed) == ["b.txt"]
        assert bucket.keys() == ["b.txt"]

    def test_the_previous_file_that_cannot_be_deleted_is_logged_with_its_location(
        self, app, bucket, proxy, caplog
    ):
        previous = app.upload(file_part(b"old")).json["location"]
        proxy.misbehave = lambda handler, seen: (
            seen.operation == "DeleteObject" and proxy.refuse(handler, 403, "AccessDenied")
        )
        app.upload(file_part(b"new"))
        (logged,) = logged_exceptions(caplog)
        assert previous in logged

    def test_a_failure_in_a_batch_is_told_and_the_others_are_deleted(self, watched, bucket, proxy):
        names = [store(watched, name=name, unique=True) for name in ("a.txt", "b.txt")]
        refusal = (
            b"<DeleteResult><Error><Key>b.txt</Key><Code>AccessDenied</Code></Error></DeleteResult>"
        )
        proxy.misbehave = lambda handler, seen: (
            seen.operation == "DeleteObjects" and (proxy.answer(handler, 200, refusal) or True)
        )
        failed = watched.delete_many(names)
        assert list(failed) == ["b.txt"]
        assert "AccessDenied" in str(failed["b.txt"])


def refusal(status):
    answer = {"Error": {"Code": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "operation")


class TestLackingOperations:
    """Stores that speak a part of the protocol, and what they say instead of an answer."""

    @pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidRequest")])
    def test_a_large_file_gets_its_name_without_copying_parts(
        self, watched, bucket, proxy, status, code
    ):
        proxy.misbehave = lambda handler, seen: (
            seen.operation == "UploadPartCopy" and proxy.refuse(handler, status, code)
        )
        content = os.urandom(PART_BYTES + 1)
        assert store(watched, content) == "story.txt"
        assert bucket.files() == {"story.txt": content}
        assert bucket.uploads() == []

    def test_only_what_is_too_large_for_one_copy_is_copied_in_parts(
        self, watched, bucket, proxy, monkeypatch
    ):
        monkeypatch.setattr(
            "kinto_attachment.storage.s3.staged.MAX_COPIED_AT_ONCE_BYTES", PART_BYTES
        )
        monkeypatch.setattr("kinto_attachment.storage.s3.staged.MIN_COPIED_PART_BYTES", 1)
        content = os.urandom(2 * PART_BYTES + 1)
        assert store(watched, content) == "story.txt"
        assert proxy.operations().count("UploadPartCopy") == 3
        assert "CopyObject" not in proxy.operations()
        assert bucket.files() == {"story.txt": content}

    def test_a_copy_that_stores_an_empty_file_is_none(self, watched, bucket, proxy):
        def ignore_source(handler, seen):
            if seen.operation != "CopyObject":
                return False
            proxy.answer(handler, 200, b"", [("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')])
            return True

        proxy.misbehave = ignore_source
        with pytest.raises(StorageError):
            store(watched, b"x" * (PART_BYTES + 1))
        assert eventually(lambda: bucket.keys() == [])

    @pytest.mark.parametrize(
        ("operation", "size"),
        [
            ("HeadObject", 11),
            ("Create", PART_BYTES + 1),
            ("UploadPart", PART_BYTES + 1),
            ("Complete", PART_BYTES + 1),
            ("CopyObject", PART_BYTES + 1),
            ("UploadPartCopy", PART_BYTES + 1),
        ],
    )
    @pytest.mark.parametrize("content", [b"", b"<a/>", b"<html>", b"<Error/>"])
    def test_an_odd_answer_is_an_error_of_the_storage(
        self, watched, bucket, proxy, monkeypatch, operation, size, content
    ):
        if operation == "UploadPartCopy":
            monkeypatch.setattr("kinto_attachment.storage.s3.staged.MAX_COPIED_AT_ONCE_BYTES", 1)
        proxy.misbehave = lambda handler, seen: (
            seen.operation == operation and (proxy.answer(handler, 200, content) or True)
        )
        with pytest.raises(StorageError, match=bucket.name):
            store(watched, b"x" * size)

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (501, "NotImplemented"),
            (405, "MethodNotAllowed"),
            (404, "NoSuchKey"),
            (400, "InvalidRequest"),
        ],
    )
    def test_where_uploads_cannot_be_listed_there_is_one_warning(
        self, watched, bucket, proxy, caplog, status, code
    ):
        proxy.misbehave = lambda handler, seen: (
            seen.operation == "ListMultipartUploads" and proxy.refuse(handler, status, code)
        )
        bucket.client.put_object(Bucket=bucket.name, Key=".staging/a", Body=b"")
        for _ in range(2):
            assert [upload.key for upload in watched.incomplete_uploads()] == [".staging/a"]
        assert proxy.operations().count("ListMultipartUploads") == 1
        (warning,) = caplog.records
        assert warning.levelname == "WARNING"
        assert bucket.name in warning.getMessage()
        assert code in warning.getMessage()

    @pytest.mark.parametrize(
        ("status", "code"), [(403, "AccessDenied"), (404, "NoSuchBucket"), (500, "InternalError")]
    )
    def test_that_uploads_may_not_be_listed_is_an_error(self, watched, proxy, status, code):
        proxy.misbehave = lambda handler, seen: (
            seen.operation == "ListMultipartUploads" and proxy.refuse(handler, status, code)
        )
        with pytest.raises(StorageError, match=code):
            list(watched.incomplete_uploads())

    @pytest.mark.parametrize(
        "page",
        [
            b"<IsTruncated>true</IsTruncated>",
            b"<IsTruncated>true</IsTruncated>"
            b"<NextContinuationToken>a</NextContinuationToken><Contents><Key>a</Key><Size>1</Size>"
            b"<LastModified>2020-01-01T00:00:00Z</LastModified></Contents>",
            b"<Contents><Key>a</Key><Size>1</Size></Contents>",
            b"<Contents><Key>a</Key><Size>1</Size><LastModified>once</LastModified></Contents>",
            b"<Contents><Size>1</Size><LastModified>2020-01-01T00:00:00Z</LastModified></Contents>",
        ],
        ids=["no token", "always the same token", "no time", "no such time", "no key"],
    )
    def test_an_odd_list_is_an_error(self, watched, proxy, page):
        answer = b"<ListBucketResult>" + page + b"</ListBucketResult>"
        proxy.misbehave = lambda handler, seen: proxy.answer(handler, 200, answer) or True
        with pytest.raises(StorageError):
            list(watched.files())

    @pytest.mark.parametrize("status", [400, 404, 405, 501])
    def test_without_deletion_of_many_they_are_deleted_one_by_one(
        self, watched, bucket, proxy, status
    ):
        names = [store(watched, name=name, unique=True) for name in ("a.txt", "b.txt")]
        proxy.misbehave = lambda handler, seen: (
            seen.operation == "DeleteObjects" and proxy.refuse(handler, status, "Unknown")
        )
        assert watched.delete_many(names) == {}
        assert bucket.keys() == []

    def test_one_that_is_not_answered_ends_the_deletion_one_by_one(
        self, storage, bucket, monkeypatch
    ):
        names = [store(storage, name=name, unique=True) for name in ("a.txt", "b.txt", "c.txt")]
        asked, call = [], storage.bucket.call

        def lack_and_hang(operation, **parameters):
            if operation == "delete_objects":
                raise S3Error(bucket.name, refusal(501))
            asked.append(parameters["Key"])
            if parameters["Key"] == "b.txt":
                raise S3Error(bucket.name, ReadTimeoutError(endpoint_url="http://localhost"))
            return call(operation, **parameters)

        monkeypatch.setattr(storage.bucket, "call", lack_and_hang)
        assert list(storage.delete_many(names)) == ["b.txt", "c.txt"]
        assert asked == ["a.txt", "b.txt"]
        assert bucket.keys() == ["b.txt", "c.txt"]
        monkeypatch.undo()
        storage.delete_many(names)

    def test_failures_of_which_the_names_are_missing_are_told_of_all(self, watched, bucket, proxy):
        answer = b"<DeleteResult><Error><Code>AccessDenied</Code></Error></DeleteResult>"
        proxy.misbehave = lambda handler, seen: proxy.answer(handler, 200, answer) or True
        assert list(watched.delete_many(["a.txt", "b.txt"])) == ["a.txt", "b.txt"]


class TestClient:
    def test_threads_share_one(self, storage):
        clients = []
        threads = [
            threading.Thread(target=lambda: clients.append(storage.bucket.client.boto3_client))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(clients) == 8
        assert len(set(map(id, clients))) == 1

    def test_it_is_made_at_first_use(self, storage, monkeypatch):
        made = []
        monkeypatch.setattr(
            "boto3.session.Session.client", lambda self, *args, **kwargs: made.append(args)
        )
        assert made == []
        assert storage.bucket.client.boto3_client is None
        assert made == [("s3",)]

    def test_a_server_starts_without_one(self, make_app, bucket, monkeypatch):
        made = []
        monkeypatch.setattr(
            "boto3.session.Session.client", lambda self, *args, **kwargs: made.append(args)
        )
        make_app(**bucket.settings(base_url="https://cdn.example.org/"))
        assert made == []

    def test_it_has_connections_for_all_threads_of_a_worker(self, storage):
        assert storage.bucket.client.boto3_client.meta.config.max_pool_connections >= 128

    def test_a_forked_process_makes_its_own(self, storage, bucket):
        before = id(storage.bucket.client.boto3_client)
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe()

        def child():
            store(storage, name="from-the-child.txt", unique=True)
            sender.send(id(storage.bucket.client.boto3_client))

        process = context.Process(target=child)
        process.start()
        assert receiver.poll(30)
        assert receiver.recv() != before
        process.join()
        assert read(storage, "from-the-child.txt") == b"once upon a time"

    def test_the_heartbeat_names_a_bucket_that_does_not_answer(self, bucket, silence, caplog):
        storage = S3Storage.from_settings({**bucket.options, "aws.endpoint_url": silence.url}, "")
        assert Heartbeat(storage)(Request) is False
        assert bucket.name in caplog.text


class TestLocations:
    @pytest.mark.parametrize(
        ("settings", "location"),
        [
            ({}, "https://files.s3.amazonaws.com/"),
            ({"region": "eu-central-1"}, "https://files.s3.eu-central-1.amazonaws.com/"),
            (
                {"region": "eu-central-1", "use_path_style": "true"},
                "https://s3.eu-central-1.amazonaws.com/files/",
            ),
            ({"host": "s3.example.com"}, "https://s3.example.com/files/"),
            (
                {"host": "s3.example.com", "port": "9000", "is_secure": "false"},
                "http://s3.example.com:9000/files/",
            ),
            (
                {"host": "s3.example.com", "use_path_style": "true"},
                "https://s3.example.com/files/",
            ),
            (
                {"endpoint_url": "https://s3.example.com", "use_path_style": "true"},
                "https://s3.example.com/files/",
            ),
            ({"endpoint_url": "http://127.0.0.1:9000"}, "http://127.0.0.1:9000/files/"),
        ],
    )
    def test_without_base_url_they_are_those_of_the_bucket(self, settings, location, monkeypatch):
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        options = {f"aws.{name}": value for name, value in settings.items()}
        storage = S3Storage.from_settings({"aws.bucket_name": "files", **options}, "")
        assert storage.url("f/a.txt") == location + "f/a.txt"

    def test_names_are_percent_encoded(self, storage, bucket):
        assert storage.url("f/a b#1?.txt") == bucket.location("f/a b#1?.txt")
