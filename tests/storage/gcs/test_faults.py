"""Faults of Google Cloud Storage, and of the line to it."""

import itertools
import json
import os
import time

import pytest

from kinto_attachment.storage.contract import StorageError
from tests.support.app import RECORD
from tests.support.forms import file_part
from tests.support.gcs import MIB, PART_BYTES, TokenServer, gcs_storage, through
from tests.support.misbehaviour import answering_nonsense, breaking_off, refusing, swallowing
from tests.support.s3 import SlowLine, eventually, logged_exceptions
from tests.support.storage_contract import read, store
from tests.support.users import ALICE


LARGE = b"x" * (2 * PART_BYTES + 1)

FAULTS = {
    "refuses": refusing(403, "forbidden"),
    "has no such bucket": refusing(404, "The specified bucket does not exist."),
    "is overloaded": refusing(503, "backendError"),
    "breaks off": breaking_off,
    "answers nonsense": answering_nonsense,
}


@pytest.fixture
def make_impatient(make_app):
    """Make a server that gives up after a second, and has a record."""

    def make(bucket, url, **more):
        limits = {"gcloud__endpoint_url": url, "gcloud__timeout": 1, **more}
        app = make_app(**bucket.settings(**limits))
        app.put_json(RECORD, {"data": {"title": "before"}}, headers=ALICE)
        return app

    return make


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
    assert app.get("/__heartbeat__", status="*").json["attachments"] is False


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_file_is_refused_while_google(make_impatient, gcs_bucket, gcs_proxy, caplog, fault):
    app = make_impatient(gcs_bucket, gcs_proxy.url)
    gcs_proxy.misbehave = fault(gcs_proxy)
    assert_unavailable(app, gcs_bucket.name, caplog, file_part(b"once upon a time"))
    assert gcs_bucket.keys() == []


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_nothing_is_left_of_a_large_file_at_which_google_failed_midway(
    make_impatient, gcs_bucket, gcs_proxy, fault
):
    app = make_impatient(gcs_bucket, gcs_proxy.url)
    misbehave = fault(gcs_proxy)
    gcs_proxy.misbehave = lambda handler, seen: (
        seen.operation in ("Part", "Status") and misbehave(handler, seen)
    )
    app.upload(file_part(LARGE), status=503)
    assert eventually(lambda: "Cancel" in gcs_proxy.operations())
    assert gcs_bucket.keys() == []


@pytest.mark.parametrize("size", [11, len(LARGE)], ids=["small", "large"])
def test_a_file_is_refused_in_time_while_google_never_answers(
    make_impatient, gcs_bucket, silence, caplog, size
):
    app = make_impatient(gcs_bucket, silence.url)
    began = time.monotonic()
    assert_unavailable(app, gcs_bucket.name, caplog, file_part(b"x" * size))
    # An upload and a heartbeat, where the library itself would retry for two minutes.
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("size", [2 * MIB, len(LARGE)], ids=["small", "large"])
def test_a_line_that_makes_progress_may_be_slow(emulated_bucket, size):
    line = SlowLine(emulated_bucket.url, size / 3)
    storage = gcs_storage(through(emulated_bucket, line), timeout=1)
    try:
        began = time.monotonic()
        store(storage, b"x" * size, unique=True)
        assert time.monotonic() - began > 2
    finally:
        line.stop()
    assert emulated_bucket.content("story.txt") == b"x" * size


