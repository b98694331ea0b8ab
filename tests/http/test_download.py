"""Downloads under the permission of the record: ``GET`` and ``HEAD`` of its attachment."""

import base64
import hashlib
import json
import os
from urllib.parse import urlsplit

import pytest
import transaction
from pyramid.exceptions import ConfigurationError

from kinto_attachment.http.representation import disposition
from kinto_attachment.storage.contract import StorageError
from tests.support.app import ATTACHMENT, RECORD
from tests.support.forms import file_part, part
from tests.support.users import ALICE, BOB


CONTENT = b"once upon a time"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COLLECTION = "/buckets/blog/collections/photos"
BUCKET = "/buckets/blog"


@pytest.fixture(params=["public", "private"])
def app(request, share_app):
    app = share_app(attachment__downloads=request.param, attachment__extensions="any")
    app.upload()
    return app


def test_the_file_is_downloaded_with_its_headers(app):
    response = app.get(ATTACHMENT, headers=ALICE)
    assert response.body == CONTENT
    link = app.links()[0]
    expected = {
        "ETag": f'"{SHA256}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": "16",
        "Content-Disposition": 'inline; filename="story.txt"',
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(SHA256)).decode()}:",
    }
    assert {name: response.headers[name] for name in expected} == expected
    assert "Authorization" in response.headers["Vary"]
    assert response.last_modified.timestamp() == link["last_modified"] // 1000
    assert "Content-Range" not in response.headers


def test_the_location_of_a_private_file_is_where_it_is_downloaded(share_app):
    app = share_app(attachment__downloads="private")
    location = app.upload().json["location"]
    path = urlsplit(location).path.removeprefix("/v1")
    assert path == ATTACHMENT
    assert app.get(path, headers=ALICE).body == CONTENT


def test_a_copy_of_the_metadata_of_a_private_file_leads_its_readers_nowhere(share_app):
    app = share_app(attachment__downloads="private")
    attachment = app.upload().json
    copy = RECORD.replace("first", "copy")
    app.put_json(copy, {"data": {"attachment": attachment}}, headers=ALICE)
    grant(app, copy, "read", "system.Everyone")
    for url in (f"{copy}/attachment", f"{copy}/attachment/link"):
        app.get(url, status=404)
    app.get(ATTACHMENT, status=401)


def test_head_has_the_headers_and_no_body(app):
    got = app.get(ATTACHMENT, headers=ALICE).headers
    head = app.head(ATTACHMENT, headers={**ALICE, "Range": "bytes=5-8"})
    assert (head.status_code, head.body) == (200, b"")
    names = ("ETag", "Last-Modified", "Content-Length", "Content-Type", "Repr-Digest", "Vary")
    assert {name: head.headers[name] for name in names} == {name: got[name] for name in names}


def test_a_part_of_the_file_is_downloaded(app):
    response = app.get(ATTACHMENT, headers={**ALICE, "Range": "bytes=5-8"}, status=206)
    assert response.body == b"upon"
    assert response.headers["Content-Range"] == "bytes 5-8/16"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Repr-Digest"].startswith("sha-256=")


def test_a_range_that_the_file_does_not_have_is_an_error_of_kinto(app):
    response = app.get(ATTACHMENT, headers={**ALICE, "Range": "bytes=16-"}, status=416)
    assert response.headers["Content-Range"] == "bytes */16"
    assert response.json["errno"] == 107


def test_an_empty_file_is_downloaded(app):
    app.upload(file_part(b""))
    assert app.get(ATTACHMENT, headers=ALICE).body == b""
    assert app.get(ATTACHMENT, headers={**ALICE, "Range": "bytes=-5"}, status=200).body == b""
    app.get(ATTACHMENT, headers={**ALICE, "Range": "bytes=0-"}, status=416)


