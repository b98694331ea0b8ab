"""Resumable uploads to a bucket: parts, and what is less than a part."""

import base64
import gzip
import hashlib
import io
import os

import pytest
from kinto.core.storage.exceptions import BackendError

from kinto_attachment.http.transactions import Transactions
from kinto_attachment.resumable.completion import Completion
from kinto_attachment.storage import resumable_hash
from kinto_attachment.storage.s3.partial import S3PartialFile
from tests.support.app import RECORD
from tests.support.resumable import Client, states
from tests.support.s3 import MIB, PART_BYTES
from tests.support.users import ALICE


CONTENT = os.urandom(2 * PART_BYTES + MIB)


@pytest.fixture
def make_client(make_app, bucket):
    def make(**options):
        app = make_app(**bucket.settings(**options))
        return Client(app)

    return make


@pytest.fixture
def client(make_client):
    return make_client()


def stored(client, bucket):
    """Return the content of the record's file, the only object in the bucket."""
    location = client.app.record()["attachment"]["location"]
    (key,) = bucket.keys()
    assert location == bucket.location(key)
    assert bucket.uploads() == []
    return bucket.content(key)


@pytest.mark.parametrize("has_hash", [True, False], ids=["hash goes on", "read again"])
@pytest.mark.parametrize("options", [{}, {"randomize": "false"}], ids=["random", "named"])
def test_a_file_comes_in_pieces_of_any_size(make_client, bucket, monkeypatch, has_hash, options):
    if not has_hash:
        monkeypatch.setattr(resumable_hash, "PySha256", None)
    client = make_client(**options)
    path = client.begun(len(CONTENT))
    offset = 0
    for size in (3, PART_BYTES - 3, 1, PART_BYTES + 1, len(CONTENT)):
        client.patch(path, offset, CONTENT[offset : offset + size])
        offset = min(offset + size, len(CONTENT))
        assert client.offset(path) == offset
        assert len(bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", ())) <= 3
    client.app.wait_for_deletions()
    assert stored(client, bucket) == CONTENT
    attachment = client.app.record()["attachment"]
    assert attachment["hash"] == hashlib.sha256(CONTENT).hexdigest()
    assert attachment["size"] == len(CONTENT)


def test_a_small_and_an_empty_file_take_no_multipart_upload(client, bucket):
    client.completed(b"small")
    assert stored(client, bucket) == b"small"
    client.begin(0)
    client.app.wait_for_deletions()
    assert stored(client, bucket) == b""


def test_what_a_vanished_client_has_sent_is_kept(client, bucket):
    path = client.begun(len(CONTENT))
    part = CONTENT[: PART_BYTES + 7]
    assert client.stream(path, 0, io.BytesIO(part), len(CONTENT)).status_code == 400
    assert client.offset(path) == len(part)
    client.patch(path, len(part), CONTENT[len(part) :])
    assert stored(client, bucket) == CONTENT


def test_parts_that_are_not_verified_do_not_count(client, bucket):
    path = client.begun(len(CONTENT))
    client.patch(path, 0, CONTENT[:5])
    wrong = base64.b64encode(hashlib.sha1(b"other").digest()).decode()
    checksum = {"Upload-Checksum": f"sha1 {wrong}"}
    client.patch(path, 5, os.urandom(PART_BYTES + 5), checksum, status=460)
    assert client.offset(path) == 5
    client.patch(path, 5, CONTENT[5:])
    assert stored(client, bucket) == CONTENT


def test_a_file_is_compressed_at_the_end(make_client, bucket):
    client = make_client(gzipped="true")
    client.completed(CONTENT)
    assert gzip.decompress(stored(client, bucket)) == CONTENT


def test_a_file_with_another_digest_goes(client, bucket):
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    path = client.begun(len(CONTENT), headers={"Repr-Digest": f"sha-256=:{digest}:"})
    client.patch(path, 0, CONTENT, status=400)
    client.app.wait_for_deletions()
    assert (bucket.keys(), bucket.uploads(), states(client.app)) == ([], [], [])


@pytest.mark.parametrize("step", ["_finish", "_attach"])
@pytest.mark.parametrize("options", [{}, {"randomize": "false"}, {"gzipped": "true"}], ids=str)
def test_the_last_byte_is_asked_for_again(make_client, bucket, monkeypatch, step, options):
    client = make_client(**options)
    path = client.begun(len(CONTENT))
    owner = S3PartialFile if step == "_finish" else Completion
    function, calls = getattr(owner, step), []

    def lose_the_answer(*args):
        # Kinto's storage in memory would not undo the change of the record.
        result = function(*args) if calls or step == "_finish" else None
        calls.append(step)
        if len(calls) == 1:
            raise OSError("the answer is lost")
        return result

    monkeypatch.setattr(owner, step, lose_the_answer)
    client.patch(path, 0, CONTENT, status=500)
    assert client.offset(path) == len(CONTENT) - 1
    client.app.get(RECORD, headers=ALICE, status=404)
    client.patch(path, len(CONTENT) - 1, CONTENT[-1:])
    client.app.wait_for_deletions()
    content = stored(client, bucket)
    assert (gzip.decompress(content) if "gzipped" in options else content) == CONTENT


@pytest.mark.parametrize("size", [5, PART_BYTES + 5])
def test_nothing_is_left_of_what_is_given_up(client, bucket, size):
    path = client.begun(len(CONTENT))
    client.patch(path, 0, CONTENT[:size])
    client.patch(path, size, b"more")
    assert bucket.keys() + bucket.uploads() != []
    client.terminate(path)
    client.app.wait_for_deletions()
    assert (bucket.keys(), bucket.uploads(), states(client.app)) == ([], [], [])


def test_nothing_is_left_of_a_failed_creation(client, bucket, monkeypatch):
    monkeypatch.setattr(S3PartialFile, "publish", lambda *args: 1 / 0)
    client.begin(len(CONTENT), body=CONTENT, status=500)
    client.app.wait_for_deletions()
    assert (bucket.keys(), bucket.uploads(), states(client.app)) == ([], [], [])


@pytest.mark.parametrize(("algorithm", "is_read"), [("sha-256", False), ("sha-512", True)])
def test_a_file_is_read_again_for_another_digest_only(
    client, bucket, monkeypatch, algorithm, is_read
):
    opened = []
    open_ = S3PartialFile.open
    monkeypatch.setattr(S3PartialFile, "open", lambda self: opened.append(self) or open_(self))
    digest = hashlib.new(algorithm.replace("-", ""), CONTENT).digest()
    headers = {"Repr-Digest": f"{algorithm}=:{base64.b64encode(digest).decode()}:"}
    client.completed(CONTENT, headers=headers)
    assert stored(client, bucket) == CONTENT
    assert bool(opened) == is_read


def test_nothing_is_left_of_a_request_that_was_superseded(client, bucket):
    path = client.begun(len(CONTENT))
    offsets = []

    class Stalled(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > MIB and not offsets:
                # It begins a multipart upload after that, which no state knows.
                offsets.append(client.offset(path))
            return super().read(size)

    assert client.stream(path, 0, Stalled(CONTENT), len(CONTENT)).status_code == 409
    client.patch(path, offsets[0], CONTENT[offsets[0] :])
    client.app.wait_for_deletions()
    assert stored(client, bucket) == CONTENT


@pytest.mark.parametrize("size", [5, PART_BYTES + 5], ids=["small", "part"])
def test_what_is_saved_although_nobody_was_told_is_not_deleted(client, bucket, monkeypatch, size):
    path = client.begun(len(CONTENT))
    digest = base64.b64encode(hashlib.sha1(CONTENT[:size]).digest()).decode()
    commit, commits = Transactions._commit, []

    def lose_the_answer(transactions):
        commit(transactions)
        commits.append(1)
        if len(commits) == 2:
            raise BackendError(original=OSError("the answer is lost"))

    with monkeypatch.context() as context:
        context.setattr(Transactions, "_commit", lose_the_answer)
        checksum = {"Upload-Checksum": f"sha1 {digest}"}
        client.patch(path, 0, CONTENT[:size], checksum, status=503)
    assert client.offset(path) == size
    client.patch(path, size, CONTENT[size:])
    client.app.wait_for_deletions()
    assert stored(client, bucket) == CONTENT


@pytest.mark.parametrize("is_verified", [False, True])
def test_nothing_is_left_of_a_request_that_goes_on_after_the_end(client, bucket, is_verified):
    path = client.begun(len(CONTENT))
    headers = {}
    if is_verified:
        digest = base64.b64encode(hashlib.sha1(CONTENT).digest()).decode()
        headers = {"Upload-Checksum": f"sha1 {digest}"}

    class Stalled(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > MIB and states(client.app):
                client.terminate(path)
                client.app.wait_for_deletions()
            return super().read(size)

    assert client.stream(path, 0, Stalled(CONTENT), len(CONTENT), headers).status_code == 404
    assert (bucket.keys(), bucket.uploads(), states(client.app)) == ([], [], [])
