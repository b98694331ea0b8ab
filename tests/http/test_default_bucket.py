"""Attachments in the default bucket, whose Kinto plugin keeps whole bodies in memory."""

import pytest
import sqlalchemy
import webtest
from kinto.core.testing import get_user_headers
from kinto.views.collections import Collection

from kinto_attachment import kinto_internals
from tests.support.app import App
from tests.support.forms import BOUNDARY, file_part, multipart
from tests.support.postgresql import postgresql_backends
from tests.support.users import ALICE, BOB


PATH = "/buckets/default/collections/photos/records/first"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
OTHER_PLUGINS = ["kinto.plugins.default_bucket", "kinto.plugins.history"]
CONTENT = b"once upon a time"
CAROL = get_user_headers("carol")


@pytest.fixture(params=[0, 2], ids=["included first", "included last"])
def app(request, share_app):
    """A Kinto with the plugins, in both orders."""
    plugins = list(OTHER_PLUGINS)
    plugins.insert(request.param, "kinto_attachment")
    return share_app(includes=" ".join(plugins))


def bucket_of(app, headers):
    return app.get("/", headers=headers).json["user"]["bucket"]


def history(app, headers):
    """Return the history plugin's entries for a user's bucket, without times and ids."""
    entries = app.get("/buckets/default/history", headers=headers).json["data"]
    mine = bucket_of(app, headers)
    return [
        (entry["uri"].replace(mine, "mine"), entry["action"], entry["resource_name"])
        for entry in reversed(entries)
    ]


def test_a_file_is_attached_and_detached(app):
    attachment = app.upload(url=f"{PATH}/attachment", status=201).json
    assert app.record(PATH)["attachment"] == attachment
    assert app.record(PATH.replace("default", bucket_of(app, ALICE)))["attachment"] == attachment
    assert app.files() == {attachment["location"]: CONTENT}
    app.delete(f"{PATH}/attachment", headers=ALICE, status=204)
    assert app.record(PATH)["attachment"] is None
    assert app.files() == {}


def test_bucket_and_collection_are_created_as_for_a_record(app):
    app.put_json(PATH, headers=BOB)
    app.upload(url=f"{PATH}/attachment")
    assert len(history(app, ALICE)) == 3
    assert history(app, ALICE) == history(app, BOB)
    for path in ("/buckets/default", "/buckets/default/collections/photos"):
        mine, theirs = (app.get(path, headers=user).json for user in (ALICE, BOB))
        assert mine["permissions"].keys() == theirs["permissions"].keys() == {"write"}
        assert mine["data"].keys() == theirs["data"].keys()


def test_bucket_and_collection_are_created_once(app):
    app.upload(url=f"{PATH}/attachment", status=201)
    app.upload(url=f"{PATH}/attachment", status=200)
    app.upload(url=f"{PATH.replace('first', 'second')}/attachment", status=201)
    uris = [uri for uri, action, _ in history(app, ALICE) if action == "create"]
    assert len(uris) == len(set(uris)) == 4


def test_every_user_has_a_bucket_of_their_own(app):
    app.upload(url=f"{PATH}/attachment")
    app.get(PATH, headers=BOB, status=404)
    other = f"{PATH.replace('default', bucket_of(app, ALICE))}/attachment"
    app.upload(url=other, headers=BOB, status=403)


def test_an_unauthenticated_upload_is_refused(app):
    for response in (
        app.upload(url=f"{PATH}/attachment", headers={}, status=401),
        app.delete(f"{PATH}/attachment", status=401),
    ):
        assert response.json["errno"] == 104
    assert app.files() == {}


def test_a_file_is_detached_in_a_batch(app):
    app.upload(url=f"{PATH}/attachment")
    requests = [{"method": "DELETE", "path": f"{PATH}/attachment"}]
    (response,) = app.post_json("/batch", {"requests": requests}, headers=ALICE).json["responses"]
    assert response["status"] == 204
    assert app.files() == {}


def test_a_page_of_another_origin_may_upload(app):
    headers = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    app.options(f"{PATH}/attachment", headers=headers, status=200)
    headers = {**ALICE, "Origin": "https://example.com"}
    response = app.upload(url=f"{PATH}/attachment", headers=headers)
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "ETag" in response.headers["Access-Control-Expose-Headers"]


def test_other_methods_are_not_served(app):
    response = app.put(f"{PATH}/attachment", headers=ALICE, status=405)
    assert response.json["errno"] == 115


def test_a_file_is_downloaded_and_nothing_is_created_for_that(app):
    for path in (f"{PATH}/attachment", f"{PATH}/attachment/link"):
        assert app.get(path, headers=ALICE, status=404).json["errno"] == 111
        app.get(path, status=401)
    bucket = app.get("/", headers=ALICE).json["user"]["bucket"]
    app.get(f"/buckets/{bucket}", headers=ALICE, status=403)
    app.upload(url=f"{PATH}/attachment")
    assert app.get(f"{PATH}/attachment", headers=ALICE).body == b"once upon a time"
    assert app.head(f"{PATH}/attachment", headers=ALICE).headers["Content-Length"] == "16"
    location = app.get(f"{PATH}/attachment/link", headers=ALICE).json["location"]
    assert app.get(location.removeprefix("http://localhost/v1")).body == b"once upon a time"
    app.get(f"{PATH}/attachment", headers=BOB, status=404)