TEXTS = {
    "ASCII": ("story.txt", b"once", "text/plain; charset=utf-8"),
    "UTF-8": ("story.txt", "Grüße".encode(), "text/plain; charset=utf-8"),
    "Latin-1": ("story.txt", "Grüße".encode("latin-1"), "text/plain"),
    "UTF-16": ("story.txt", "Grüße".encode("utf-16"), "text/plain"),
    "CSV": ("table.csv", "ü,ß".encode(), "text/csv; charset=utf-8"),
    "cut off at the end": ("story.txt", "Grüße".encode()[:3], "text/plain"),
    "cut by the sample": ("story.txt", b"x" + "ü".encode() * 100_000, "text/plain; charset=utf-8"),
    "no text": ("story.pdf", b"%PDF", "application/pdf"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_in_utf_8_says_so(app, name):
    filename, content, mimetype = TEXTS[name]
    app.upload(file_part(content, filename, "application/octet-stream"))
    response = app.get(ATTACHMENT, headers=ALICE)
    assert response.body == content
    assert response.headers["Content-Type"] == mimetype
    assert app.head(ATTACHMENT, headers=ALICE).headers["Content-Type"] == mimetype
    later = app.get(ATTACHMENT, headers={**ALICE, "Range": "bytes=2-3"}, status=206)
    assert later.headers["Content-Type"] == mimetype


@pytest.mark.parametrize(
    ("filename", "how"),
    [
        *[(f"a.{extension}", "inline") for extension in ("png", "jpg", "gif", "webp", "mp4")],
        *[(f"a.{extension}", "inline") for extension in ("mp3", "txt")],
        *[(f"a.{extension}", "attachment") for extension in ("svg", "html", "pdf", "js", "xml")],
        *[(f"a.{extension}", "attachment") for extension in ("csv", "zip", "unknown")],
    ],
)
def test_only_what_browsers_do_not_run_is_shown_by_them(app, filename, how):
    app.upload(file_part(b"<script>alert(1)</script>", filename, "application/octet-stream"))
    headers = app.get(ATTACHMENT, headers=ALICE).headers
    assert headers["Content-Disposition"] == f'{how}; filename="{filename}"'
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("Grüße.txt", "inline; filename=\"Gru_e.txt\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe.txt"),
        ('a"b\\c%41.txt', "filename=\"a_b_c_41.txt\"; filename*=UTF-8''a%22b%5Cc%2541.txt"),
        ("a\r\nSet-Cookie: x=1", "filename=\"a__Set-Cookie: x=1\"; filename*=UTF-8''a%0D%0ASet-"),
        ("日本.txt", "filename=\"__.txt\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.txt"),
        ("\ud800.txt", "filename=\"_.txt\"; filename*=UTF-8''%3F.txt"),
        ("x" * 5000 + ".txt", f'filename="{"x" * 251}.txt"'),
        ("x." + "y" * 5000, f'filename="x.{"y" * 253}"'),
        ("x" * 5000, f'filename="{"x" * 255}"'),
    ],
)
def test_any_filename_fits_into_the_header(filename, expected):
    header = disposition(filename, "text/plain")
    assert expected in header
    assert header.isascii() and "\n" not in header and "\r" not in header


def test_pages_on_other_origins_see_the_headers(app):
    headers = {"Origin": "https://app.test", "Access-Control-Request-Method": "GET"}
    headers["Access-Control-Request-Headers"] = "authorization,range"
    allowed = app.options(ATTACHMENT, headers=headers).headers
    assert "GET" in allowed["Access-Control-Allow-Methods"]
    assert "range" in allowed["Access-Control-Allow-Headers"].lower()
    for range_, status in (("bytes=0-", 206), ("bytes=99-", 416)):
        headers = {**ALICE, "Origin": "https://app.test", "Range": range_}
        headers = app.get(ATTACHMENT, headers=headers, status=status).headers
        assert headers["Access-Control-Allow-Origin"] in ("*", "https://app.test")
        exposed = headers["Access-Control-Expose-Headers"]
        for name in ("ETag", "Content-Range", "Content-Disposition", "Repr-Digest"):
            assert name in exposed


