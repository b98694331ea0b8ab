"""Faults of S3."""

import threading

import pytest
from botocore.exceptions import ClientError

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.app import RECORD
from tests.support.forms import file_part
from tests.support.misbehaviour import answering_nonsense, breaking_off, refusing, swallowing
from tests.support.s3 import PART_BYTES, eventually, logged_exceptions, through
from tests.support.storage_contract import SavedPartial, read, store
from tests.support.users import ALICE


PHOTOS = RECORD.rpartition("/records/")[0]


FAULTS = {
    "refuses": refusing(403, "AccessDenied"),
    "has no such bucket": refusing(404, "NoSuchBucket"),
    "is overloaded": refusing(503, "SlowDown"),
    "breaks off": breaking_off,
    "answers nonsense": answering_nonsense,
}


def heartbeat_of(app):
    return app.get("/__heartbeat__", status="*").json["attachments"]


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
    def test_a_file_is_refused_if_the_settings_are_wrong(self, make_app, bucket, caplog, wrong):
        options = bucket.settings()
        options[f"attachment__aws__{wrong}"] = "wrong"
        app = make_app(**options)
        app.put_json(RECORD, {"data": {"title": "before"}}, headers=ALICE)
        assert_unavailable(app, options["attachment__aws__bucket_name"], caplog)

    def test_a_file_is_refused_without_credentials(self, make_app, bucket, caplog, monkeypatch):
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

    def test_a_refusal_is_not_retried(self, app, proxy):
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

    def test_a_file_that_cannot_be_deleted_either_is_logged(self, app, bucket, proxy, caplog):
        swallow = swallowing(proxy, "PutObject")
        proxy.misbehave = lambda handler, seen: (
            swallow(handler, seen)
            or (seen.operation == "DeleteObject" and proxy.refuse(handler, 403, "AccessDenied"))
        )
        app.upload(status=503)
        (key,) = bucket.keys()
        assert eventually(lambda: f"{key} of a failed upload may stay" in caplog.text)

    @pytest.mark.parametrize(
        ("operation", "size"), [("PutObject", 11), ("Complete", 3 * PART_BYTES)]
    )
    def test_a_replaced_file_is_not_deleted(self, watched, bucket, proxy, operation, size):
        store(watched, b"previous")
        proxy.misbehave = swallowing(proxy, operation)
        staged = watched.replace("story.txt", "text/plain")
        staged.write(b"x" * size)
        with pytest.raises(StorageError):
            staged.publish()
        staged.discard()
        assert not eventually(lambda: "DeleteObject" in proxy.operations(), seconds=1)
        assert bucket.keys() == ["story.txt"]

    def test_others_are_deleted_if_one_cannot_be(self, watched, bucket, proxy):
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
        app.wait_for_deletions()
        (logged,) = logged_exceptions(caplog)
        assert previous in logged

    def test_a_deletion_that_hangs_holds_up_no_answer_and_the_next_ones_share_a_request(
        self, app, bucket, proxy
    ):
        records = [f"{PHOTOS}/records/r{number}" for number in range(5)]
        for record in records:
            app.upload(url=f"{record}/attachment")
        asked, answered = threading.Event(), threading.Event()
        hung = []

        def hang(handler, seen):
            if seen.operation == "DeleteObject":
                asked.set()
                hung.append(answered.wait(30))
            return False

        proxy.misbehave = hang
        app.delete(records[0], headers=ALICE)
        assert asked.wait(30)
        for record in records[1:]:
            app.delete(record, headers=ALICE)
        assert len(bucket.keys()) == 5
        proxy.seen.clear()
        answered.set()
        app.wait_for_deletions()
        assert hung == [True]
        assert proxy.operations() == ["DeleteObjects"]
        assert bucket.keys() == []

    def test_a_failure_in_a_batch_is_reported_and_the_others_are_deleted(
        self, watched, bucket, proxy
    ):
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


def test_nothing_counts_that_follows_a_part_that_could_not_be_sent(watched, proxy):
    partial = SavedPartial(watched)
    partial.append(b"once")
    file = partial.resume()
    proxy.misbehave = lambda handler, seen: (
        seen.operation == "UploadPart" and proxy.refuse(handler, 403, "AccessDenied")
    )
    with pytest.raises(StorageError):
        file.write(b"x" * 3 * PART_BYTES)
    with pytest.raises(StorageError):
        file.flush()
    assert file.state["tail"] == partial.state["tail"]
    file.rewind(4, partial.state)
    partial.append(b" upon a time")
    assert partial.publish("story.txt")
    partial.discard()
    assert read(watched, "story.txt") == b"once upon a time"


def test_a_worker_that_is_killed_before_it_saves_the_state_loses_no_earlier_byte(watched):
    partial = SavedPartial(watched)
    for content in (b"once", b" upon"):
        partial.append(content)
    file = partial.resume()
    file.write(b"x" * 2 * PART_BYTES)
    file.flush()
    partial.append(b" a time")
    assert partial.publish("story.txt")
    partial.discard()
    assert read(watched, "story.txt") == b"once upon a time"


@pytest.mark.parametrize("status", [403, 501])
def test_a_partial_file_is_discarded_though_uploads_may_not_be_listed(watched, proxy, status):
    partial = SavedPartial(watched)
    partial.append(b"x" * (PART_BYTES + 1))
    proxy.misbehave = lambda handler, seen: (
        seen.operation == "ListMultipartUploads" and proxy.refuse(handler, status, "Refused")
    )
    partial.discard(is_last=True)
    proxy.misbehave = lambda handler, seen: False
    assert list(watched.incomplete_uploads()) == []


def test_a_partial_file_is_not_discarded_if_s3_does_not_answer(watched, proxy):
    partial = SavedPartial(watched)
    partial.append(b"x" * (PART_BYTES + 1))
    proxy.misbehave = lambda handler, seen: (
        seen.operation == "ListMultipartUploads" and breaking_off(proxy)(handler, seen)
    )
    with pytest.raises(StorageError):
        partial.discard(is_last=True)
    proxy.misbehave = lambda handler, seen: False
    partial.discard(is_last=True)
    assert list(watched.incomplete_uploads()) == []
