"""Real clients against a running server."""

import filecmp
import hashlib
import json

import kinto_http
import pytest
import requests

from kinto_attachment.scripts import download
from tests.support.node import run_node
from tests.support.servers import assert_eventually, files_in


@pytest.fixture
def client(serve):
    server = serve("waitress", attachment__serve_files="true", attachment__extensions="any")
    client = kinto_http.Client(
        server_url=server.url, auth=("alice", "secret"), bucket="blog", collection="photos"
    )
    client.create_bucket()
    client.create_collection()
    return client


@pytest.fixture
def photo(tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(bytes(range(256)) * 10_000)
    return photo


def test_kinto_http_adds_downloads_and_removes_an_attachment(client, photo, tmp_path):
    attachment = client.add_attachment(id="first", filepath=str(photo), data={"title": "Spring"})
    assert attachment["filename"] == "photo.jpg"
    assert attachment["mimetype"] == "image/jpeg"
    record = client.get_record(id="first")["data"]
    assert record["title"] == "Spring"
    assert record["attachment"] == attachment

    downloaded = client.download_attachment(record, str(tmp_path / "downloaded.jpg"))
    assert filecmp.cmp(photo, downloaded, shallow=False)

    client.remove_attachment(id="first")
    assert client.get_record(id="first")["data"]["attachment"] is None
    assert_eventually(lambda: files_in(tmp_path / "files"), [])
    assert requests.get(attachment["location"], timeout=10).status_code == 404


@pytest.mark.parametrize("base_url", ["", "/v1/__files__/", "/v1/__files__"])
def test_clients_find_a_file_with_any_base_url(serve, photo, tmp_path, base_url):
    server = serve(
        attachment__serve_files="true",
        attachment__extensions="any",
        attachment__base_url=base_url,
    )
    client = kinto_http.Client(
        server_url=server.url, auth=("alice", "secret"), bucket="blog", collection="photos"
    )
    client.create_bucket()
    client.create_collection()
    location = client.add_attachment(id="first", filepath=str(photo))["location"]
    assert location.startswith(base_url or server.url)

    record = client.get_record(id="first")["data"]
    downloaded = client.download_attachment(record, str(tmp_path / "downloaded.jpg"))
    assert filecmp.cmp(photo, downloaded, shallow=False)

    options = ["-s", server.url, "-a", "alice:secret", "-b", "blog", "-c", "photos"]
    assert download.main([*options, "--folder", str(tmp_path / "copy")]) == 0
    assert filecmp.cmp(photo, tmp_path / "copy" / "photo.jpg", shallow=False)

    advertised = client.server_info()["capabilities"]["attachments"]["base_url"]
    for url in (advertised + location, as_kinto_admin_does(advertised, location)):
        assert requests.get(url, timeout=10).content == photo.read_bytes()


def as_kinto_admin_does(base_url, location):
    """Return the URL of a file as kinto-admin makes it (that of Kinto 25.0.0)."""
    if location.startswith(base_url):
        return location
    return base_url.removesuffix("/") + "/" + location.removeprefix("/")


def test_kinto_http_replaces_an_attachment_and_sets_permissions(client, photo, tmp_path):
    client.add_attachment(id="first", filepath=str(photo))
    photo.write_bytes(b"another")
    permissions = {"read": ["system.Everyone"]}
    client.add_attachment(id="first", filepath=str(photo), permissions=permissions)
    record = client.get_record(id="first")
    assert record["permissions"]["read"] == ["system.Everyone"]
    assert record["data"]["attachment"]["size"] == len(b"another")
    stored = tmp_path / "files" / record["data"]["attachment"]["location"].rpartition("/")[2]
    assert stored.read_bytes() == b"another"
    assert_eventually(lambda: files_in(tmp_path / "files"), [stored])


def test_kinto_http_shows_the_message_of_a_refusal(client, tmp_path):
    nameless = tmp_path / "x"
    nameless.write_bytes(b"x")
    with pytest.raises(kinto_http.exceptions.KintoException, match="Filename is required"):
        client.add_attachment(id="first", filepath=str(nameless), filename="..")


def test_kinto_http_js_adds_replaces_and_removes_an_attachment(client, javascript, tmp_path):
    printed = run_node("node", "client.js", client.session.server_url, "photos", cwd=javascript)
    created, replaced, removed, message = map(json.loads, printed.splitlines())

    assert (created["title"], replaced["title"]) == ("Spring", "Summer")
    assert created["attachment"]["filename"] == "one.txt"
    assert created["attachment"]["hash"] == hashlib.sha256(b"one").hexdigest()
    assert replaced["attachment"]["hash"] == hashlib.sha256(b"two").hexdigest()

    assert removed["attachment"] is None
    assert client.get_record(id=created["id"])["data"] == removed
    assert_eventually(lambda: files_in(tmp_path / "files"), [])
    assert requests.get(created["attachment"]["location"], timeout=10).status_code == 404
    assert "Filename is required" in message
