"""DELETE on the attachment of a record."""

import pytest

from tests.support.app import ATTACHMENT, RECORD
from tests.support.forms import file_part, part
from tests.support.users import ALICE, BOB


@pytest.fixture
def attached(app):
    """An application with a file attached to a record that has a title too."""
    app.upload(file_part(), part("data", '{"title": "Spring"}'))
    return app


def test_the_file_goes_and_the_record_stays(attached):
    attached.delete(ATTACHMENT, headers=ALICE, status=204)
    record = attached.record()
    assert record["title"] == "Spring"
    assert record["attachment"] is None
    assert attached.files() == {}
    assert attached.links() == []


@pytest.mark.parametrize("body", ["", "{}"])
def test_the_answer_is_empty_whatever_the_body_was(attached, body):
    headers = {**ALICE, "Content-Type": "application/json"}
    response = attached.delete(ATTACHMENT, body, headers=headers, status=204)
    assert response.body == b""
    assert "Content-Type" not in response.headers


def test_the_headers_tell_the_new_version_of_the_record(attached):
    response = attached.delete(ATTACHMENT, headers=ALICE)
    record = attached.get(RECORD, headers=ALICE)
    assert response.headers["ETag"] == record.headers["ETag"]
    assert response.headers["Last-Modified"] == record.headers["Last-Modified"]


@pytest.mark.parametrize("request_body", [{}, {"body": {}}])
def test_it_works_in_a_batch(attached, request_body):
    detach = {"method": "DELETE", "path": f"/v1{ATTACHMENT}", **request_body}
    change = {"method": "PATCH", "path": f"/v1{RECORD}", "body": {"data": {"year": 2026}}}
    body = {"requests": [detach, change]}
    first, second = attached.post_json("/batch", body, headers=ALICE).json["responses"]
    assert (first["status"], second["status"]) == (204, 200)
    assert not first["body"]
    assert attached.record()["attachment"] is None
    assert attached.record()["year"] == 2026
    assert attached.files() == {}


def test_a_missing_record_is_not_made(app):
    response = app.delete(ATTACHMENT, headers=ALICE, status=404)
    assert response.json["errno"] == 110
    app.get(RECORD, headers=ALICE, status=404)


def test_a_missing_collection_is_not_found(app):
    url = "/buckets/blog/collections/none/records/first/attachment"
    assert app.delete(url, headers=ALICE, status=404).json["errno"] == 111


def test_a_record_without_attachment_is_left_alone(app):
    app.put_json(RECORD, {"data": {"title": "Spring"}}, headers=ALICE)
    before = app.record()
    events = app.listen()
    app.delete(ATTACHMENT, headers=ALICE, status=204)
    assert app.record() == before
    assert events == []


def test_a_second_time_nothing_changes(attached):
    attached.delete(ATTACHMENT, headers=ALICE, status=204)
    before = attached.state()
    attached.delete(ATTACHMENT, headers=ALICE, status=204)
    assert attached.state() == before


def test_a_file_stays_as_long_as_one_record_holds_it(attached):
    copied = attached.record()["attachment"]
    other = "/buckets/blog/collections/photos/records/second"
    before = attached.state()
    attached.put_json(other, {"data": {"attachment": copied}}, headers=ALICE)
    assert len(attached.links()) == 2
    attached.delete(f"{other}/attachment", headers=ALICE, status=204)
    assert attached.record(other)["attachment"] is None
    assert attached.state() == before


def test_one_event_is_sent(attached):
    events = attached.listen()
    attached.delete(ATTACHMENT, headers=ALICE)
    (event,) = events
    assert event.payload["action"] == "update"
    assert event.payload["record_id"] == "first"
    (changed,) = event.impacted_objects
    assert changed["old"]["attachment"]["filename"] == "story.txt"
    assert changed["new"]["attachment"] is None


def test_a_user_who_may_not_write_the_record_may_not_detach(attached):
    before = attached.state()
    attached.delete(ATTACHMENT, headers=BOB, status=403)
    attached.delete(ATTACHMENT, status=401)
    assert attached.state() == before


def test_if_match_holds(attached):
    etag = attached.get(RECORD, headers=ALICE).headers["ETag"]
    before = attached.state()
    stale = {**ALICE, "If-Match": '"123"'}
    assert attached.delete(ATTACHMENT, headers=stale, status=412).json["errno"] == 114
    assert attached.state() == before
    attached.delete(ATTACHMENT, headers={**ALICE, "If-Match": etag}, status=204)


def test_if_match_holds_where_there_is_nothing_to_detach(app):
    app.put_json(RECORD, headers=ALICE)
    app.delete(ATTACHMENT, headers={**ALICE, "If-Match": '"123"'}, status=412)


def test_the_attribute_goes_where_the_schema_does_not_take_null(share_app):
    app = share_app(experimental_collection_schema_validation="true")
    app.create_collection(schema={"properties": {"attachment": {"type": "object"}}})
    app.upload()
    app.delete(ATTACHMENT, headers=ALICE, status=204)
    assert "attachment" not in app.record()
    assert app.files() == {}


def test_the_file_stays_where_the_schema_requires_one(share_app):
    app = share_app(experimental_collection_schema_validation="true")
    schema = {"properties": {"attachment": {"type": "object"}}, "required": ["attachment"]}
    app.create_collection(schema=schema)
    app.upload()
    before = app.state()
    response = app.delete(ATTACHMENT, headers=ALICE, status=400)
    assert "'attachment' is a required property" in response.json["message"]
    assert app.state() == before


def test_a_listener_that_raises_keeps_the_file(attached):
    before = attached.files()

    def refuse(event):
        raise RuntimeError("not today")

    attached.listen(refuse)
    attached.delete(ATTACHMENT, headers=ALICE, status=500)
    assert attached.files() == before


def test_a_file_that_cannot_be_deleted_is_logged_and_the_client_gets_its_success(
    attached, monkeypatch, caplog
):
    (name,) = attached.files()

    def broken(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.remove", broken)
    attached.delete(ATTACHMENT, headers=ALICE, status=204)
    assert attached.record()["attachment"] is None
    attached.wait_for_deletions()
    assert name in caplog.text
