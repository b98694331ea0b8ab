"""Resumable uploads to Google Cloud Storage: pieces, of which one object is composed."""

import base64
import gzip
import hashlib
import io
import os

import pytest

from kinto_attachment.resumable.completion import Completion
from kinto_attachment.storage import resumable_hash
from kinto_attachment.storage.gcs.partial import GCSPartialFile
from tests.support.app import RECORD
from tests.support.gcs import MIB
from tests.support.resumable import Client, states
from tests.support.users import ALICE


PART_BYTES = 256 * 1024
CONTENT = os.urandom(2 * PART_BYTES + 1000)


@pytest.fixture
def make_client(make_app, gcs_bucket):
    def make(**options):
        options = {"gcloud__part_size_bytes": PART_BYTES, **options}
        return Client(make_app(**gcs_bucket.settings(**options)))

    return make


@pytest.fixture
def client(make_client):
    return make_client()


def stored(client, bucket):
    """Return the content of the record's file, the only object in the bucket."""
    client.app.wait_for_deletions()
    location = client.app.record()["attachment"]["location"]
    (key,) = bucket.keys()
    assert location == bucket.location(key)
    return bucket.content(key)


def is_clear(client, bucket):
    client.app.wait_for_deletions()
    return (bucket.keys(), states(client.app)) == ([], [])


@pytest.mark.parametrize(
    ("has_hash", "options"),
    [(True, {}), (False, {"randomize": "false"})],
    ids=["hash goes on, random name", "read again, given name"],
)
def test_a_file_comes_in_pieces_of_any_size(
    make_client, gcs_bucket, monkeypatch, has_hash, options
):
    if not has_hash:
        monkeypatch.setattr(resumable_hash, "PySha256", None)
    client = make_client(**options)
    path = client.begun(len(CONTENT))
    offset = 0
    for size in (3, PART_BYTES - 3, 1, PART_BYTES + 1, len(CONTENT)):
        client.patch(path, offset, CONTENT[offset : offset + size])
        offset = min(offset + size, len(CONTENT))
        assert client.offset(path) == offset
    assert stored(client, gcs_bucket) == CONTENT
    attachment = client.app.record()["attachment"]
    assert attachment["hash"] == hashlib.sha256(CONTENT).hexdigest()
    assert attachment["size"] == len(CONTENT)


def test_a_file_may_have_no_bytes(client, gcs_bucket):
    client.begin(0)
    assert stored(client, gcs_bucket) == b""


def test_pieces_are_composed_so_that_the_state_stays_short(client, gcs_bucket):
    content = os.urandom(70)
    path = client.begun(len(content))
    for offset in range(len(content) - 1):
        client.patch(path, offset, content[offset : offset + 1])
    ((pieces,),) = [
        [part["pieces"] for part in state["parts"].values()] for state in states(client.app)
    ]
    assert [piece[1:] for piece in pieces] == [[32, 1], [31, 1], *[[1, 0]] * 6]
    # Those that were composed are deleted with the next piece.
    assert len(gcs_bucket.keys()) == len(pieces)
    client.patch(path, len(content) - 1, content[-1:])
    assert stored(client, gcs_bucket) == content


def test_what_a_vanished_client_has_sent_is_kept(client, gcs_bucket):
    path = client.begun(len(CONTENT))
    part = CONTENT[: PART_BYTES + 7]
    assert client.stream(path, 0, io.BytesIO(part), len(CONTENT)).status_code == 400
    assert client.offset(path) == len(part)
    client.patch(path, len(part), CONTENT[len(part) :])
    assert stored(client, gcs_bucket) == CONTENT


def test_pieces_that_are_not_verified_do_not_count_and_go_with_the_next_one(client, gcs_bucket):
    path = client.begun(len(CONTENT))
    client.patch(path, 0, CONTENT[:5])
    wrong = base64.b64encode(hashlib.sha1(b"other").digest()).decode()
    checksum = {"Upload-Checksum": f"sha1 {wrong}"}
    for _ in range(2):
        client.patch(path, 5, os.urandom(2 * PART_BYTES + 5), checksum, status=460)
        assert client.offset(path) == 5
    client.patch(path, 5, CONTENT[5:10])
    assert len(gcs_bucket.keys()) == 2
    client.patch(path, 10, CONTENT[10:])
    assert stored(client, gcs_bucket) == CONTENT


def test_nothing_is_left_of_a_request_that_was_superseded(client, gcs_bucket):
    content = os.urandom(3 * MIB)
    path = client.begun(len(content))
    offsets = []

    class Stalled(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > MIB and not offsets:
                offsets.append(client.offset(path))
            return super().read(size)

    assert client.stream(path, 0, Stalled(content), len(content)).status_code == 409
    client.patch(path, offsets[0], content[offsets[0] :])
    assert stored(client, gcs_bucket) == content


def test_a_file_is_compressed_at_the_end(make_client, gcs_bucket):
    client = make_client(gzipped="true")
    client.completed(CONTENT)
    assert gzip.decompress(stored(client, gcs_bucket)) == CONTENT


def test_a_file_with_another_digest_goes(client, gcs_bucket):
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    path = client.begun(len(CONTENT), headers={"Repr-Digest": f"sha-256=:{digest}:"})
    client.patch(path, 0, CONTENT, status=400)
    assert is_clear(client, gcs_bucket)


@pytest.mark.parametrize("step", ["publish", "_attach"])
@pytest.mark.parametrize("options", [{"randomize": "false"}, {"gzipped": "true"}], ids=str)
def test_the_last_byte_is_asked_for_again(make_client, gcs_bucket, monkeypatch, step, options):
    client = make_client(**options)
    path = client.begun(len(CONTENT))
    owner = GCSPartialFile if step == "publish" else Completion
    function, calls = getattr(owner, step), []

    def lose_the_answer(*args):
        # Kinto's storage in memory would not undo the change of the record.
        result = function(*args) if calls or step == "publish" else None
        calls.append(step)
        if len(calls) == 1:
            raise OSError("the answer is lost")
        return result

    monkeypatch.setattr(owner, step, lose_the_answer)
    client.patch(path, 0, CONTENT, status=500)
    assert client.offset(path) == len(CONTENT) - 1
    client.app.get(RECORD, headers=ALICE, status=404)
    client.patch(path, len(CONTENT) - 1, CONTENT[-1:])
    content = stored(client, gcs_bucket)
    assert (gzip.decompress(content) if "gzipped" in options else content) == CONTENT


@pytest.mark.parametrize("size", [5, PART_BYTES + 5])
def test_nothing_is_left_of_what_is_given_up(client, gcs_bucket, size):
    path = client.begun(len(CONTENT))
    client.patch(path, 0, CONTENT[:size])
    client.patch(path, size, b"more")
    assert gcs_bucket.keys() != []
    client.terminate(path)
    assert is_clear(client, gcs_bucket)


def test_nothing_is_left_of_a_failed_creation(client, gcs_bucket, monkeypatch):
    monkeypatch.setattr(GCSPartialFile, "publish", lambda *args: 1 / 0)
    client.begin(len(CONTENT), body=CONTENT, status=500)
    assert is_clear(client, gcs_bucket)


def test_nothing_is_left_of_a_request_that_goes_on_after_the_end(client, gcs_bucket):
    content = os.urandom(3 * MIB)
    path = client.begun(len(content))

    class Stalled(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > MIB and states(client.app):
                client.terminate(path)
                client.app.wait_for_deletions()
            return super().read(size)

    assert client.stream(path, 0, Stalled(content), len(content)).status_code == 404
    assert is_clear(client, gcs_bucket)
