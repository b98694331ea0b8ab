"""Behaviour of real server processes: memory, writes to the disk, clients that go away."""

import json
import socket
import time

import pytest
import requests

from tests.support.app import ATTACHMENT
from tests.support.postgresql import postgresql_backends
from tests.support.servers import assert_eventually, files_in
from tests.support.users import ALICE, basic_auth


MIB = 1024 * 1024
AUTH = ("alice", "secret")
CHUNK = bytes(range(256)) * 4096
BODY_TAIL = b"\r\n--xyz--\r\n"
BODY_HEAD = (
    b'--xyz\r\nContent-Disposition: form-data; name="attachment"; filename="big.txt"\r\n\r\n'
)


def record_url(server):
    return f"{server.url}/buckets/default/collections/photos/records/first"


@pytest.fixture
def collection(serve):
    """Start a server, and return it with the URL of a record in a new, ordinary collection."""

    def start(*args, **kwargs):
        server = serve(*args, **kwargs)
        url = f"{server.url}/buckets/blog"
        requests.put(url, auth=AUTH, timeout=30).raise_for_status()
        requests.put(f"{url}/collections/photos", auth=AUTH, timeout=30).raise_for_status()
        return server, f"{url}/collections/photos/records/first"

    return start


def body(size):
    yield BODY_HEAD
    for _ in range(size // MIB):
        yield CHUNK
    yield BODY_TAIL


class SizedBody:
    """A body whose length is known before it is sent."""

    def __init__(self, size):
        self._chunks = body(size)
        self._length = len(BODY_HEAD) + size + len(BODY_TAIL)

    def __len__(self):
        return self._length

    def __iter__(self):
        return self._chunks

    def read(self, _size):
        return next(self._chunks, b"")


def upload(url, size, chunked=False):
    response = requests.post(
        f"{url}/attachment",
        body(size) if chunked else SizedBody(size),
        headers={"Content-Type": "multipart/form-data; boundary=xyz"},
        auth=AUTH,
        timeout=300,
    )
    assert response.status_code in (200, 201), response.text
    return response.json()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("kind", ["granian", "waitress"])
def test_a_large_upload_takes_no_more_memory_than_a_small_one(collection, kind, chunked, tmp_path):
    server, url = collection(kind, attachment__fsync="false")
    for _ in range(3):
        upload(url, 1 * MIB, chunked)
    before = server.peak_memory()
    attachment = upload(url, 256 * MIB, chunked)
    assert server.peak_memory() - before < 16 * MIB
    assert attachment["size"] == 256 * MIB
    assert (tmp_path / "files" / attachment["location"]).stat().st_size == 256 * MIB


@pytest.mark.parametrize("kind", ["granian", "waitress"])
def test_a_large_file_is_compressed_without_taking_memory(collection, kind, tmp_path):
    server, url = collection(kind, attachment__fsync="false", attachment__gzipped="true")
    for _ in range(3):
        upload(url, 1 * MIB)
    before = server.peak_memory()
    attachment = upload(url, 96 * MIB)
    assert server.peak_memory() - before < 16 * MIB
    assert attachment["original"]["size"] == 96 * MIB
    stored = tmp_path / "files" / attachment["location"]
    assert stored.stat().st_size == attachment["size"] < 1 * MIB


def test_an_upload_to_the_default_bucket_takes_no_more_memory_than_another(serve):
    server = serve("granian", attachment__fsync="false")
    for _ in range(3):
        upload(record_url(server), 1 * MIB)
    before = server.peak_memory()
    assert upload(record_url(server), 128 * MIB)["size"] == 128 * MIB
    assert server.peak_memory() - before < 16 * MIB


def test_a_large_file_is_served_without_taking_memory(collection):
    server, url = collection("granian", attachment__serve_files="true")
    upload(url, 1 * MIB)
    attachment = upload(url, 128 * MIB)
    before = server.peak_memory()
    with requests.get(attachment["location"], stream=True, timeout=300) as response:
        received = sum(len(chunk) for chunk in response.iter_content(MIB))
    assert received == 128 * MIB
    assert server.peak_memory() - before < 32 * MIB


def test_every_byte_is_written_to_the_disk_once(collection):
    """Under granian, that is: waitress itself keeps a large body in a temporary file."""
    server, url = collection("granian", attachment__fsync="true")
    upload(url, 1 * MIB)
    before = server.written()
    upload(url, 100 * MIB)
    written = server.written() - before
    assert 100 * MIB <= written < 110 * MIB


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_client_that_goes_away_leaves_only_a_line_in_the_log(collection, chunked, tmp_path):
    server, url = collection("granian")
    path = url.removeprefix(f"http://127.0.0.1:{server.port}")
    framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 9000000"
    head = (
        f"POST {path}/attachment HTTP/1.1\r\nHost: 127.0.0.1\r\n{framing}\r\n"
        f"Authorization: {basic_auth('alice')}\r\n"
        "Content-Type: multipart/form-data; boundary=xyz\r\n\r\n"
    )
    sent = BODY_HEAD + CHUNK
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode())
        connection.sendall(b"%x\r\n%s\r\n" % (len(sent), sent) if chunked else sent)
        wait_until(server, lambda: list((tmp_path / "files" / ".staging").iterdir()))
    wait_until(server, lambda: "Upload ended after" in server.log.read_text())
    log = server.log.read_text()
    assert log.count("Upload ended after") == 1
    assert "Traceback" not in log
    assert requests.get(url, auth=AUTH, timeout=30).status_code == 404
    assert files_in(tmp_path / "files") == []


def wait_until(server, condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["granian", "waitress"])
def test_attach_replace_and_detach_on_postgresql(serve, postgresql, kind, tmp_path):
    backends = postgresql_backends(postgresql())
    server = serve(kind, **{k.removeprefix("kinto."): v for k, v in backends.items()})
    url = record_url(server)
    files = {"attachment": ("story.txt", b"once upon a time", "text/plain")}
    data = {"data": json.dumps({"title": "Spring"})}
    created = requests.post(f"{url}/attachment", data, files=files, auth=AUTH, timeout=30)
    assert created.status_code == 201, created.text
    replaced = requests.post(f"{url}/attachment", files=files, auth=AUTH, timeout=30)
    assert replaced.status_code == 200, replaced.text
    record = requests.get(url, auth=AUTH, timeout=30).json()["data"]
    assert record["attachment"] == replaced.json()
    assert record["title"] == "Spring"
    new = tmp_path / "files" / replaced.json()["location"]
    assert_eventually(lambda: files_in(tmp_path / "files"), [new])

    detached = requests.delete(f"{url}/attachment", auth=AUTH, timeout=30)
    assert (detached.status_code, detached.content) == (204, b"")
    assert "Content-Type" not in detached.headers
    assert requests.get(url, auth=AUTH, timeout=30).json()["data"]["attachment"] is None
    assert_eventually(lambda: files_in(tmp_path / "files"), [])


def test_a_change_that_fails_on_postgresql_keeps_the_previous_file(make_app, postgresql):
    app = make_app(
        **{
            name.removeprefix("kinto."): value
            for name, value in postgresql_backends(postgresql()).items()
        }
    )
    app.upload()
    before = app.state()

    def refuse(event):
        raise RuntimeError("not today")

    app.listen(refuse)
    app.upload(status=500)
    assert app.state() == before
    app.delete(ATTACHMENT, headers=ALICE, status=500)
    assert app.state() == before
