"""POST on the attachment of a record: what happens when all is well."""

import hashlib
import io
import json

import pytest

from tests.support.app import ATTACHMENT, RECORD
from tests.support.forms import file_part, multipart, part
from tests.support.users import ALICE, BOB


CONTENT = b"once upon a time"
STORY = {
    "filename": "story.txt",
    "hash": hashlib.sha256(CONTENT).hexdigest(),
    "mimetype": "text/plain",
    "size": len(CONTENT),
}


def test_the_response_is_the_attachment_of_the_record(app):
    attachment = app.upload().json
    assert attachment.items() >= STORY.items()
    assert attachment.keys() == {*STORY, "location"}
    assert app.record()["attachment"] == attachment


def test_the_location_leads_to_the_bytes_that_were_sent(app):
    assert app.stored(app.upload().json) == CONTENT


def test_nothing_but_the_file_is_stored(app):
    attachment = app.upload().json
    assert app.files() == {attachment["location"]: CONTENT}


def test_the_file_is_linked_with_its_record(app):
    attachment = app.upload().json
    (link,) = app.links()
    assert link["location"] == attachment["location"]
    assert link["record_uri"] == RECORD
    assert link["collection_uri"] == "/buckets/blog/collections/photos"
    assert link["bucket_uri"] == "/buckets/blog"


def test_a_record_is_created_where_there_is_none(app):
    response = app.upload(status=201)
    assert response.headers["Location"] == f"http://localhost/v1{RECORD}"


def test_an_existing_record_keeps_its_other_attributes(app):
    app.put_json(RECORD, {"data": {"title": "Spring"}}, headers=ALICE)
    response = app.upload(status=200)
    assert response.headers["Location"] == f"http://localhost/v1{RECORD}"
    assert app.record()["title"] == "Spring"


def test_the_headers_tell_the_version_of_the_record(app):
    response = app.upload()
    record = app.get(RECORD, headers=ALICE)
    assert response.headers["ETag"] == f'"{app.record()["last_modified"]}"'
    assert response.headers["ETag"] == record.headers["ETag"]
    assert response.headers["Last-Modified"] == record.headers["Last-Modified"]


def test_a_new_file_takes_the_place_of_the_previous_one(app):
    previous = app.upload().json
    replacing = app.upload(file_part(b"the end", "end.txt")).json
    assert replacing["location"] != previous["location"]
    assert app.files() == {replacing["location"]: b"the end"}
    assert [link["location"] for link in app.links()] == [replacing["location"]]
    assert app.record()["attachment"] == replacing


def test_data_is_merged_into_the_record(app):
    app.put_json(RECORD, {"data": {"title": "Spring", "year": 2025}}, headers=ALICE)
    app.upload(file_part(), part("data", '{"year": 2026}'))
    record = app.record()
    assert (record["title"], record["year"]) == ("Spring", 2026)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_parts_may_come_in_any_order(app, order):
    parts = [
        file_part(),
        part("data", '{"title": "Spring"}'),
        part("permissions", '{"read": ["system.Everyone"]}'),
    ]
    app.upload(*(parts[i] for i in order))
    response = app.get(RECORD, headers=ALICE).json
    assert response["data"]["title"] == "Spring"
    assert response["data"]["attachment"]["size"] == len(CONTENT)
    assert response["permissions"]["read"] == ["system.Everyone"]


def test_permissions_that_are_not_sent_stay(app):
    body = {"data": {}, "permissions": {"write": ["basicauth:someone"]}}
    app.put_json(RECORD, body, headers=ALICE)
    app.upload(file_part(), part("permissions", '{"read": ["system.Everyone"]}'))
    permissions = app.get(RECORD, headers=ALICE).json["permissions"]
    assert permissions["read"] == ["system.Everyone"]
    assert "basicauth:someone" in permissions["write"]


def test_whoever_creates_the_record_may_write_it_and_nobody_else(app):
    app.upload()
    user = app.get("/", headers=ALICE).json["user"]["id"]
    permissions = app.get(RECORD, headers=ALICE).json["permissions"]
    assert permissions == {"write": [user]}


def test_a_record_that_is_sent_back_whole_is_accepted(share_app):
    app = share_app(experimental_collection_schema_validation="true")
    app.create_collection(schema={"type": "object", "properties": {"title": {"type": "string"}}})
    previous = app.upload(file_part(), part("data", '{"title": "Spring"}')).json
    record = app.record()
    assert "schema" in record
    sent_back = {**record, "title": "Summer", "last_modified": 1, "schema": 1}
    replacing = app.upload(file_part(b"the end"), part("data", json.dumps(sent_back))).json
    assert app.record()["title"] == "Summer"
    assert app.record()["attachment"] == replacing != previous
    assert app.record()["last_modified"] > record["last_modified"]
    assert app.record()["schema"] == record["schema"]


def test_the_query_string_is_ignored(app):
    app.upload(url=f"{ATTACHMENT}?gzipped=false&last_modified=nonsense", status=201)


