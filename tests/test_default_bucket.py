"""Attachments in the default bucket, which is created with the first upload."""

import pytest
import transaction

from tests.support import ALICE, App, file_part, part, postgresql_backends


RECORD = "/buckets/default/collections/photos/records/first"
ATTACHMENT = f"{RECORD}/attachment"
ORDERS = (
    "kinto.plugins.default_bucket kinto_attachment kinto.plugins.history",
    "kinto_attachment kinto.plugins.default_bucket kinto.plugins.history",
)


in_both_orders = pytest.mark.parametrize("includes", ORDERS, indirect=True, ids=["first", "last"])
"""For tests that are run with the default bucket's plugin listed before ours, and after it."""


@pytest.fixture
def includes(request):
    """The plugins, by default in the order in which requests would not come to ours."""
    return getattr(request, "param", ORDERS[0])


@pytest.fixture
def app(includes, postgresql, tmp_path):
    """A Kinto in which there is nothing."""
    settings = {"kinto.includes": includes, **postgresql_backends(postgresql())}
    return App(tmp_path / "files", **settings)


def everything(app):
    """Return all objects, permissions and files there are."""
    objects = {
        (name, object_["id"])
        for name in ("bucket", "collection", "record", "entry", "attachments")
        for object_ in app.registry.storage.list_all(name, "*" if name != "bucket" else "")
    }
    return objects, app.files()


@in_both_orders
def test_an_upload_creates_the_bucket_the_collection_and_the_record(app):
    response = app.upload(url=ATTACHMENT, status=201)
    bucket = app.get("/", headers=ALICE).json["user"]["bucket"]
    real = RECORD.replace("default", bucket)
    assert response.headers["Location"].endswith(real)
    assert app.record(RECORD)["attachment"] == response.json
    assert app.record(real)["attachment"] == response.json
    assert list(app.files()) == [response.json["location"]]
    assert [link["record_uri"] for link in app.links()] == [real]
    assert app.upload(file_part(b"2"), url=ATTACHMENT, status=200).json["size"] == 1
    assert list(app.files().values()) == [b"2"]
    app.delete(ATTACHMENT, headers=ALICE, status=204)
    assert (app.files(), app.links()) == ({}, [])


def test_what_is_created_is_what_kinto_creates(app):
    """Objects, permissions, and history: all that Kinto's plugin leaves for a PUT."""

    def created(collection, action):
        action(f"/buckets/default/collections/{collection}/records/first")
        app.delete("/buckets/default/collections/none", headers=ALICE, status="*")
        seen = []
        for path in ("", f"/collections/{collection}"):
            object_ = app.get(f"/buckets/default{path}", headers=ALICE).json
            object_["data"].pop("last_modified")
            seen.append(object_)
        history = app.get("/buckets/default/history", headers=ALICE).json["data"]
        for entry in history:
            entry.pop("last_modified")
            entry.pop("id")
            entry["target"]["data"] = sorted(entry["target"]["data"])
            entry.pop("date")
            entry.pop("timestamp", None)
        app.delete("/buckets/default", headers=ALICE)
        return str((seen, history)).replace(collection, "photos").replace("'attachment', ", "")

    uploaded = created("uploaded", lambda url: app.upload(url=f"{url}/attachment", status=201))
    put = created("putput", lambda url: app.put_json(url, {"data": {}}, headers=ALICE))
    assert uploaded == put


REFUSED = {
    "form": ((part("other", "x"),), {}, 400),
    "no record to match": ((file_part(),), {"If-Match": '"1"'}, 412),
    "permissions": ((file_part(), part("permissions", '{"own": []}')), {}, 400),
    "content type": ((file_part(),), {"Content-Type": "image/png"}, 400),
    "anonymous": ((file_part(),), {"Authorization": ""}, 401),
}


@in_both_orders
@pytest.mark.parametrize(("parts", "headers", "status"), REFUSED.values(), ids=REFUSED)
def test_a_refused_upload_leaves_no_bucket_no_collection_and_no_file(app, parts, headers, status):
    assert everything(app) == (set(), {})
    app.upload(*parts, url=ATTACHMENT, headers={**ALICE, **headers}, status=status)
    assert everything(app) == (set(), {})


def test_an_upload_that_a_listener_refuses_leaves_nothing(app):
    def refuse(event):
        raise RuntimeError("not today")

    app.listen(refuse)
    app.upload(url=ATTACHMENT, status=500)
    assert everything(app) == (set(), {})


@pytest.mark.parametrize("path", ["collections/a b/records/x", "collections/a/records/x y"])
def test_ids_that_cannot_be_are_refused(app, path):
    app.upload(url=f"/buckets/default/{path}/attachment", status=400)
    assert everything(app) == (set(), {})


@in_both_orders
def test_a_detachment_creates_nothing(app):
    app.delete(ATTACHMENT, headers=ALICE, status=404)
    assert everything(app) == (set(), {})


def test_a_file_is_detached_in_a_batch(app):
    app.upload(url=ATTACHMENT)
    batch = {"requests": [{"method": "DELETE", "path": ATTACHMENT}]}
    response = app.post_json("/batch", batch, headers=ALICE)
    assert [one["status"] for one in response.json["responses"]] == [204]
    assert (app.files(), app.links()) == ({}, [])


@in_both_orders
def test_preconditions_hold(app):
    etag = app.upload(url=ATTACHMENT, headers={**ALICE, "If-None-Match": "*"}).headers["ETag"]
    before = everything(app)
    for headers in ({"If-None-Match": "*"}, {"If-Match": '"1"'}):
        app.upload(url=ATTACHMENT, headers={**ALICE, **headers}, status=412)
    app.delete(ATTACHMENT, headers={**ALICE, "If-Match": '"1"'}, status=412)
    assert everything(app) == before
    app.upload(url=ATTACHMENT, headers={**ALICE, "If-Match": etag}, status=200)


def test_one_who_lost_the_right_to_write_is_refused(app):
    app.upload(url=ATTACHMENT)
    bucket = app.get("/", headers=ALICE).json["user"]["bucket"]
    with transaction.manager:
        app.registry.permission.delete_object_permissions(f"/buckets/{bucket}*")
    before = everything(app)
    app.upload(url=ATTACHMENT, status=403)
    assert everything(app) == before


@in_both_orders
def test_pages_of_other_origins_may_upload(app):
    origin = {"Origin": "https://app.test"}
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    response = app.options(ATTACHMENT, headers=preflight, status=200)
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    for parts in ((file_part(),), (part("other", "x"),)):
        headers = {**ALICE, **origin}
        response = app.upload(*parts, url=ATTACHMENT, headers=headers, status="*")
        assert response.headers["Access-Control-Allow-Origin"] in ("*", origin["Origin"])


def test_without_kintos_plugin_there_is_no_default_bucket(tmp_path):
    app = App(tmp_path / "files", **{"kinto.includes": "kinto_attachment"})
    app.upload(url=ATTACHMENT, status=404)
    app.delete(ATTACHMENT, headers=ALICE, status=404)
    assert app.files() == {}


@in_both_orders
def test_a_read_only_server_takes_no_upload(includes, tmp_path):
    app = App(tmp_path / "files", **{"kinto.includes": includes, "kinto.readonly": "true"})
    app.upload(url=ATTACHMENT, status=405)
    assert app.files() == {}