def test_a_path_that_is_no_text_is_refused(app):
    request = webtest.TestRequest.blank("/", method="POST", headers=ALICE)
    request.environ["PATH_INFO"] = "/v1/\xff"
    webtest.TestApp.do_request(app, request, status=400)


def test_a_record_may_be_called_attachment(app):
    app.put_json(PATH.replace("first", "attachment"), headers=ALICE, status=201)


def test_without_the_plugin_there_is_no_default_bucket(make_app):
    app = make_app(includes="kinto_attachment")
    app.upload(url=f"{PATH}/attachment", status=404)


def test_the_json_schema_applies(share_app):
    app = share_app(experimental_collection_schema_validation="true")
    schema = {"type": "object", "properties": {"attachment": {"type": "null"}}}
    app.create_collection(bucket_of(app, ALICE), "photos", schema=schema)
    app.upload(url=f"{PATH}/attachment", status=400)
    assert app.files() == {}


def test_the_json_schema_of_a_collection_that_another_client_creates_meanwhile_applies(
    make_app, monkeypatch
):
    app = make_app(experimental_collection_schema_validation="true")
    schema = {"type": "object", "properties": {"attachment": {"type": "null"}}}
    create = kinto_internals.resource_create_object

    def create_second(request, resource, uri):
        if resource is Collection:
            collection = {"id": "photos", "schema": schema}
            request.registry.storage.create("collection", uri.rsplit("/", 2)[0], collection)
        return create(request, resource, uri)

    monkeypatch.setattr(kinto_internals, "resource_create_object", create_second)
    app.upload(url=f"{PATH}/attachment", status=400)
    assert app.files() == {}


def test_all_that_an_upload_creates_is_committed(database):
    app, objects = database
    before = objects()
    app.upload(url=f"{PATH}/attachment", headers=BOB)
    created = sorted(name for name, *_ in objects() - before)
    assert created == ["attachments", "bucket", "collection", "record"]
    app.delete("/buckets/default", headers=BOB)
    assert app.files() == {}


REFUSED = {
    "of another type": ({}, b"{}", "application/json", 400),
    "without a file": ({}, multipart(), MULTIPART, 400),
    "cut off": ({}, multipart(file_part())[:-20], MULTIPART, 400),
    "with an extension that is not allowed": (
        {},
        multipart(file_part(filename="a.exe")),
        MULTIPART,
        400,
    ),
    "with a failing precondition": (
        {"If-Match": '"123"'},
        multipart(file_part()),
        MULTIPART,
        412,
    ),
    "with an invalid precondition": (
        {"If-Match": "abc"},
        multipart(file_part()),
        MULTIPART,
        400,
    ),
    "without authentication": ({"Authorization": ""}, multipart(file_part()), MULTIPART, 401),
}


@pytest.fixture(scope="module")
def database(postgresql, tmp_path_factory):
    """A Kinto whose transactions can be undone, and a function that lists everything it keeps."""
    url = postgresql()
    app = App(tmp_path_factory.mktemp("files"), **postgresql_backends(url))
    engine = sqlalchemy.create_engine(url)

    def objects():
        with engine.connect() as connection:
            query = "SELECT resource_name, parent_id, id FROM objects"
            return set(map(tuple, connection.execute(sqlalchemy.text(query))))

    yield app, objects
    engine.dispose()


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_left_of_an_upload(database, name):
    app, objects = database
    headers, body, content_type, status = REFUSED[name]
    before = objects()
    headers = {**ALICE, "Content-Type": content_type, **headers}
    app.post(f"{PATH}/attachment", body, headers=headers, status=status)
    assert objects() == before
    assert app.files() == {}


def test_nothing_is_left_of_an_upload_that_a_listener_refuses(database):
    app, objects = database
    before = objects()

    def refuse(event):
        raise RuntimeError("not today")

    app.listen(refuse)
    app.upload(url=f"{PATH.replace('photos', 'refused')}/attachment", headers=CAROL, status=500)
    assert objects() == before
    assert app.files() == {}


def test_a_read_only_server_takes_no_upload(make_app):
    app = App(make_app().folder, **{"kinto.readonly": "true"})
    app.upload(url=f"{PATH}/attachment", status=405)
    assert app.files() == {}


def test_preconditions_apply(app):
    url = f"{PATH}/attachment"
    etag = app.upload(url=url, headers={**ALICE, "If-None-Match": "*"}).headers["ETag"]
    before = app.files()
    for headers in ({"If-None-Match": "*"}, {"If-Match": '"1"'}):
        app.upload(url=url, headers={**ALICE, **headers}, status=412)
    app.delete(url, headers={**ALICE, "If-Match": '"1"'}, status=412)
    assert app.files() == before
    app.upload(url=url, headers={**ALICE, "If-Match": etag}, status=200)


@pytest.mark.parametrize(
    "path",
    [
        PATH.replace("photos", "not an id"),
        PATH.replace("first", "not an id"),
    ],
)
def test_nothing_is_left_of_an_upload_to_an_impossible_path(database, path):
    app, objects = database
    before = objects()
    app.upload(url=f"{path.replace(' ', '%20')}/attachment", status=400)
    assert objects() == before
    assert app.files() == {}


def test_nothing_is_left_of_detaching_from_a_missing_record(database):
    app, objects = database
    before = objects()
    app.delete(f"{PATH}/attachment", headers=ALICE, status=404)
    assert objects() == before
