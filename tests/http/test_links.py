"""Links to files that need no credentials, and end."""

import time
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from kinto_attachment import signatures
from tests.support.app import ATTACHMENT, RECORD
from tests.support.forms import file_part
from tests.support.gcs import TokenServer
from tests.support.users import ALICE, BOB


CONTENT = b"once upon a time"
LINK = f"{ATTACHMENT}/link"
HOST = "http://localhost/v1"


@pytest.fixture(params=["public", "private"])
def app(request, share_app):
    app = share_app(attachment__downloads=request.param)
    app.upload()
    return app


def link_of(app, url=LINK, **query):
    return app.get(url, query or None, headers=ALICE).json


def path_of(location):
    assert location.startswith(f"{HOST}/__files__/")
    return location.removeprefix(HOST)


@pytest.fixture
def later(monkeypatch):
    """Return a function that lets time pass."""
    started = time.time()
    passed = [0.0]
    monkeypatch.setattr(time, "time", lambda: started + passed[0])

    def wait(seconds):
        passed[0] += seconds

    return wait


def test_a_link_leads_to_the_file_without_credentials(app):
    response = app.get(LINK, headers=ALICE)
    assert response.headers["Cache-Control"] == "no-store"
    assert set(response.json) == {"location", "expires"}
    assert 300 <= response.json["expires"] - time.time() <= 451
    path = path_of(response.json["location"])
    linked, downloaded = app.get(path), app.get(ATTACHMENT, headers=ALICE)
    assert linked.body == CONTENT
    same = ("ETag", "Last-Modified", "Content-Type", "Content-Disposition", "Repr-Digest")
    same += ("Cache-Control", "Content-Security-Policy", "X-Content-Type-Options")
    assert {n: linked.headers[n] for n in same} == {n: downloaded.headers[n] for n in same}
    assert app.get(path, headers={"Range": "bytes=5-8"}, status=206).body == b"upon"
    assert app.get(path, headers={"If-None-Match": linked.headers["ETag"]}, status=304).body == b""
    assert app.head(path).headers["Content-Length"] == "16"
    pages = app.get(path, headers={"Origin": "https://app.test"}).headers
    assert pages["Access-Control-Allow-Origin"] in ("*", "https://app.test")


def test_one_link_comes_back_within_a_window_and_another_one_after_it(app, later):
    links = []
    for _ in range(12):
        links.append(link_of(app)["location"])
        later(50)
    assert 3 <= len(set(links)) <= 6
    assert links == sorted(links, key=lambda url: parse_qs(urlsplit(url).query)["expires"])


@pytest.mark.parametrize("seconds", ["1", "60", "3600"])
def test_a_link_is_valid_for_as_long_as_it_was_asked_for(app, later, seconds):
    link = link_of(app, expires_in=seconds)
    path = path_of(link["location"])
    later(int(seconds) - 1)
    assert app.get(path).body == CONTENT
    later(3602)
    response = app.get(path, status=403)
    assert response.json["errno"] == 121
    assert "ended" in response.json["message"]
    assert app.head(path, status=403).body == b""


@pytest.mark.parametrize("name", ["randomize", "filename_pattern"])
def test_a_link_to_a_private_file_never_leads_to_a_later_one_of_its_name(share_app, name):
    value = {"randomize": "false", "filename_pattern": "{datetime}"}[name]
    app = share_app(**{"attachment__downloads": "private", f"attachment__{name}": value})
    app.upload()
    path = path_of(link_of(app)["location"])
    app.delete(RECORD, headers=ALICE)
    app.wait_for_deletions()
    other = ATTACHMENT.replace("first", "second")
    app.upload(file_part(b"of others"), url=other)
    app.get(path, status=404)
    assert app.get(other, headers=ALICE).body == b"of others"


def test_a_link_cannot_be_fetched_in_a_batch(app):
    path = path_of(link_of(app)["location"])
    batch = {"requests": [{"path": path}, {"path": path, "method": "HEAD"}]}
    for response in app.post_json("/batch", batch).json["responses"]:
        assert response["status"] == 400


def test_a_cache_that_asks_again_keeps_what_confines_the_file(app):
    path = path_of(link_of(app)["location"])
    for url, headers in ((path, {}), (ATTACHMENT, ALICE)):
        response = app.get(url, headers={**headers, "If-None-Match": "*"}, status=304)
        assert response.headers["Content-Security-Policy"] == "sandbox"


@pytest.mark.parametrize("seconds", ["0", "-1", "3601", "", "x", "1.5", "9" * 5000, "\u0661"])
def test_a_link_is_not_asked_for_longer_than_allowed(app, seconds):
    response = app.get(LINK, {"expires_in": seconds}, headers=ALICE, status=400)
    assert response.json["errno"] == 107
    assert "from 1 to 3600" in response.json["message"]


