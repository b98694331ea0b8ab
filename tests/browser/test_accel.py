"""nginx sends the downloads that Kinto permits, as the guides have it."""

import hashlib
import json

import pytest

from kinto_attachment.http.representation import disposition
from tests.support.app import ATTACHMENT
from tests.support.documentation import ProductionServer, only
from tests.support.nginx import API, ProductionNginx
from tests.support.users import basic_auth


CONTENT = "Grüße\n".encode() * 100_000
ATTACHMENTS = {
    "private": ATTACHMENT,
    "public": "/buckets/blog/collections/articles/records/first/attachment",
}
"""Of records of a collection with private files, and of one with public ones."""


@pytest.fixture(scope="module")
def nginx(tmp_path_factory, postgresql):
    """The nginx in front of a Kinto of the guide, with what it and the guide to private files add.

    Nobody but admin may read the records.
    """
    settings = [
        only("docs/how-to/production", "ini", "kinto.attachment.deliver"),
        only("docs/how-to/private-files", "ini", "downloads = private"),
    ]
    folder = tmp_path_factory.mktemp("accel")
    kinto = ProductionServer(folder, postgresql(), "\n".join(settings))
    try:
        kinto.wait_until_ready()
        with ProductionNginx(folder / "nginx", kinto) as nginx:
            for path in ATTACHMENTS.values():
                nginx.create_collection(path.split("/")[4])
                assert nginx.attach("Grüße.txt", CONTENT, path).ok
            yield nginx
    finally:
        kinto.stop()


def key_of(nginx, path):
    """Return the key of the file of a record in a collection, which has no other file."""
    is_private = path == ATTACHMENTS["private"]
    files = nginx.kinto.files
    (key,) = (
        key
        for key in (one.relative_to(files).as_posix() for one in files.rglob("*.txt"))
        if key.startswith("private/") == is_private
    )
    return key


@pytest.mark.parametrize("path", ATTACHMENTS.values(), ids=ATTACHMENTS)
def test_nginx_sends_what_kinto_permits(nginx, path):
    response = nginx.api("GET", path)
    assert response.content == CONTENT
    assert "X-Accel-Redirect" not in response.headers
    expected = {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Disposition": disposition("Grüße.txt", "text/plain"),
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
        "Accept-Ranges": "bytes",
    }
    assert {name: response.headers[name] for name in expected} == expected
    assert response.headers["Repr-Digest"].startswith("sha-256=:")
    assert "Authorization" in response.headers["Vary"]
    part = nginx.api("GET", path, {**API, "Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, CONTENT[1:4])
    known = {**API, "If-None-Match": response.headers["ETag"]}
    assert nginx.api("GET", path, known).status_code == 304
    head = nginx.api("HEAD", path)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(CONTENT)))
    other_page = nginx.api("GET", path, {**API, "Origin": "https://app.test"})
    assert other_page.headers["Access-Control-Allow-Origin"] in ("*", "https://app.test")


@pytest.mark.parametrize("path", ATTACHMENTS.values(), ids=ATTACHMENTS)
def test_nginx_sends_nothing_else(nginx, path):
    nobody = {"Host": API["Host"]}
    stranger = {**nobody, "Authorization": basic_auth("admin", "another password")}
    for headers in (nobody, stranger):
        assert nginx.api("GET", path, headers).status_code == 401
    key = key_of(nginx, path)
    for prefix in ("/internal/", "/internal//", "//internal/", "/v1/../internal/"):
        assert nginx.status(f"{prefix}{key}", API) == 404


def test_nginx_sends_no_file_that_the_user_may_not_read(nginx):
    bob = {"Host": API["Host"], "Authorization": basic_auth("bob")}
    account = json.dumps({"data": {"password": "secret"}})
    headers = {**API, "Content-Type": "application/json"}
    assert nginx.api("PUT", "/accounts/bob", headers, data=account).ok
    assert nginx.api("GET", "/", bob).json()["user"]["id"] == "account:bob"
    for path in ATTACHMENTS.values():
        assert nginx.api("GET", path, bob).status_code == 403


def test_a_link_is_answered_by_kinto(nginx):
    link = nginx.api("GET", f"{ATTACHMENT}/link").json()["location"]
    path = link.removeprefix("https://kinto.example.com/v1")
    response = nginx.api("GET", path, {"Host": API["Host"]})
    assert response.content == CONTENT
    # nginx would have one of its own.
    assert response.headers["ETag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