def test_a_body_without_content_length_is_read_to_its_end(app):
    app.upload_raw(io.BytesIO(multipart(file_part())), None, status=201)
    assert app.stored(app.record()["attachment"]) == CONTENT


@pytest.mark.parametrize(
    ("filename", "sent", "mimetype"),
    [
        ("story.txt", "text/csv", "text/csv"),
        ("photo.jpg", "Image/JPEG; quality=1", "image/jpeg"),
        ("photo.jpg", None, "image/jpeg"),
        ("photo.jpg", "", "image/jpeg"),
        ("photo.jpg", "nonsense", "image/jpeg"),
        ("archive.csv.gz", None, "application/gzip"),
        ("letter.unknown", None, "application/octet-stream"),
        ("letter.FTL", "text/plain", "application/vnd.fluent"),
        ("places.db", "text/plain", "application/vnd.sqlite3"),
        ("key.pem", None, "application/x-pem-file"),
        ("KEY.PEM", "text/plain", "application/x-pem-file"),
        ("map.geojson", "application/json", "application/geo+json"),
        ("photo.jpg", "application/octet-stream", "image/jpeg"),
        ("photo.jpg", "Application/Octet-Stream; charset=binary", "image/jpeg"),
        ("photo.jpg", "binary/octet-stream", "image/jpeg"),
        ("archive.csv.gz", "application/octet-stream", "application/gzip"),
        ("letter.unknown", "application/octet-stream", "application/octet-stream"),
    ],
)
def test_the_mimetype_is_of_the_extension_or_sent_or_guessed(share_app, filename, sent, mimetype):
    app = share_app(
        attachment__extensions="any",
        attachment__mimetypes=".ftl:application/vnd.fluent;.db:application/vnd.sqlite3",
    )
    assert app.upload(file_part(CONTENT, filename, sent)).json["mimetype"] == mimetype


@pytest.mark.parametrize(
    "active",
    [
        "text/html",
        "Text/HTML; charset=utf-8",
        "application/xhtml+xml",
        "image/svg+xml",
        "text/xml",
        "application/xml",
        "application/atom+xml",
        "text/javascript",
        "application/javascript",
        "application/x-javascript",
        "text/ecmascript",
        "text/jscript",
        "text/javascript1.5",
        "text/xsl",
        "multipart/x-mixed-replace",
        "message/rfc822",
        "unknown/unknown",
        "application/unknown",
        "application/x-unknown-content-type",
    ],
)
@pytest.mark.parametrize(
    ("filename", "stored"),
    [
        ("story.txt", "text/plain"),
        ("photo.png", "image/png"),
        ("nothing", "application/octet-stream"),
        ("page.html.txt", "text/plain"),
    ],
)
def test_a_type_that_browsers_run_is_not_taken_for_another_extension(
    share_app, filename, active, stored
):
    app = share_app(attachment__extensions="any")
    assert app.upload(file_part(CONTENT, filename, active)).json["mimetype"] == stored


@pytest.mark.parametrize(
    ("filename", "active"),
    [("page.html", "text/html"), ("PAGE.HTM", "text/html"), ("drawing.svg", "image/svg+xml")],
)
def test_a_type_that_browsers_run_is_taken_where_the_extension_says_the_same(
    share_app, filename, active
):
    app = share_app(attachment__extensions="any")
    assert app.upload(file_part(CONTENT, filename, active)).json["mimetype"] == active


@pytest.mark.parametrize(
    ("sent", "filename"),
    [
        ("/home/alice/story.txt", "story.txt"),
        ("C:\\\\Users\\\\alice\\\\story.txt", "story.txt"),
        ("../../story.txt", "story.txt"),
        ("Ἀχιλλεύς.txt", "Ἀχιλλεύς.txt"),
        ("a%22quote.txt", 'a"quote.txt'),
    ],
)
def test_the_filename_is_the_last_part_of_the_path_as_it_was_sent(app, sent, filename):
    assert app.upload(file_part(filename=sent)).json["filename"] == filename


def test_an_empty_file_is_a_file(app):
    attachment = app.upload(file_part(b"")).json
    assert attachment["size"] == 0
    assert attachment["hash"] == hashlib.sha256(b"").hexdigest()
    assert app.files() == {attachment["location"]: b""}


def test_content_that_looks_like_a_boundary_is_content(app):
    content = b"\r\n--\r\n--------------------------d74496d66958873\r\n--" * 5000
    assert app.stored(app.upload(file_part(content)).json) == content


def test_the_names_are_random_unless_told_otherwise(app):
    attachment = app.upload(file_part(filename="Story.TXT")).json
    assert attachment["filename"] == "Story.TXT"
    assert "tory" not in attachment["location"]
    assert attachment["location"].endswith(".txt")


def test_a_lost_file_that_is_uploaded_again_under_its_name_stays(share_app):
    app = share_app(attachment__randomize="false")
    lost = app.upload().json
    (app.folder / lost["location"]).unlink()
    assert app.upload(status=200).json == lost
    app.registry.attachments.deletions.wait_until_idle()
    assert [link["location"] for link in app.links()] == [lost["location"]]
    assert list(app.files()) == [lost["location"]]