def test_a_file_is_refused_without_credentials(make_app, caplog, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")
    app = make_app(attachment__base_path="", attachment__gcloud__bucket_name="files")
    app.put_json(RECORD, {"data": {"title": "before"}}, headers=ALICE)
    assert_unavailable(app, "files", caplog)


@pytest.mark.parametrize("operation", ["Upload", "Begin", "Rewrite", "Delete"])
def test_a_single_failure_is_not_noticed(gcs_bucket, gcs_proxy, operation):
    storage = gcs_storage(through(gcs_bucket, gcs_proxy))
    failures = [True]
    gcs_proxy.misbehave = lambda handler, seen: (
        (seen.operation == operation and failures.pop() if failures else False)
        and gcs_proxy.refuse(handler, 503, "backendError")
    )
    assert store(storage, LARGE) == "story.txt"
    assert failures == []
    assert gcs_bucket.files() == {"story.txt": LARGE}


def test_a_refusal_is_not_retried(gcs_bucket, gcs_proxy):
    gcs_proxy.misbehave = refusing(403, "forbidden")(gcs_proxy)
    with pytest.raises(StorageError):
        gcs_storage(through(gcs_bucket, gcs_proxy)).exists("story.txt")
    assert gcs_proxy.operations() == ["Get"]


@pytest.mark.parametrize("arrives", [True, False])
def test_a_part_whose_answer_is_lost_is_sent_again_only_if_it_did_not_arrive(
    emulated, emulator_proxy, arrives
):
    parts = itertools.count()

    def lose_second(handler, seen):
        if seen.operation != "Part" or next(parts) != 1:
            return False
        if arrives:
            emulator_proxy.forward(handler, answer=False)
        handler.close_connection = True
        return True

    emulator_proxy.misbehave = lose_second
    content = os.urandom(len(LARGE))
    store(emulated, content, unique=True)
    assert read(emulated, "story.txt") == content
    again = [] if arrives else ["Part"]
    assert (
        emulator_proxy.operations()[:7]
        == [*("Begin", "Part", "Part", "Status", *again, "LastPart", "Get", "Read")][:7]
    )


def test_the_last_part_is_sent_again_if_it_did_not_arrive(emulated, emulator_proxy):
    failures = [True]

    def lose(handler, seen):
        handler.close_connection = lost = seen.operation == "LastPart" and bool(failures)
        return lost and failures.pop()

    emulator_proxy.misbehave = lose
    store(emulated, LARGE, unique=True)
    assert emulator_proxy.operations()[-3:] == ["LastPart", "Status", "LastPart"]
    assert read(emulated, "story.txt") == LARGE


def test_what_google_does_not_take_of_a_part_is_sent_again(watched, gcs_bucket, gcs_proxy):
    kept = PART_BYTES // 2 // 262144 * 262144
    cut = [True]

    def take_half(handler, seen):
        if seen.operation == "Part" and cut:
            cut.pop()
            handler.body = handler.body[:kept]
            handler.headers.replace_header("Content-Range", f"bytes 0-{kept - 1}/*")
            handler.headers.replace_header("Content-Length", str(kept))
        return False

    gcs_proxy.misbehave = take_half
    content = os.urandom(len(LARGE))
    store(watched, content, unique=True)
    assert gcs_bucket.content("story.txt") == content
    spans = [seen.headers["Content-Range"] for seen in gcs_proxy.seen if seen.operation == "Part"]
    assert spans[1] == f"bytes {kept}-{PART_BYTES - 1}/*"


def test_google_that_takes_nothing_is_a_failure(gcs_bucket, gcs_proxy):
    gcs_proxy.misbehave = lambda handler, seen: (
        seen.operation in ("Part", "Status") and (gcs_proxy.answer(handler, 308) or True)
    )
    storage = gcs_storage(through(gcs_bucket, gcs_proxy), timeout=1)
    staged = storage.stage("story.txt", "text/plain", unique=True)
    with pytest.raises(StorageError, match="0 bytes are stored"):
        staged.write(LARGE + LARGE)
    staged.discard()


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize(("operation", "size"), [("Upload", 11), ("LastPart", len(LARGE))])
def test_a_file_that_google_has_stored_without_saying_so_is_deleted(
    gcs_bucket, gcs_proxy, operation, size, unique
):
    swallow = swallowing(gcs_proxy, operation)
    gcs_proxy.misbehave = lambda handler, seen: (
        swallow(handler, seen)
        or (seen.operation == "Status" and gcs_proxy.refuse(handler, 503, "backendError"))
    )
    storage = gcs_storage(through(gcs_bucket, gcs_proxy), timeout=1)
    with pytest.raises(StorageError):
        store(storage, b"x" * size, unique=unique)
    assert eventually(lambda: "Delete" in gcs_proxy.operations() and gcs_bucket.keys() == [])


@pytest.mark.parametrize("size", [11, len(LARGE)], ids=["small", "large"])
def test_a_name_whose_reservation_was_answered_late_is_not_taken_twice(
    watched, gcs_bucket, gcs_proxy, size
):
    failures = [True]

    def lose_answer(handler, seen):
        if seen.operation != "Upload" or not failures:
            return False
        failures.pop()
        gcs_proxy.forward(handler, answer=False)
        return gcs_proxy.refuse(handler, 503, "backendError")

    gcs_proxy.misbehave = lose_answer
    assert store(watched, b"x" * size) == "story.txt"
    assert gcs_bucket.files() == {"story.txt": b"x" * size}


@pytest.mark.parametrize(("operation", "size"), [("Upload", 11), ("LastPart", len(LARGE))])
def test_a_replaced_file_is_not_deleted(gcs_bucket, gcs_proxy, operation, size):
    storage = gcs_storage(through(gcs_bucket, gcs_proxy), timeout=1)
    store(storage, b"previous")
    swallow = swallowing(gcs_proxy, operation)
    gcs_proxy.misbehave = lambda handler, seen: (
        swallow(handler, seen)
        or (seen.operation == "Status" and gcs_proxy.refuse(handler, 503, "backendError"))
    )
    staged = storage.replace("story.txt", "text/plain")
    staged.write(b"x" * size)
    with pytest.raises(StorageError):
        staged.publish()
    staged.discard()
    assert not eventually(lambda: "Delete" in gcs_proxy.operations(), seconds=1)
    assert gcs_bucket.keys() == ["story.txt"]


def test_another_file_of_the_name_is_not_deleted_by_a_failure(gcs_bucket, gcs_proxy):
    storage = gcs_storage(through(gcs_bucket, gcs_proxy), timeout=1)
    store(storage, b"another")
    gcs_proxy.misbehave = lambda handler, seen: (
        seen.operation == "Upload" and gcs_proxy.refuse(handler, 503, "backendError")
    )
    with pytest.raises(StorageError):
        store(storage, b"new")
    assert eventually(lambda: "Get" in gcs_proxy.operations())
    assert gcs_bucket.files() == {"story.txt": b"another"}


def test_nothing_is_left_if_a_large_file_cannot_be_copied_to_its_name(gcs_bucket, gcs_proxy):
    gcs_proxy.misbehave = lambda handler, seen: (
        seen.operation == "Rewrite" and gcs_proxy.refuse(handler, 403, "forbidden")
    )
    with pytest.raises(StorageError):
        store(gcs_storage(through(gcs_bucket, gcs_proxy)), LARGE)
    assert eventually(lambda: gcs_bucket.keys() == [])


def test_what_can_be_deleted_of_a_failed_upload_is_deleted(gcs_bucket, gcs_proxy, caplog):
    failures = [True]

    def forbid(handler, seen):
        if seen.operation == "Rewrite" or (seen.operation == "Delete" and failures):
            failures[:] = [] if seen.operation == "Delete" else failures
            return gcs_proxy.refuse(handler, 403, "forbidden")
        return False

    gcs_proxy.misbehave = forbid
    with pytest.raises(StorageError):
        store(gcs_storage(through(gcs_bucket, gcs_proxy)), LARGE)
    assert eventually(lambda: len(gcs_bucket.keys()) == 1)
    (left,) = gcs_bucket.keys()
    assert left.startswith(".staging/")
    assert f"{left} of a failed upload may stay" in caplog.text


@pytest.mark.parametrize("size", [40, len(LARGE)], ids=["small", "large"])
def test_a_file_that_is_damaged_on_its_way_is_refused(
    emulated, emulated_bucket, emulator_proxy, size
):
    def damage(handler, seen):
        handler.body = handler.body.replace(b"xxxxxxxx", b"xxxYxxxx", 1)
        return False

    emulator_proxy.misbehave = damage
    with pytest.raises(StorageError):
        store(emulated, b"x" * size, unique=True)
    assert eventually(lambda: emulated_bucket.keys() == [])


def test_a_checksum_travels_with_every_file(watched, gcs_proxy):
    bodies = []
    gcs_proxy.misbehave = lambda handler, seen: bodies.append(handler.body)
    store(watched, b"123456789", "small", unique=True)
    assert b'"crc32c": "4waSgw=="' in bodies[0]
    store(watched, LARGE, "large", unique=True)
    assert [seen.headers.get("X-Goog-Hash") for seen in gcs_proxy.seen[1:]] == [
        None,
        None,
        None,
        "crc32c=" + watched.bucket.find("large").crc32c,
    ]


def test_nothing_is_known_about_the_files_of_a_missing_bucket(watched, gcs_proxy):
    gcs_proxy.misbehave = refusing(404, "The specified bucket does not exist.")(gcs_proxy)
    for question in (watched.exists, watched.delete, watched.open):
        with pytest.raises(StorageError):
            question("story.txt")
    with pytest.raises(StorageError):
        list(watched.files())


def test_a_failure_in_a_batch_is_reported_and_the_others_are_deleted(emulated, emulator_proxy):
    store(emulated, name="a.txt", unique=True)
    answers = (
        b"--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n\r\n"
        b"--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 403 Forbidden\r\n"
        b"Content-Type: application/json\r\n\r\n{}\r\n"
        b"--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 404 Not Found\r\n"
        b"Content-Type: application/json\r\n\r\n{}\r\n--b--\r\n"
    )
    headers = [("Content-Type", "multipart/mixed; boundary=b")]
    emulator_proxy.misbehave = lambda handler, seen: (
        seen.operation == "Batch"
        and (emulator_proxy.answer(handler, 200, answers, headers) or True)
    )
    failed = emulated.delete_many(["a.txt", "b.txt", "c.txt"])
    assert list(failed) == ["b.txt"]
    assert "b.txt: 403" in str(failed["b.txt"])


def test_all_files_of_a_batch_that_fails_are_reported(emulated, emulator_proxy):
    emulator_proxy.misbehave = refusing(503, "backendError")(emulator_proxy)
    assert list(emulated.delete_many(["a.txt", "b.txt"])) == ["a.txt", "b.txt"]


def test_the_heartbeat_is_true_while_google_works(make_app, gcs_bucket):
    app = make_app(**gcs_bucket.settings())
    assert app.get("/__heartbeat__").json["attachments"] is True
    assert gcs_bucket.keys() == []


def test_a_token_is_waited_for_no_longer_than_google(gcs_bucket, silence, tmp_path):
    path = tmp_path / "key.json"
    tokens = TokenServer()
    tokens.write_key(path)
    tokens.stop()
    account = json.loads(path.read_text()) | {"token_uri": f"{silence.url}/token"}
    path.write_text(json.dumps(account))
    storage = gcs_storage(gcs_bucket.options, credentials=str(path), timeout=1)
    began = time.monotonic()
    with pytest.raises(StorageError, match="timed out"):
        store(storage, unique=True)
    assert time.monotonic() - began < 10


def test_requests_are_made_with_the_token_of_the_service_account(gcs_bucket, gcs_proxy, tmp_path):
    path = tmp_path / "key.json"
    tokens = TokenServer()
    tokens.write_key(path)
    store(gcs_storage(through(gcs_bucket, gcs_proxy), credentials=str(path)), LARGE)
    tokens.stop()
    assert tokens.given == 1
    assert {seen.headers.get("Authorization") for seen in gcs_proxy.seen} == {"Bearer token"}
