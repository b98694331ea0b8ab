"""What becomes of uploads that nobody continues, and of those whose record goes."""

import pytest
import transaction

from kinto_attachment.resumable import completion
from kinto_attachment.storage.contract import StorageError
from tests.support.app import RECORD
from tests.support.resumable import (
    CONTENT,
    DAY,
    Client,
    clear_by_request,
    states,
    stored_without_record,
)
from tests.support.users import ALICE


def test_an_expired_upload_is_gone_and_deleted_by_any_request(app, client, later):
    path = client.begun()
    client.patch(path, 0, CONTENT[:5])
    later()
    client.head(path, status=410)
    client.patch(path, 5, CONTENT[5:], status=410)
    client.terminate(path, status=410)
    clear_by_request(app)
    assert (app.files(), states(app)) == ({}, [])
    client.head(path, status=404)


def test_activity_keeps_an_upload(app, client, later):
    path = client.begun()
    later(DAY // 2)
    client.patch(path, 0, CONTENT[:5])
    later(DAY // 2 + 1000)
    assert client.offset(path) == 5
    client.patch(path, 5, CONTENT[5:10])
    later(DAY // 2 + 1000)
    client.patch(path, 10, CONTENT[10:])
    assert app.stored(app.record()["attachment"]) == CONTENT


def test_a_look_is_no_activity(client, later):
    path = client.begun()
    later(DAY // 2)
    assert client.offset(path) == 0
    later(DAY // 2 + 1000)
    client.head(path, status=410)


def test_a_stored_file_that_no_record_got_goes(app, client, later, monkeypatch):
    stored_without_record(client, monkeypatch)
    assert CONTENT in app.files().values()
    later()
    clear_by_request(app)
    assert (app.files(), states(app)) == ({}, [])


def test_the_file_of_a_record_stays(app, client, later):
    client.completed()
    later()
    clear_by_request(app)
    assert states(app) == []
    assert app.files() == {app.record()["attachment"]["location"]: CONTENT}


def test_expired_uploads_do_not_count(share_app, later):
    app = share_app(attachment__resumable_max_open="1")
    client = Client(app)
    client.begun()
    client.begin(status=429)
    later()
    client.begin()


def test_what_cannot_be_deleted_is_tried_again(app, client, later, monkeypatch):
    path = client.begun()
    client.patch(path, 0, CONTENT[:5])
    later()
    files = app.registry.attachments.files
    with monkeypatch.context() as context:

        def fail(*args):
            raise StorageError("not today")

        context.setattr(files, "discard_partial", fail)
        clear_by_request(app)
        assert len(states(app)) == 1
    clear_by_request(app)
    assert (app.files(), states(app)) == ({}, [])


GOING = {
    "record": lambda app: app.delete(RECORD, headers=ALICE),
    "records": lambda app: app.delete("/buckets/blog/collections/photos/records", headers=ALICE),
    "collection": lambda app: app.delete("/buckets/blog/collections/photos", headers=ALICE),
    "bucket": lambda app: app.delete("/buckets/blog", headers=ALICE),
    "collections": lambda app: app.delete("/buckets/blog/collections", headers=ALICE),
    "flush": lambda app: app.post("/__flush__", headers=ALICE),
}


@pytest.mark.parametrize("what", GOING)
@pytest.mark.parametrize("phase", ["receiving", "stored", "done"])
def test_uploads_go_with_their_record(share_app, what, phase, monkeypatch):
    app = share_app(includes="kinto.plugins.flush kinto_attachment")
    client = Client(app)
    app.create_collection("other")
    other = Client(app, record=RECORD.replace("blog", "other"))
    kept = other.begun()
    other.patch(kept, 0, CONTENT[:3])
    app.put_json(RECORD, headers=ALICE)
    app.put_json(f"{RECORD}-second", headers=ALICE)
    if phase == "receiving":
        path = client.begun()
        client.patch(path, 0, CONTENT[:5])
    elif phase == "stored":
        path = stored_without_record(client, monkeypatch)
    else:
        path = client.completed()
    GOING[what](app)
    app.wait_for_deletions()
    left = {} if what == "flush" else {CONTENT[:3]}
    contents = {c for name, c in app.files().items() if not name.endswith(".generation")}
    assert contents == set(left)
    assert len(states(app)) == len(left)
    app.create_collection()
    client.head(path, status=404)


def test_what_is_given_up_goes_as_it_is_by_then(app, client, monkeypatch):
    path = client.begun()
    (listed,) = app.registry.attachments.uploads.all()
    with monkeypatch.context() as context:
        context.setattr(completion.Completion, "_attach", lambda *args: 1 / 0)
        client.patch(path, 0, CONTENT, status=500)
    with transaction.manager:
        app.registry.attachments.uploads.discard([listed])
    app.wait_for_deletions()
    assert (app.files(), states(app)) == ({}, [])


def test_uploads_of_other_records_stay(app, client):
    other = Client(app, record=f"{RECORD}2")
    path = other.begun()
    other.patch(path, 0, CONTENT[:5])
    app.put_json(RECORD, headers=ALICE)
    app.delete(RECORD, headers=ALICE)
    app.wait_for_deletions()
    assert other.offset(path) == 5


def test_a_detached_attachment_leaves_uploads(app, client):
    app.upload(url=f"{RECORD}/attachment")
    path = client.begun()
    app.delete(f"{RECORD}/attachment", headers=ALICE)
    assert client.offset(path) == 0