def test_the_longest_time_is_a_setting_that_clients_know(share_app):
    app = share_app(attachment__link_max_seconds="100")
    assert app.get("/").json["capabilities"]["attachments"]["link_max_seconds"] == 100
    app.upload()
    assert link_of(app)["expires"] - time.time() <= 101
    app.get(LINK, {"expires_in": "101"}, headers=ALICE, status=400)


def test_forged_links_are_refused(app):
    app.upload(file_part(b"another"), url=ATTACHMENT.replace("first", "second"))
    path = path_of(link_of(app)["location"])
    other = path_of(link_of(app, LINK.replace("first", "second"))["location"])
    place, query = path.split("?")
    expires = parse_qs(query)["expires"][0]
    for forged in (
        f"{other.split('?')[0]}?{query}",
        path.replace(f"expires={expires}", f"expires={int(expires) + 1}"),
        path.replace("signature=", "signature=0"),
        path[:-1],
        f"{place}?signature=",
        f"{place}?{query.replace('expires', 'until')}",
        f"{place}x?{query}",
    ):
        response = app.get(forged, status=(403, 404, 307))
        assert CONTENT not in response.body and b"another" not in response.body
    assert app.get(place, status=404).json["errno"] == 111
    assert app.get(path).body == CONTENT


@pytest.mark.parametrize(
    "key",
    ["../secret.txt", "/etc/passwd", ".staging/x", "private/../../secret.txt", "link.txt", "", "."],
)
def test_a_signature_does_not_lead_out_of_the_folder(app, key):
    """As if the secret were known."""
    (app.folder.parent / "secret.txt").write_text("secret")
    (app.folder / ".staging" / "x").write_text("secret")
    (app.folder / "link.txt").symlink_to(app.folder.parent / "secret.txt")
    expires = int(time.time()) + 100
    secret = app.registry.attachments.settings.link_secret
    signature = signatures.sign(secret, key, expires)
    quoted = key.replace("/", "%2f").replace(".", "%2e")
    for path in (key, quoted):
        response = app.get(
            f"/__files__/{path}?expires={expires}&signature={signature}", status=(403, 404, 307)
        )
        assert "secret" not in response.text


def test_a_link_ends_with_the_file(app):
    path = path_of(link_of(app)["location"])
    app.upload(file_part(b"new"))
    assert app.get(path, status=404).json["errno"] == 111
    assert app.get(path_of(link_of(app)["location"])).body == b"new"
    app.delete(RECORD, headers=ALICE)
    app.get(LINK, headers=ALICE, status=404)


def test_a_file_that_is_kept_has_no_link_any_more(share_app):
    app = share_app(attachment__keep_old_files="true")
    app.upload()
    path = path_of(link_of(app)["location"])
    app.delete(ATTACHMENT, headers=ALICE)
    assert list(app.files().values()) == [CONTENT]
    app.get(path, status=404)


def test_links_are_made_in_a_batch(app):
    requests = [{"path": LINK}, {"path": f"{LINK}?expires_in=60"}]
    requests += [{"path": LINK.replace("first", "none")}]
    answers = app.post_json("/batch", {"requests": requests}, headers=ALICE).json["responses"]
    assert [answer["status"] for answer in answers] == [200, 200, 404]
    for answer in answers[:2]:
        assert app.get(path_of(answer["body"]["location"])).body == CONTENT
    answers = app.post_json("/batch", {"requests": requests}, headers=BOB).json["responses"]
    assert [answer["status"] for answer in answers] == [403, 403, 403]


def test_links_of_another_server_with_the_same_secret_are_valid(make_app):
    app = make_app(attachment__link_secret="the same secret of both")
    app.upload()
    path = path_of(link_of(app)["location"])
    (key,) = app.files()
    query = parse_qs(urlsplit(path).query)
    assert query["signature"] == [
        signatures.sign("the same secret of both", key, int(query["expires"][0]))
    ]


def test_private_files_are_not_served_without_a_signature(share_app):
    app = share_app(attachment__downloads="private", attachment__serve_files="true")
    app.upload()
    (key,) = app.files()
    assert key.startswith("private/")
    (app.folder / "PRIVATE").symlink_to("private")
    ways = (key, f"./{key}", f"x/../{key}", key.replace("/", "%2f"), f"/{key}", key.upper()[:8])
    for path in (*ways, f"PRIVATE/{key.removeprefix('private/')}"):
        response = app.get(f"/__files__/{path}", status=(404, 307))
        assert CONTENT not in response.body
    assert app.get(path_of(link_of(app)["location"])).body == CONTENT


# Buckets


def content_of(url):
    response = requests.get(url, timeout=10)
    return response.content, response.headers["Content-Disposition"]


