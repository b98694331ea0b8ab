"""Who may do what, in which collection, and what is refused before a byte is kept."""

import pytest
from kinto.core.testing import get_user_headers

from tests.support.app import ATTACHMENT, RECORD
from tests.support.resumable import CHUNK, CONTENT, TUS, UPLOADS, Client, encode, path_of, states
from tests.support.users import ALICE, BOB


CAROL = get_user_headers("carol")
EVERYONE = "system.Everyone"


def allow(app, **permissions):
    body = {"permissions": {name.replace("_", ":"): who for name, who in permissions.items()}}
    app.patch_json("/buckets/blog/collections/photos", body, headers=ALICE)


def user_id(app, headers):
    return app.get("/", headers=headers).json["user"]["id"]


def test_without_credentials_it_is_401(app, client):
    path = client.begun()
    nobody = Client(app, user={})
    nobody.begin(status=401)
    nobody.patch(path, 0, CONTENT, status=401)
    nobody.head(path, status=401)
    nobody.terminate(path, status=401)
    assert client.offset(path) == 0


def test_without_permission_it_is_403(app, client):
    path = client.begun()
    bob = Client(app, user=BOB)
    bob.begin(status=403)
    bob.patch(path, 0, CONTENT, status=403)
    bob.head(path, status=403)
    bob.terminate(path, status=403)
    assert client.offset(path) == 0


def test_the_upload_of_somebody_else_is_unknown(app, client):
    allow(app, write=[user_id(app, BOB)])
    path = client.begun()
    bob = Client(app, user=BOB)
    bob.patch(path, 0, CONTENT, status=404)
    bob.head(path, status=404)
    bob.terminate(path, status=404)
    assert client.offset(path) == 0


def test_whoever_may_create_records_may_upload_one(app):
    allow(app, record_create=[user_id(app, BOB)])
    bob = Client(app, user=BOB)
    path = bob.begun()
    bob.patch(path, 0, CONTENT[:5])
    assert bob.offset(path) == 5
    bob.patch(path, 5, CONTENT[5:])
    assert bob.offset(path) == 16
    assert app.stored(app.record(headers=BOB)["attachment"]) == CONTENT
    Client(app, user=CAROL).begin(status=403)


def test_a_permission_that_is_taken_away_ends_the_upload(app):
    allow(app, write=[user_id(app, BOB)])
    bob = Client(app, user=BOB)
    path = bob.begun()
    allow(app, write=[])
    app.patch_json(
        "/buckets/blog/collections/photos", {"permissions": {"write": []}}, headers=ALICE
    )
    bob.patch(path, 0, CONTENT, status=403)
    assert app.files() == {}


def test_users_without_credentials_may_be_allowed(app):
    allow(app, record_create=[EVERYONE], write=[EVERYONE])
    nobody = Client(app, user={})
    path = nobody.completed()
    assert nobody.offset(path) == 16
    Client(app).head(path, status=404)


# Everything that a form is checked for


def test_names_and_sizes_are_checked_at_once(share_app):
    app = share_app(attachment__max_size_bytes="16", attachment__extensions="txt")
    client = Client(app)
    for refused, status in (
        ({"filename": "story.exe"}, 400),
        ({"filename": "/"}, 400),
        ({"data": "[]"}, 400),
        ({"data": "{"}, 400),
        ({"permissions": '{"fly": []}'}, 400),
        ({"permissions": '{"read": 5}'}, 400),
        ({"length": 17}, 413),
    ):
        client.begin(**{"status": status, **refused})
        client.begin(body=b"x", **{"status": status, **refused})
    client.begin(headers={"Upload-Metadata": ""}, status=400)
    assert (app.files(), states(app)) == ({}, [])
    client.completed()
    assert app.options(UPLOADS).headers["Tus-Max-Size"] == "16"


def test_the_last_component_of_a_name_counts(app, client):
    client.completed(filename="C:\\temp\\tale.txt")
    assert app.record()["attachment"]["filename"] == "tale.txt"


def test_a_type_that_browsers_run_is_not_taken_from_the_client(app, client):
    client.completed(filetype="text/html")
    assert app.record()["attachment"]["mimetype"] == "text/plain"


def test_a_collection_may_have_none(share_app):
    setting = "attachment__resources__blog__photos__resumable"
    app = share_app(**{setting: "false"})
    Client(app).begin(status=404)
    app.create_collection(collection="texts")
    Client(app, record=RECORD.replace("photos", "texts")).begin()
    assert app.get("/").json["capabilities"]["attachments"]["resumable"] == ["tus-1.0.0"]


def test_a_server_may_have_none(share_app):
    app = share_app(attachment__resumable="false")
    Client(app).begin(status=404)
    assert "resumable" not in app.get("/").json["capabilities"]["attachments"]


def test_another_backend_has_none(share_app):
    backend = {"attachment__backend": "pyramid_storage.local", "storage__base_path": "/tmp"}
    app = share_app(attachment__base_path="", **backend)
    app.post(UPLOADS, headers={**ALICE, **TUS}, status=404)
    assert "resumable" not in app.get("/").json["capabilities"]["attachments"]


