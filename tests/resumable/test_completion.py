"""The end of an upload: the file of a record, or nothing."""

import base64
import gzip
import hashlib
import itertools

import pytest

from kinto_attachment.resumable import completion
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.partial import LocalPartialFile
from tests.support.app import RECORD
from tests.support.resumable import CONTENT, Client, states
from tests.support.users import ALICE


DIGEST = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()


def test_the_record_gets_what_a_form_gives_it(app, client):
    expected = app.upload(url=f"{RECORD}/attachment").json
    path = client.begun(filetype="text/plain")
    client.patch(path, 0, CONTENT[:5])
    response = client.patch(path, 5, CONTENT[5:])
    attachment = app.record()["attachment"]
    assert attachment == {**expected, "location": attachment["location"]}
    assert app.files() == {attachment["location"]: CONTENT}
    assert [link["location"] for link in app.links()] == [attachment["location"]]
    record = app.get(RECORD, headers=ALICE)
    assert response.headers["ETag"] == record.headers["ETag"]
    assert response.headers["Last-Modified"] == record.headers["Last-Modified"]
    assert response.headers["Content-Location"] == f"http://localhost/v1{RECORD}"


def test_all_at_once_says_what_was_made(app, client):
    response = client.begin(body=CONTENT)
    assert response.headers["ETag"] == app.get(RECORD, headers=ALICE).headers["ETag"]
    assert response.headers["Content-Location"] == f"http://localhost/v1{RECORD}"
    assert app.stored(app.record()["attachment"]) == CONTENT


def test_an_empty_file_is_attached_at_once(app, client):
    path = client.begun(0)
    assert app.stored(app.record()["attachment"]) == b""
    assert client.offset(path) == 0


@pytest.mark.parametrize("status", [200, 201])
def test_the_attachment_is_returned_if_asked_for(app, client, status):
    prefer = {"Prefer": "respond-async, return=representation"}
    if status == 201:
        response = client.begin(body=CONTENT, headers=prefer)
    else:
        response = client.patch(client.begun(), 0, CONTENT, prefer, status=200)
    assert response.json == app.record()["attachment"]
    assert response.headers["Preference-Applied"] == "return=representation"


def test_data_and_permissions_are_set(app, client):
    data = '{"title": "Story", "attachment": {"x": 1}, "last_modified": 5, "schema": 1}'
    client.completed(data=data, permissions='{"read": ["system.Everyone"]}')
    answer = app.get(RECORD, headers=ALICE).json
    assert answer["data"]["title"] == "Story"
    assert answer["data"]["attachment"]["filename"] == "story.txt"
    assert "schema" not in answer["data"]
    assert answer["permissions"]["read"] == ["system.Everyone"]


def test_a_file_is_compressed_at_the_end(share_app):
    app = share_app(attachment__gzipped="true")
    expected = app.upload(url=f"{RECORD}/attachment").json
    client = Client(app)
    client.completed(filetype="text/plain")
    attachment = app.record()["attachment"]
    assert attachment == {**expected, "location": attachment["location"]}
    assert gzip.decompress(app.stored(attachment)) == CONTENT
    assert list(app.files()) == [attachment["location"]]


def test_names_that_are_taken_get_a_number(share_app):
    app = share_app(attachment__randomize="false")
    for number in range(3):
        Client(app, record=f"{RECORD}{number}").completed(b"%d" % number)
    assert app.files() == {"story.txt": b"0", "story-1.txt": b"1", "story-2.txt": b"2"}


def test_a_name_that_is_taken_at_the_last_moment_is_left(share_app, monkeypatch):
    app = share_app(attachment__randomize="false")
    files = app.registry.attachments.files
    free_key = files._free_key
    late = iter(["story.txt"])
    monkeypatch.setattr(files, "_free_key", lambda key: next(late, None) or free_key(key))
    (app.folder / "story.txt").write_bytes(b"other")
    Client(app).completed()
    assert app.files() == {"story.txt": b"other", "story-1.txt": CONTENT}


# What is refused at the end


def is_gone(app, path, client):
    app.wait_for_deletions()
    client.head(path, status=404)
    assert states(app) == []
    return app.files()


def test_a_digest_of_the_whole_is_compared(app, client):
    client.completed(headers={"Repr-Digest": f"sha-256=:{DIGEST}:"})
    assert app.stored(app.record()["attachment"]) == CONTENT


def test_a_file_with_another_digest_goes(app, client):
    path = client.begun(headers={"Repr-Digest": f"sha-256=:{DIGEST}:"})
    client.patch(path, 0, CONTENT[::-1], status=400)
    assert is_gone(app, path, client) == {}
    app.get(RECORD, headers=ALICE, status=404)


def test_an_unreadable_digest_is_refused_at_once(app, client):
    client.begin(headers={"Repr-Digest": "sha-256=nonsense"}, status=400)
    assert states(app) == []


@pytest.mark.parametrize("has_body", [False, True])
def test_preconditions_are_checked_before_a_byte(app, client, has_body):
    app.upload(url=f"{RECORD}/attachment")
    before = app.state()
    for header in ({"If-None-Match": "*"}, {"If-Match": '"1"'}):
        client.begin(headers=header, status=412, body=CONTENT if has_body else None)
    assert (app.state(), states(app)) == (before, [])


