"""Files that are compressed while they are received."""

import gzip
import hashlib
import io
import random
import threading

import pytest

from kinto_attachment.background import Threads
from kinto_attachment.form.gzip import GzipWriter
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.small import SmallFile
from tests.support.forms import file_part, multipart, part
from tests.support.s3 import eventually
from tests.support.threads import busy_threads
from tests.support.users import ALICE, BOB


CONTENT = b"once upon a time " * 100_000
DESCRIPTION = {
    "filename": "story.txt",
    "hash": hashlib.sha256(CONTENT).hexdigest(),
    "mimetype": "text/plain",
    "size": len(CONTENT),
}


@pytest.fixture
def app(share_app):
    yield share_app(attachment__gzipped="true")
    # Also those that delete the files of a request, after its response.
    assert eventually(lambda: busy_threads() == 0), "a thread works on"


def test_the_stored_file_is_compressed_and_the_original_described(app):
    attachment = app.upload(file_part(CONTENT)).json
    stored = app.stored(attachment)
    assert gzip.decompress(stored) == CONTENT
    assert len(stored) < len(CONTENT) / 50
    assert attachment == {
        "filename": "story.txt.gz",
        "hash": hashlib.sha256(stored).hexdigest(),
        "location": attachment["location"],
        "mimetype": "application/x-gzip",
        "size": len(stored),
        "original": DESCRIPTION,
    }
    assert attachment["location"].endswith(".txt.gz")
    assert app.record()["attachment"] == attachment
    assert app.files() == {attachment["location"]: stored}


@pytest.mark.parametrize("content", [b"", b"x", random.Random(1).randbytes(3_000_000)])
def test_any_content_is_what_it_was_when_decompressed(app, content):
    attachment = app.upload(file_part(content)).json
    assert gzip.decompress(app.stored(attachment)) == content
    assert attachment["original"]["size"] == len(content)


def test_equal_files_give_equal_bytes_without_time_and_name(app):
    first = app.stored(app.upload(file_part(CONTENT, "a.txt")).json)
    second = app.stored(app.upload(file_part(CONTENT, "b.txt")).json)
    assert first == second
    # RFC 1952: no flags, so no name, and no time.
    assert first[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"


def test_names_that_are_kept_get_the_extension(share_app):
    app = share_app(attachment__gzipped="true", attachment__randomize="false")
    assert app.upload().json["location"] == "story.txt.gz"
    second = "/buckets/blog/collections/photos/records/second/attachment"
    assert app.upload(url=second).json["location"] == "story-1.txt.gz"
    attachment = app.upload(file_part(filename="x" * 300 + ".txt")).json
    assert attachment["location"] == "x" * 248 + ".txt.gz"
    assert attachment["filename"] == "x" * 300 + ".txt.gz"


def test_a_collection_may_be_compressed_and_another_not(share_app):
    app = share_app(attachment__resources__blog__photos__gzipped="true")
    app.create_collection(collection="others")
    assert "original" in app.upload().json
    other = app.upload(url="/buckets/blog/collections/others/records/first/attachment").json
    assert "original" not in other
    assert app.stored(other) == b"once upon a time"


def test_extension_and_size_rules_are_for_what_was_sent(make_app):
    app = make_app(
        attachment__gzipped="true", attachment__extensions="txt", attachment__max_size_bytes="1000"
    )
    app.upload(file_part(b"x" * 1001), status=413)
    app.upload(file_part(filename="story.txt.gz"), status=400)
    app.upload(file_part(random.Random(1).randbytes(1000)), status=201)


@pytest.mark.parametrize(
    "parts",
    [
        [file_part(CONTENT), part("data", "nonsense")],
        [file_part(CONTENT), file_part()],
        [file_part(CONTENT), part("permissions", '{"fly": []}')],
    ],
)
def test_nothing_is_left_of_a_refused_upload(app, parts):
    app.upload(*parts, status=400)
    assert app.files() == {}
    assert app.links() == []


def test_nothing_is_left_of_an_upload_that_is_cut_off(app):
    body = multipart(file_part(CONTENT))
    app.upload_raw(io.BytesIO(body[:-100_000]), len(body), status=400)
    assert app.files() == {}


def test_a_request_that_is_not_allowed_starts_no_thread(app, monkeypatch):
    monkeypatch.setattr("kinto_attachment.background.THREADS", None)
    app.upload(headers=BOB, status=403)
    monkeypatch.undo()
    assert app.get("/", headers=ALICE).json


def test_nothing_is_left_of_an_upload_if_no_thread_can_start(app, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("kinto_attachment.background.THREADS", Threads())
    monkeypatch.setattr(threading.Thread, "start", start)
    app.upload(status=500)
    assert app.files() == {}


@pytest.mark.parametrize("content", [b"x", random.Random(1).randbytes(3_000_000)])
def test_a_storage_that_fails_is_a_503(app, monkeypatch, content):
    def full(self, chunk):
        raise StorageError("No space left on device")

    monkeypatch.setattr(SmallFile, "write", full)
    app.upload(file_part(content), status=503)
    assert app.files() == {}


def test_the_bytes_do_not_depend_on_the_pieces_they_come_in():
    content = random.Random(1).randbytes(500_000).hex().encode()

    def compressed(size):
        written = []
        writer = GzipWriter(written.append, 6)
        for start in range(0, len(content), size):
            writer.write(content[start : start + size])
        writer.close()
        return b"".join(written)

    assert len({compressed(size) for size in (97, 5000, 65536, 1_000_000)}) == 1


def test_few_pieces_wait_to_be_compressed():
    unblocked = threading.Event()
    given = []
    writer = GzipWriter(lambda chunk: unblocked.wait(), 1)

    def write():
        for _ in range(100):
            writer.write(random.Random(1).randbytes(100_000))
            given.append(1)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert len(given) < 20
    unblocked.set()
    thread.join()
    writer.close()
    assert len(given) == 100