def test_a_user_may_have_so_many_open_ones(share_app):
    app = share_app(attachment__resumable_max_open="2")
    allow(app, write=[user_id(app, BOB)])
    client = Client(app)
    first, second = client.begun(), client.begun()
    answer = client.begin(status=429)
    assert answer.json["errno"] == 117
    client.begin(body=CONTENT, status=429)
    Client(app, user=BOB).begin()
    client.patch(first, 0, CONTENT)
    third = client.begun()
    client.terminate(second)
    client.begun()
    assert client.offset(third) == 0


def test_a_batch_has_none(app):
    request = {
        "method": "POST",
        "path": f"/v1{UPLOADS}",
        "headers": {**TUS, "Upload-Length": "0", "Upload-Metadata": encode()},
    }
    answer = app.post_json("/batch", {"requests": [request]}, headers=ALICE).json
    assert answer["responses"][0]["status"] == 400
    assert (app.files(), states(app)) == ({}, [])


# Other origins


def test_a_browser_may_send_what_it_asks_for(app, client):
    asked = {
        "Origin": "https://example.com",
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "tus-resumable,upload-offset,content-type,authorization",
    }
    for path in (UPLOADS, client.begun(), UPLOADS.replace("blog", "default")):
        answer = app.options(path, headers=asked, status=204)
        assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://example.com")
        assert set(answer.headers["Access-Control-Allow-Methods"].split(", ")) >= {
            "POST",
            "HEAD",
            "PATCH",
            "DELETE",
        }
        allowed = answer.headers["Access-Control-Allow-Headers"]
        assert allowed == asked["Access-Control-Request-Headers"]
        assert answer.headers["Tus-Version"] == "1.0.0"


def test_a_browser_sees_all_headers_of_all_answers(app, client):
    origin = {"Origin": "https://example.com"}
    answers = [
        client.begin(headers=origin),
        client.begin(None, headers={**origin, "Upload-Length": "nonsense"}, status=400),
        client.patch(client.begun(), 0, CONTENT, origin),
        app.patch(f"{UPLOADS}/unknown", headers={**ALICE, **TUS, **origin}, status="*"),
        app.head(f"{UPLOADS}/unknown", headers={**TUS, **origin}, status=401),
        app.head(client.begun(), headers={**ALICE, **origin}, status=412),
    ]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://example.com")
        exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
        for name in answer.headers:
            if name.startswith(("Upload-", "Tus-")) or name in ("Location", "ETag"):
                assert name in exposed, name
        assert answer.headers["Tus-Resumable"] == "1.0.0"


# The default bucket


@pytest.mark.parametrize("size", [5, 16])
def test_the_default_bucket_gets_its_collection_at_the_end(app, size):
    client = Client(app, record=RECORD.replace("blog", "default"))
    response = client.begin(body=CONTENT[:size])
    path = path_of(response)
    assert path.startswith("/buckets/default/")
    bucket = app.get("/", headers=ALICE).json["user"]["bucket"]
    own = RECORD.replace("blog", bucket)
    if size < 16:
        app.get(f"/buckets/{bucket}", headers=ALICE, status=403)
        assert client.offset(path) == 5
        response = client.patch(path, 5, CONTENT[5:])
    assert response.headers["Content-Location"] == f"http://localhost/v1{own}"
    assert app.stored(app.record(own)["attachment"]) == CONTENT
    assert client.offset(path) == 16


def test_an_upload_in_the_default_bucket_can_be_terminated(app):
    client = Client(app, record=RECORD.replace("blog", "default"))
    path = client.begun()
    client.terminate(path)
    client.head(path, status=404)


def test_a_url_behind_a_proxy_is_that_of_the_settings(share_app):
    app = share_app(http_scheme="https", http_host="kinto.example.com")
    location = Client(app).begin().headers["Location"]
    assert location.startswith(f"https://kinto.example.com/v1{ATTACHMENT}/uploads/")


def test_a_post_at_an_upload_is_no_method(app, client):
    app.post(client.begun(), b"x", headers={**ALICE, **TUS, **CHUNK}, status=405)
    app.get(client.begun(), headers={**ALICE, **TUS}, status=405)


def test_all_requests_are_in_the_description_of_the_server(app):
    paths = app.get("/__api__").json["paths"]
    (plural,) = [path for path in paths if path.endswith("/attachment/uploads")]
    operations = {**paths[plural], **paths[f"{plural}/{{upload_id}}"]}
    always = {"400", "401", "403", "404", "409", "410", "412", "423", "503"}
    chunk = always | {"411", "413", "415", "460"}
    expected = {
        "post": chunk | {"201", "429"},
        "patch": chunk | {"200", "204"},
        "delete": always | {"204"},
    }
    for method, statuses in expected.items():
        assert set(operations[method]["responses"]) - {"default"} == statuses, method