@pytest.mark.parametrize("exists", [False, True])
def test_preconditions_are_checked_at_the_end(app, client, exists):
    condition = {"If-None-Match": "*"}
    if exists:
        app.upload(url=f"{RECORD}/attachment")
        condition = {"If-Match": app.get(RECORD, headers=ALICE).headers["ETag"]}
    path = client.begun(headers=condition)
    client.patch(path, 0, CONTENT[:5])
    app.put_json(RECORD, {"data": {"title": "changed"}}, headers=ALICE)
    client.patch(path, 5, CONTENT[5:], status=412)
    assert is_gone(app, path, client) == {}


def test_preconditions_that_hold_at_the_end_are_fulfilled(app, client):
    client.completed(headers={"If-None-Match": "*"})
    condition = {"If-Match": app.get(RECORD, headers=ALICE).headers["ETag"]}
    client.completed(b"other", headers=condition)
    assert app.stored(app.record()["attachment"]) == b"other"


def test_a_record_that_kinto_refuses_leaves_nothing(share_app):
    app = share_app(experimental_collection_schema_validation="true")
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    app.create_collection(schema=schema)
    client = Client(app)
    path = client.begun(data='{"title": 5}')
    client.patch(path, 0, CONTENT, status=400)
    assert is_gone(app, path, client) == {}


# What fails at the end, and is done again


def failing_once(monkeypatch, owner, name, error=None):
    """Have a method fail at its first call."""
    function = getattr(owner, name)
    calls = itertools.count()

    def fail_first(*args, **kwargs):
        if next(calls) == 0:
            raise error or StorageError("not today")
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, fail_first)


FAILURES = {
    "synced": (LocalPartialFile, "flush"),
    "read again": (LocalPartialFile, "open"),
    "published": (LocalPartialFile, "publish"),
    "done": (completion.Completion, "_attach"),
}


@pytest.mark.parametrize("gzipped", ["false", "true"])
@pytest.mark.parametrize("step", FAILURES)
def test_the_last_byte_is_asked_for_again(share_app, monkeypatch, step, gzipped):
    app = share_app(attachment__gzipped=gzipped)
    client = Client(app)
    path = client.begun()
    failing_once(monkeypatch, *FAILURES[step])
    client.patch(path, 0, CONTENT, status=503)
    assert client.offset(path) == 15
    app.get(RECORD, headers=ALICE, status=404)
    client.patch(path, 16, status=409)
    response = client.patch(path, 15, CONTENT[15:])
    assert response.headers["Upload-Offset"] == "16"
    attachment = app.record()["attachment"]
    assert list(app.files()) == [attachment["location"]]
    content = app.stored(attachment)
    assert (gzip.decompress(content) if gzipped == "true" else content) == CONTENT
    assert len(app.links()) == 1


def test_a_request_with_all_bytes_that_fails_leaves_nothing(app, client, monkeypatch):
    failing_once(monkeypatch, LocalPartialFile, "publish")
    client.begin(body=CONTENT, status=503)
    app.wait_for_deletions()
    assert (app.files(), states(app)) == ({}, [])


def test_the_last_byte_alone_is_verified_as_well(app, client, monkeypatch):
    path = client.begun()
    failing_once(monkeypatch, completion.Completion, "_attach")
    client.patch(path, 0, CONTENT, status=503)
    wrong = base64.b64encode(hashlib.sha1(b"other").digest()).decode()
    client.patch(path, 15, CONTENT[15:], {"Upload-Checksum": f"sha1 {wrong}"}, status=460)
    client.patch(path, 15, status=204)
    assert client.offset(path) == 15
    client.patch(path, 15, CONTENT[15:])
    assert app.stored(app.record()["attachment"]) == CONTENT


def test_a_file_that_is_lost_is_an_error(app, client):
    path = client.begun()
    client.patch(path, 0, CONTENT[:5])
    uploads = app.registry.attachments.uploads
    partial = app.folder / ".uploads" / path.rsplit("/", 1)[1]
    partial.unlink()
    assert client.offset(path) == 0
    assert uploads.all()[0].phase == "receiving"


# Another request that completes it


def test_an_upload_that_is_being_completed_is_locked(app, client, monkeypatch):
    path = client.begun()
    seen = []
    store = completion.Completion._store

    def look(self, upload, file):
        for request in (
            lambda: client.head(path, status=423),
            lambda: client.patch(path, 15, b"x", status=423),
            lambda: client.terminate(path, status=423),
        ):
            seen.append(request().headers["Retry-After"])
        return store(self, upload, file)

    monkeypatch.setattr(completion.Completion, "_store", look)
    client.patch(path, 0, CONTENT)
    assert seen == ["1", "1", "1"]
    assert app.stored(app.record()["attachment"]) == CONTENT


# After the end


def test_a_done_upload_has_its_offset_while_the_record_has_the_file(app, client):
    path = client.completed()
    assert client.offset(path) == 16
    assert client.patch(path, 16).headers["Upload-Offset"] == "16"
    client.patch(path, 15, b"x", status=409)
    client.patch(path, 16, b"x", status=413)
    app.delete(f"{RECORD}/attachment", headers=ALICE)
    client.head(path, status=404)
    client.patch(path, 16, status=404)


def test_a_done_upload_of_a_replaced_file_is_unknown(app, client):
    path = client.completed()
    client.completed(b"other")
    client.head(path, status=404)


def test_terminating_a_done_upload_leaves_the_file(app, client):
    path = client.completed()
    client.terminate(path)
    assert is_gone(app, path, client) == {app.record()["attachment"]["location"]: CONTENT}