def test_a_compressed_file_is_downloaded_as_it_is_stored(share_app):
    app = share_app(attachment__downloads="private", attachment__gzipped="true")
    attachment = app.upload().json
    response = app.get(ATTACHMENT, headers=ALICE)
    assert "Content-Encoding" not in response.headers
    assert hashlib.sha256(response.body).hexdigest() == attachment["hash"]
    assert response.headers["Content-Disposition"].endswith('filename="story.txt.gz"')


# What there is not


def test_a_record_without_a_file_has_none_to_download(app):
    app.delete(ATTACHMENT, headers=ALICE)
    assert app.get(ATTACHMENT, headers=ALICE, status=404).json["errno"] == 111
    app.head(ATTACHMENT, headers=ALICE, status=404)


@pytest.mark.parametrize("location", ["https://elsewhere.test/a.txt", "a.txt", None, 7])
def test_a_file_of_somebody_else_is_not_downloaded(app, location):
    attachment = {"location": location, "hash": SHA256, "size": 16, "filename": "a.txt"}
    url = RECORD.replace("first", "foreign")
    app.put_json(url, {"data": {"attachment": attachment}}, headers=ALICE)
    app.get(f"{url}/attachment", headers=ALICE, status=404)


def test_there_is_nothing_to_download_where_there_is_no_record(app):
    for url in (
        ATTACHMENT.replace("first", "second"),
        ATTACHMENT.replace("first", "a%00b"),
        ATTACHMENT.replace("photos", "none"),
        ATTACHMENT.replace("blog", "none"),
    ):
        ours = app.get(url, headers=ALICE, status="*")
        kintos = app.get(url.removesuffix("/attachment"), headers=ALICE, status="*")
        if "%00" not in url:
            assert (ours.status_code, ours.json) == (kintos.status_code, kintos.json)
        assert ours.status_code in (400, 403, 404)


def test_a_file_that_the_storage_has_lost_is_not_found(app):
    (name,) = app.files()
    os.remove(app.folder / name)
    app.get(ATTACHMENT, headers=ALICE, status=404)
    app.head(ATTACHMENT, headers=ALICE, status=404)


def test_a_storage_that_fails_is_asked_again_later(app, monkeypatch):
    def fail(*args):
        raise StorageError("no disk")

    monkeypatch.setattr(app.registry.attachments.files, "open_range", fail)
    for method in ("GET", "HEAD"):
        response = app.request(ATTACHMENT, method=method, headers=ALICE, status=503)
        assert response.headers["Retry-After"]


def test_a_file_that_is_shorter_than_it_should_be_ends_with_an_error(app):
    (name,) = app.files()
    (app.folder / name).write_bytes(CONTENT[:5])
    with pytest.raises(StorageError, match="shorter"):
        app.get(ATTACHMENT, headers=ALICE)


def test_a_download_cannot_be_in_a_batch(app):
    requests = [{"method": method, "path": ATTACHMENT} for method in ("GET", "HEAD")]
    answers = app.post_json("/batch", {"requests": requests}, headers=ALICE).json["responses"]
    assert [answer["status"] for answer in answers] == [400, 400]
    assert "ask for links" in answers[0]["body"]["message"]


def test_a_record_is_not_changed_by_downloads(app):
    before = app.state()
    app.get(ATTACHMENT, headers=ALICE)
    app.get(f"{ATTACHMENT}/link", headers=ALICE)
    assert app.state() == before


def test_the_transaction_has_ended_before_the_storage_is_asked(app, monkeypatch):
    files, seen = app.registry.attachments.files, []
    real = files.open_range

    def watched(*args):
        joined = transaction.get()._resources
        seen.append(list(joined))
        return real(*args)

    monkeypatch.setattr(files, "open_range", watched)
    app.get(ATTACHMENT, headers=ALICE)
    assert seen == [[]]


# Permissions


GRANTS = {
    "record": (RECORD, "read"),
    "collection": (COLLECTION, "read"),
    "bucket": (BUCKET, "read"),
    "write on the record": (RECORD, "write"),
    "write on the collection": (COLLECTION, "write"),
    "write on the bucket": (BUCKET, "write"),
}
USERS = {"everyone": "system.Everyone", "authenticated": "system.Authenticated", "bob": None}