def test_a_link_into_a_bucket_of_s3(make_app, bucket):
    app = make_app(**bucket.settings(downloads="private"))
    app.upload()
    link = link_of(app)
    assert content_of(link["location"]) == (CONTENT, 'inline; filename="story.txt"')
    assert link_of(app)["location"] == link["location"] or link_of(app) == link_of(app)
    query = parse_qs(urlsplit(link["location"]).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert int(query["X-Amz-Expires"][0]) <= 451
    app.get(LINK, headers=BOB, status=403)
    assert app.get(ATTACHMENT, headers=ALICE).body == CONTENT
    assert app.get(ATTACHMENT, headers={**ALICE, "Range": "bytes=5-8"}).body == b"upon"
    assert app.head(ATTACHMENT, headers=ALICE).headers["Content-Length"] == "16"
    app.delete(ATTACHMENT, headers=ALICE)
    app.wait_for_deletions()


def test_a_redirect_to_a_bucket_of_s3(make_app, bucket):
    app = make_app(**bucket.settings(downloads="private", deliver="redirect"))
    app.upload(file_part(CONTENT, "Grüße.pdf", "application/pdf"))
    response = app.get(ATTACHMENT, headers=ALICE, status=307)
    assert response.headers["Cache-Control"] == "no-store"
    assert response.body == b""
    answer = requests.get(response.headers["Location"], timeout=10)
    assert answer.content == CONTENT
    assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert app.head(ATTACHMENT, headers=ALICE, status=200).headers["Content-Length"] == "16"
    app.get(ATTACHMENT, headers=BOB, status=403)
    app.delete(ATTACHMENT, headers=ALICE)
    app.wait_for_deletions()


def test_a_redirect_precedes_the_conditions_that_head_answers(make_app, bucket):
    """RFC 9110, section 13.2.1."""
    app = make_app(**bucket.settings(downloads="private", deliver="redirect"))
    tag = f'"{app.upload().json["hash"]}"'
    for condition, status in (({"If-None-Match": tag}, 304), ({"If-Match": '"another"'}, 412)):
        app.get(ATTACHMENT, headers={**ALICE, **condition}, status=307)
        app.head(ATTACHMENT, headers={**ALICE, **condition}, status=status)
    app.delete(ATTACHMENT, headers=ALICE)
    app.wait_for_deletions()


@pytest.fixture
def key_file(tmp_path):
    server = TokenServer()
    server.write_key(tmp_path / "key.json")
    yield str(tmp_path / "key.json")
    server.stop()


def test_links_and_redirects_to_google(make_app, gcs_bucket, key_file):
    settings = gcs_bucket.settings(downloads="private", gcloud__credentials=key_file)
    app = make_app(**settings)
    app.upload()
    assert requests.get(link_of(app)["location"], timeout=10).content == CONTENT
    assert app.get(ATTACHMENT, headers=ALICE).body == CONTENT
    assert app.get(ATTACHMENT, headers={**ALICE, "Range": "bytes=5-8"}).body == b"upon"
    assert app.head(ATTACHMENT, headers=ALICE).headers["Content-Length"] == "16"


def test_redirects_to_google(make_app, gcs_bucket, key_file):
    settings = gcs_bucket.settings(downloads="private", gcloud__credentials=key_file)
    app = make_app(**settings, attachment__deliver="redirect")
    app.upload()
    location = app.get(ATTACHMENT, headers=ALICE, status=307).headers["Location"]
    assert requests.get(location, timeout=10).content == CONTENT


def test_without_a_private_key_there_are_no_links_to_google(make_app, gcs_bucket):
    app = make_app(**gcs_bucket.settings(downloads="private"))
    app.upload()
    app.get(LINK, headers=ALICE, status=503)
    assert app.get(ATTACHMENT, headers=ALICE).body == CONTENT


def test_another_backend_makes_no_links_but_its_files_are_downloaded(make_app, tmp_path):
    app = make_app(
        attachment__base_path="",
        attachment__backend="pyramid_storage.local",
        storage__base_path=str(tmp_path / "files"),
    )
    app.upload()
    assert app.get(ATTACHMENT, headers=ALICE).body == CONTENT
    response = app.get(LINK, headers=ALICE, status=404)
    assert "makes no links" in response.json["message"]
    assert "link_max_seconds" not in app.get("/").json["capabilities"]["attachments"]


def test_a_backend_that_cannot_read_has_no_downloads(make_app, tmp_path, monkeypatch):
    app = make_app(
        attachment__base_path="",
        attachment__backend="pyramid_storage.local",
        storage__base_path=str(tmp_path / "files"),
    )
    app.upload()
    monkeypatch.delattr("pyramid_storage.local.LocalFileStorage.path")
    app.get(ATTACHMENT, headers=ALICE, status=501)