def test_equal_names_get_a_number(share_app):
    app = share_app(attachment__randomize="false")
    locations = [
        app.upload(url=f"/buckets/blog/collections/photos/records/r{i}/attachment").json["location"]
        for i in range(3)
    ]
    assert locations == ["story.txt", "story-1.txt", "story-2.txt"]
    assert set(app.files()) == set(locations)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"randomize": "false"}, ["story.txt", "story-1.txt", "story.txt", "story-1.txt"]),
        ({"filename_pattern": "{rid}"}, ["first.txt", "first-1.txt", "first.txt", "first-1.txt"]),
        (
            {"randomize": "false", "keep_old_files": "true"},
            ["story.txt", "story-1.txt", "story-2.txt", "story-3.txt"],
        ),
    ],
)
def test_a_file_that_replaces_one_of_its_name_gets_another(share_app, settings, names):
    app = share_app(**{f"attachment__{name}": value for name, value in settings.items()})
    for name in names:
        assert app.upload().json["location"] == name
        app.wait_for_deletions()


def test_a_file_that_is_detached_first_leaves_its_name_to_the_next(share_app):
    app = share_app(attachment__randomize="false")
    for content in (b"first", b"second", b"third"):
        assert app.upload(file_part(content)).json["location"] == "story.txt"
        assert app.files() == {"story.txt": content}
        app.delete(ATTACHMENT, headers=ALICE, status=204)
        app.wait_for_deletions()


def test_the_folder_is_named_by_bucket_and_collection(make_app):
    app = make_app(attachment__folder="{bucket_id}/x/{collection_id}")
    attachment = app.upload().json
    assert attachment["location"].startswith("blog/x/photos/")
    assert app.files() == {attachment["location"]: CONTENT}
    app.upload(file_part(b"the end"))
    assert list(app.files().values()) == [b"the end"]


def test_the_location_begins_with_the_base_url(make_app):
    app = make_app(attachment__base_url="https://cdn.test/some/path", attachment__folder="my files")
    location = app.upload().json["location"]
    assert location.startswith("https://cdn.test/some/path/my%20files/")
    (name,) = app.files()
    assert location == f"https://cdn.test/some/path/{name}".replace(" ", "%20")
    assert app.links()[0]["location"] == name


def test_a_user_who_may_create_records_may_attach_to_a_new_one(app):
    body = {"permissions": {"record:create": ["system.Authenticated"]}}
    app.patch_json("/buckets/blog/collections/photos", body, headers=ALICE)
    app.upload(headers=BOB, status=201)
    assert app.record(headers=BOB)["attachment"]["size"] == len(CONTENT)


def test_one_event_is_sent_for_a_change(app):
    events = app.listen()
    app.upload()
    app.upload()
    assert [event.payload["action"] for event in events] == ["create", "update"]
    for event in events:
        assert event.payload["resource_name"] == "record"
        assert event.payload["uri"] == RECORD
        assert event.payload["bucket_id"] == "blog"
        assert event.payload["collection_id"] == "photos"
        assert event.payload["record_id"] == "first"
        assert len(event.impacted_objects) == 1
    (changed,) = events[1].impacted_objects
    assert changed["new"]["attachment"] == app.record()["attachment"]
    assert changed["old"]["attachment"] != changed["new"]["attachment"]


def test_the_history_plugin_keeps_the_change(make_app):
    app = make_app(includes="kinto.plugins.default_bucket kinto.plugins.history kinto_attachment")
    attachment = app.upload().json
    (entry,) = app.get("/buckets/blog/history?resource_name=record", headers=ALICE).json["data"]
    assert entry["uri"] == RECORD
    assert entry["action"] == "create"
    assert entry["target"]["data"]["attachment"] == attachment


def test_the_content_type_is_compared_without_regard_to_case(app):
    body = multipart(file_part(), boundary="Xx")
    headers = {**ALICE, "Content-Type": 'Multipart/FORM-data; Boundary="Xx"'}
    app.post(ATTACHMENT, body, headers=headers, status=201)


def test_the_default_bucket_takes_uploads(app):
    url = "/buckets/default/collections/photos/records/first"
    attachment = app.upload(url=f"{url}/attachment", status=201).json
    assert app.record(url)["attachment"] == attachment
    assert app.files() == {attachment["location"]: CONTENT}
    app.delete(f"{url}/attachment", headers=ALICE, status=204)
    assert app.record(url)["attachment"] is None
    assert app.files() == {}


def test_the_first_attachment_of_a_record_asks_for_no_links(app, monkeypatch):
    asked = []
    list_all = app.registry.storage.list_all

    def listing(*args, **kwargs):
        asked.append(args)
        return list_all(*args, **kwargs)

    monkeypatch.setattr(app.registry.storage, "list_all", listing)
    app.upload()
    assert asked == []
    assert len(app.files()) == 1