def statuses(app, headers):
    """Return the statuses of the file, its head and its link, which are always the same."""
    found = {
        app.get(ATTACHMENT, headers=headers, status="*").status_code,
        app.head(ATTACHMENT, headers=headers, status="*").status_code,
        app.get(f"{ATTACHMENT}/link", headers=headers, status="*").status_code,
    }
    (status,) = found
    assert status == app.get(RECORD, headers=headers, status="*").status_code
    return status


def bob(app):
    return app.get("/", headers=BOB).json["user"]["id"]


def grant(app, url, permission, *principals):
    app.patch_json(url, {"permissions": {permission: list(principals)}}, headers=ALICE)


def test_the_owner_may_download_and_nobody_else(app):
    assert [statuses(app, user) for user in (ALICE, BOB, {})] == [200, 403, 401]


@pytest.mark.parametrize("where", GRANTS)
@pytest.mark.parametrize("who", USERS)
def test_who_may_read_the_record_may_download_until_that_is_revoked(app, where, who):
    url, permission = GRANTS[where]
    grant(app, url, permission, USERS[who] or bob(app))
    expected = {"everyone": [200, 200], "authenticated": [200, 401], "bob": [200, 401]}[who]
    assert [statuses(app, user) for user in (BOB, {})] == expected
    grant(app, url, permission)
    assert [statuses(app, user) for user in (BOB, {})] == [403, 401]


def test_a_member_of_a_group_may_download(app):
    group = f"{BUCKET}/groups/readers"
    app.put_json(group, {"data": {"members": [bob(app)]}}, headers=ALICE)
    grant(app, COLLECTION, "read", group)
    assert statuses(app, BOB) == 200
    app.put_json(group, {"data": {"members": []}}, headers=ALICE)
    assert statuses(app, BOB) == 403


def test_who_may_create_records_may_not_download_those_of_others(app):
    grant(app, COLLECTION, "record:create", bob(app))
    assert statuses(app, BOB) == 403


def test_the_permission_comes_before_what_there_is(app):
    app.delete(ATTACHMENT, headers=ALICE)
    app.get(ATTACHMENT, headers=BOB, status=403)
    app.get(ATTACHMENT, headers={**BOB, "If-None-Match": f'"{SHA256}"'}, status=403)


# Ways to deliver


def test_a_web_server_delivers_a_local_file(share_app):
    app = share_app(attachment__deliver="accel", attachment__accel_prefix="/protected/")
    attachment = app.upload(file_part(CONTENT, "a b.txt"), part("data", json.dumps({}))).json
    (name,) = app.files()
    for method in ("GET", "HEAD"):
        headers = {**ALICE, "Range": "bytes=0-1", "If-None-Match": f'"{attachment["hash"]}"'}
        response = app.request(ATTACHMENT, method=method, headers=headers, status=200)
        assert response.body == b""
        assert response.headers["X-Accel-Redirect"] == f"/protected/{name}"
        assert response.headers["Content-Disposition"] == 'inline; filename="a b.txt"'
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    app.get(ATTACHMENT, headers=BOB, status=403)
    (app.folder / name).unlink()
    assert app.get(ATTACHMENT, headers=ALICE, status=404).json["errno"] == 111


def test_a_web_server_without_a_prefix_is_told_the_path(share_app):
    app = share_app(attachment__deliver="accel")
    app.upload()
    (name,) = app.files()
    response = app.get(ATTACHMENT, headers=ALICE)
    assert response.headers["X-Sendfile"] == os.path.realpath(app.folder / name)
    assert "X-Accel-Redirect" not in response.headers


@pytest.mark.parametrize("deliver", ["redirect"])
def test_a_folder_has_no_urls_to_redirect_to(make_app, deliver):
    with pytest.raises(ConfigurationError, match="kinto.attachment.deliver"):
        make_app(attachment__deliver=deliver)
