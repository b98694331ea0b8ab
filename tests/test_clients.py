"""Real clients against a running server."""

import filecmp

import kinto_http
import pytest
import requests


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
    assert requests.get(attachment["location"], timeout=10).status_code == 404
    assert not list((tmp_path / "files").glob("*.jpg"))


def test_kinto_http_replaces_an_attachment_and_sets_permissions(client, photo, tmp_path):
    client.add_attachment(id="first", filepath=str(photo))
    photo.write_bytes(b"another")
    permissions = {"read": ["system.Everyone"]}
    client.add_attachment(id="first", filepath=str(photo), permissions=permissions)
    record = client.get_record(id="first")
    assert record["permissions"]["read"] == ["system.Everyone"]
    assert record["data"]["attachment"]["size"] == len(b"another")
    assert [path.read_bytes() for path in (tmp_path / "files").glob("*.jpg")] == [b"another"]


def test_kinto_http_shows_the_message_of_a_refusal(client, tmp_path):
    nameless = tmp_path / "x"
    nameless.write_bytes(b"x")
    with pytest.raises(kinto_http.exceptions.KintoException, match="Filename is required"):
        client.add_attachment(id="first", filepath=str(nameless), filename="..")
