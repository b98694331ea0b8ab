"""The bytes of an upload: none that was acknowledged is lost, and one request at a time writes."""

import base64
import hashlib
import io

import pytest
from kinto.core.storage.exceptions import BackendError

from kinto_attachment import errors
from kinto_attachment.form.body import CHUNK_BYTES
from kinto_attachment.http.bodies import MAX_AHEAD_BYTES
from kinto_attachment.resumable import receiving
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.partial import LocalPartialFile
from tests.support.resumable import CONTENT, states


BIG = CONTENT * (MAX_AHEAD_BYTES // 8)
"""Twice as much as is read ahead, before a request is looked at."""
HALF = len(BIG) // 2


class Gone(io.RawIOBase):
    """A body whose client goes away, which servers report in different ways."""

    def __init__(self, content, error=None):
        self._content = io.BytesIO(content)
        self._error = error

    def read(self, size=-1):
        chunk = self._content.read(min(size, 3))
        if not chunk and self._error:
            raise self._error
        return chunk


class Meanwhile(io.RawIOBase):
    """A body that does something between its first and its second half."""

    def __init__(self, content, action):
        self._halves = [io.BytesIO(content[:HALF]), io.BytesIO(content[HALF:])]
        self._action = action

    def read(self, size=-1):
        if chunk := self._halves[0].read(size):
            return chunk
        if len(self._halves) == 1:
            return b""
        del self._halves[0]
        self._action()
        return self.read(size)


class Watched(io.BytesIO):
    """A body that looks at something each time it is read."""

    def __init__(self, content, look):
        super().__init__(content)
        self._look = look

    def read(self, size=-1):
        self._look()
        return super().read(size)


def sha1(content):
    return {"Upload-Checksum": "sha1 " + base64.b64encode(hashlib.sha1(content).digest()).decode()}


@pytest.mark.parametrize("error", [None, OSError("gone")], ids=["nothing", "error"])
def test_what_a_vanished_client_has_sent_is_kept(app, client, error):
    path = client.begun()
    assert client.stream(path, 0, Gone(CONTENT[:10], error), 16).status_code == 400
    assert client.offset(path) == 10
    client.patch(path, 10, CONTENT[10:])
    assert app.stored(app.record()["attachment"]) == CONTENT


def test_a_large_part_is_kept(app, client):
    content = b"x" * (2 * CHUNK_BYTES + 5)
    path = client.begun(len(content) + 1)
    assert client.stream(path, 0, io.BytesIO(content), len(content) + 1).status_code == 400
    assert client.offset(path) == len(content)


def test_what_cannot_be_verified_is_not_kept(client):
    path = client.begun()
    client.patch(path, 0, CONTENT[:5])
    response = client.stream(path, 5, Gone(CONTENT[5:10]), 11, sha1(CONTENT[5:]))
    assert response.status_code == 400
    assert client.offset(path) == 5


def test_a_content_digest_is_compared(client):
    path = client.begun()
    digest = base64.b64encode(hashlib.sha256(CONTENT[:5]).digest()).decode()
    header = {"Content-Digest": f"sha-256=:{digest}:"}
    client.patch(path, 0, CONTENT[:4], header, status=460)
    assert client.offset(path) == 0
    client.patch(path, 0, CONTENT[:5], header)
    assert client.offset(path) == 5


def test_bytes_that_were_not_verified_do_not_count_after_a_kill(app, client, monkeypatch):
    path = client.begun()
    client.patch(path, 0, CONTENT[:5])
    monkeypatch.setattr(LocalPartialFile, "rewind", lambda *args: None)
    monkeypatch.setattr(receiving.Reception, "_keep", lambda *args: None)
    client.patch(path, 5, CONTENT[5:10], sha1(b"other"), status=460)
    monkeypatch.undo()
    partial = app.folder / ".uploads" / path.rsplit("/", 1)[1]
    assert partial.read_bytes() == CONTENT[:10]
    # Whether the client looks first, or not.
    client.patch(path, 10, CONTENT[10:], status=409)
    client.patch(path, 5, CONTENT[5:])
    assert app.stored(app.record()["attachment"]) == CONTENT


def test_head_forgets_bytes_that_were_not_verified(app, client, monkeypatch):
    path = client.begun()
    monkeypatch.setattr(LocalPartialFile, "rewind", lambda *args: None)
    monkeypatch.setattr(receiving.Reception, "_keep", lambda *args: None)
    client.patch(path, 0, CONTENT[:10], sha1(b"other"), status=460)
    monkeypatch.undo()
    assert client.offset(path) == 0


@pytest.mark.parametrize("headers", [{}, sha1(BIG)], ids=["plain", "verified"])
def test_head_takes_over_from_a_stalled_request(app, client, headers):
    path = client.begun(len(BIG))
    offsets = []
    stalled = Meanwhile(BIG, lambda: offsets.append(client.offset(path)))
    assert client.stream(path, 0, stalled, len(BIG), headers).status_code == 409
    assert offsets == [0 if headers else HALF]
    assert client.offset(path) == offsets[0]
    client.patch(path, offsets[0], BIG[offsets[0] :])
    assert app.stored(app.record()["attachment"]) == BIG


def test_a_newer_request_takes_over_from_a_stalled_one(app, client):
    path = client.begun(len(BIG))
    newer = []
    stalled = Meanwhile(BIG, lambda: newer.append(client.patch(path, HALF, BIG[HALF:])))
    assert client.stream(path, 0, stalled, len(BIG)).status_code == 409
    assert [response.status_code for response in newer] == [204]
    assert app.stored(app.record()["attachment"]) == BIG
    assert client.offset(path) == len(BIG)


def test_a_request_at_a_wrong_offset_takes_nothing_over(app, client):
    path = client.begun(len(BIG))
    stalled = Meanwhile(BIG, lambda: client.patch(path, 3, b"x", status=409))
    assert client.stream(path, 0, stalled, len(BIG)).status_code == 204
    assert app.stored(app.record()["attachment"]) == BIG


def test_a_stalled_request_writes_nothing_after_the_end(app, client):
    path = client.begun(len(BIG) + 1)

    def terminate():
        client.terminate(path)
        app.wait_for_deletions()

    stalled = Meanwhile(BIG, terminate)
    assert client.stream(path, 0, stalled, len(BIG)).status_code == 409
    assert (app.files(), states(app)) == ({}, [])


def test_a_long_request_does_not_expire(app, client, monkeypatch):
    monkeypatch.setattr(receiving, "MAX_SECONDS_BETWEEN_SAVES", 0)
    path = client.begun(len(BIG) + 1)
    before = []
    client.stream(path, 0, Meanwhile(BIG, lambda: before.extend(states(app))), len(BIG))
    (after,) = states(app)
    assert after["last_modified"] > before[0]["last_modified"]
    assert after["expires"] >= before[0]["expires"]


def test_a_body_that_is_encoded_is_refused(client):
    path = client.begun()
    client.patch(path, 0, b"x", {"Content-Encoding": "gzip"}, status=415)
    client.begin(headers={"Content-Encoding": "gzip"}, body=b"x", status=415)


def test_a_disk_that_is_full_keeps_what_was_written(app, client, monkeypatch):
    path = client.begun()
    written = []

    def write_half(file, left):
        if written:
            raise OSError(28, "No space left on device")
        written.append(bytes(left[:5]))
        return real(file, left[:5])

    from kinto_attachment.storage import partial

    real = partial.os.write
    monkeypatch.setattr(partial.os, "write", write_half)
    client.patch(path, 0, CONTENT, status=503)
    monkeypatch.undo()
    assert client.offset(path) == 5
    client.patch(path, 5, CONTENT[5:])
    assert app.stored(app.record()["attachment"]) == CONTENT


FAILURES = {
    "storage": (lambda uploads: uploads.files, "resume", StorageError("down")),
    "database": (lambda uploads: uploads._storage, "get", BackendError("down")),
    "conflict": (lambda uploads: uploads, "save", errors.superseded()),
}


@pytest.mark.parametrize(("owner", "name", "error"), FAILURES.values(), ids=FAILURES)
def test_a_client_that_asks_for_the_offset_retries_after_any_failure(
    app, client, monkeypatch, owner, name, error
):
    def fail(*args, **kwargs):
        raise error

    path = client.begun()
    client.patch(path, 0, CONTENT[:5])
    with monkeypatch.context() as patched:
        patched.setattr(owner(app.registry.attachments.uploads), name, fail)
        client.head(path, status=423)
    assert client.offset(path) == 5


def test_a_small_body_is_read_before_the_upload_is_looked_at(app, client):
    path = client.begun(len(BIG))
    seen = []
    look = lambda: seen.append(states(app)[0]["generation"])  # noqa: E731
    client.stream(path, 0, Watched(BIG[:HALF], look), HALF)
    assert set(seen) == {0}
    del seen[:]
    client.stream(path, HALF, Watched(BIG[HALF:-1] + BIG, look), HALF + 1)
    assert set(seen) == {1}


def test_the_body_of_a_refused_request_is_read(client):
    path = client.begun(len(BIG))
    body = io.BytesIO(BIG)
    assert client.stream(path, 5, body, len(BIG)).status_code == 409
    assert body.tell() == len(BIG)
