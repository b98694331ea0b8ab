"""Downloads from real server processes: memory, and clients that go away."""

import hashlib
import os
import socket
from pathlib import Path

import pytest
import requests

from tests.http.test_processes import AUTH, CHUNK, MIB, upload
from tests.support.postgresql import postgresql_backends
from tests.support.servers import assert_eventually
from tests.support.users import basic_auth


GIB = 1024 * MIB
KINDS = ["granian", "waitress"]
MEMORY = {"granian": 16 * MIB, "waitress": 64 * MIB}
"""waitress itself keeps 16 MiB for a client (``outbuf_high_watermark``), partly twice."""


@pytest.fixture
def server_of(serve):
    """Start a server whose collection is private, and return it with the URL of a record."""

    def start(kind, **settings):
        settings = {"attachment__fsync": "false", "attachment__downloads": "private", **settings}
        server = serve(kind, **settings)
        url = f"{server.url}/buckets/blog"
        for parent in (url, f"{url}/collections/photos"):
            requests.put(parent, auth=AUTH, timeout=30).raise_for_status()
        return server, f"{url}/collections/photos/records/first"

    return start


def received(url, auth=AUTH):
    """Return the size and the hash of what a URL leads to."""
    size, digest = 0, hashlib.sha256()
    with requests.get(url, auth=auth, stream=True, timeout=300) as response:
        response.raise_for_status()
        for chunk in response.iter_content(MIB):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


def assert_fixed_memory(kind, server, url, size, location=lambda url: f"{url}/attachment"):
    other = url.replace("first", "other")
    for _ in range(3):
        upload(other, 1 * MIB)
        received(location(other))
    attachment = upload(url, size)
    before = server.peak_memory()
    assert received(location(url)) == (size, attachment["hash"])
    assert server.peak_memory() - before < MEMORY[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_local_file_is_downloaded_in_fixed_memory(server_of, kind):
    server, url = server_of(kind)
    assert_fixed_memory(kind, server, url, 1 * GIB)


def test_a_large_local_file_is_fetched_by_its_link_in_fixed_memory(server_of):
    server, url = server_of("granian")

    def linked(url):
        return requests.get(f"{url}/attachment/link", auth=AUTH, timeout=30).json()["location"]

    assert_fixed_memory("granian", server, url, 256 * MIB, linked)


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_file_in_s3_is_downloaded_in_fixed_memory(server_of, kind, bucket):
    server, url = server_of(kind, **bucket.settings())
    assert_fixed_memory(kind, server, url, 128 * MIB)


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_file_in_gcs_is_downloaded_in_fixed_memory(server_of, kind, gcs_bucket):
    server, url = server_of(kind, **gcs_bucket.settings())
    assert_fixed_memory(kind, server, url, 128 * MIB)
    gcs_bucket.clear()


def open_files(server, folder):
    """Return the files in a folder that the worker has open."""
    descriptors = Path(f"/proc/{server.worker()}/fd")
    return [
        target
        for name in os.listdir(descriptors)
        if (target := _target(descriptors / name)).startswith(str(folder))
    ]


def _target(link):
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_goes_away_frees_the_file(server_of, kind, tmp_path):
    server, url = server_of(kind)
    upload(url, 128 * MIB)
    path = url.removeprefix(f"http://127.0.0.1:{server.port}")
    head = (
        f"GET {path}/attachment HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: {basic_auth('alice')}\r\n\r\n"
    )
    files = tmp_path / "files"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert len(open_files(server, files)) == 1
    assert_eventually(lambda: open_files(server, files), [])
    part = requests.get(f"{url}/attachment", auth=AUTH, headers={"Range": "bytes=1-2"}, timeout=30)
    assert (part.status_code, part.content) == (206, CHUNK[1:3])


def test_many_slow_clients_hold_no_connections_of_the_database(server_of, postgresql):
    """Of which there are fewer than clients: another request is answered meanwhile."""
    backends = postgresql_backends(postgresql())
    settings = {name.removeprefix("kinto."): value for name, value in backends.items()}
    small_pool = {"storage_pool_size": "1", "storage_max_overflow": "0"}
    small_pool |= {"permission_pool_size": "1", "permission_max_overflow": "0"}
    server, url = server_of("granian", **settings, **small_pool)
    upload(url, 64 * MIB)
    options = {"auth": AUTH, "stream": True, "timeout": 30}
    with (
        requests.get(f"{url}/attachment", **options) as one,
        requests.get(f"{url}/attachment", **options) as two,
    ):
        assert one.ok and two.ok
        record = requests.get(url, auth=AUTH, timeout=10)
        assert record.json()["data"]["attachment"]["size"] == 64 * MIB
