"""Clients that people have, with resumable uploads to a running server."""

import hashlib
import itertools
import json
import os

import pytest
import requests
import tusclient.client
from tusclient.storage.filestorage import FileStorage

from tests.support.fake_kinto import BreakingLine
from tests.support.node import run_node
from tests.support.scripts import MIB, start_server
from tests.support.servers import assert_eventually, files_in
from tests.support.users import ALICE


SIZE = 3 * MIB


@pytest.fixture(scope="module")
def server(external, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tus-clients")
    server = start_server(folder, {"attachment__serve_files": "true"})
    server.files = folder / "files"
    collection = f"{server.url}/buckets/blog/collections/photos"
    for url in (collection.removesuffix("/collections/photos"), collection):
        requests.put(url, headers=ALICE, timeout=30).raise_for_status()
    yield server
    server.stop()


numbers = itertools.count()


@pytest.fixture
def record(server):
    """The path of a record."""
    return f"/buckets/blog/collections/photos/records/film-{next(numbers)}"


@pytest.fixture
def film(tmp_path):
    film = tmp_path / "film.mp4"
    film.write_bytes(os.urandom(SIZE))
    return film


def attached(server, record):
    return requests.get(server.url + record, headers=ALICE, timeout=30).json()["data"]["attachment"]


def check(server, record, content):
    """Check that a record has this content, and that there is no other file. Delete it."""
    attachment = attached(server, record)
    sha256 = hashlib.sha256(content).hexdigest()
    assert (attachment["size"], attachment["hash"]) == (len(content), sha256)
    # The file of the test before is deleted after the answer.
    assert_eventually(lambda: len(files_in(server.files)), 1)
    (stored,) = files_in(server.files)
    assert attachment["location"].endswith(f"/{stored.name}")
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == sha256
    requests.delete(server.url + record, headers=ALICE, timeout=30).raise_for_status()


@pytest.fixture
def node(server, record, javascript, film):
    """Run a scenario of tus-js-client, and return what it printed."""

    def run(scenario, url=server.url):
        endpoint = f"{url}{record}/attachment/uploads"
        printed = json.loads(run_node("node", "tus.js", endpoint, scenario, film, cwd=javascript))
        return {**printed, "methods": [method for method, *_ in printed["requests"]]}

    return run


METHODS = {
    "whole": ["POST", "PATCH"],
    "chunked": ["POST", "PATCH", "PATCH", "PATCH"],
    "creation with data": ["POST"],
    "creation with a chunk": ["POST", "PATCH", "PATCH"],
    "deferred length": ["POST", "PATCH", "PATCH", "PATCH"],
    "method override": ["POST", "POST", "POST", "POST"],
    "resumed": ["POST", "PATCH", "PATCH", "HEAD", "PATCH"],
}


@pytest.mark.parametrize("scenario", METHODS)
def test_tus_js_client_uploads(server, record, node, film, scenario):
    printed = node(scenario)
    assert printed.get("error") is None
    assert printed["methods"] == METHODS[scenario]
    attachment = attached(server, record)
    assert (attachment["filename"], attachment["mimetype"]) == ("film.mp4", "video/mp4")
    check(server, record, film.read_bytes())


def test_tus_js_client_uploads_an_empty_file(server, record, node):
    assert node("empty")["methods"] == ["POST"]
    check(server, record, b"")


def test_tus_js_client_terminates_an_upload(server, record, node):
    printed = node("terminated")
    assert printed["methods"] == ["POST", "PATCH", "PATCH", "DELETE"]
    headers = {**ALICE, "Tus-Resumable": "1.0.0"}
    assert requests.head(printed["url"], headers=headers, timeout=30).status_code == 404
    assert requests.get(server.url + record, headers=ALICE, timeout=30).status_code == 404


def test_parallel_uploads_of_tus_js_client_are_refused(server, record, node):
    """The server does not advertise their extension, ``concatenation``."""
    assert "400" in node("parallel")["error"]
    assert requests.get(server.url + record, headers=ALICE, timeout=30).status_code == 404


def test_tus_js_client_resumes_on_a_line_that_breaks(server, record, node, film):
    with BreakingLine(server.url, breaks=2) as line:
        printed = node("chunked", line.url)
        assert printed.get("error") is None
        assert line.left == 0
        check(server, record, film.read_bytes())
    assert printed["methods"].count("POST") == 1


@pytest.fixture
def tuspy(server, record, film, tmp_path):
    """Return an uploader of tuspy."""

    def uploader(url=server.url, **options):
        client = tusclient.client.TusClient(f"{url}{record}/attachment/uploads", headers=ALICE)
        return client.uploader(
            str(film),
            metadata={"filename": "film.mp4", "filetype": "video/mp4"},
            upload_checksum=True,
            **options,
        )

    return uploader


@pytest.mark.parametrize("chunk", [MIB, SIZE])
def test_tuspy_uploads_with_checksums(server, record, tuspy, film, chunk):
    tuspy(chunk_size=chunk).upload()
    check(server, record, film.read_bytes())


def test_tuspy_resumes_with_a_stored_url(server, record, tuspy, film, tmp_path):
    storage = FileStorage(str(tmp_path / "urls.json"))
    options = {"chunk_size": MIB, "store_url": True, "url_storage": storage}
    first = tuspy(**options)
    first.upload(stop_at=MIB)
    second = tuspy(**options)
    assert (second.url, second.offset) == (first.url, MIB)
    second.upload()
    check(server, record, film.read_bytes())


def test_tuspy_resumes_on_a_line_that_breaks(server, record, tuspy, film):
    with BreakingLine(server.url, breaks=2) as line:
        tuspy(line.url, chunk_size=MIB, retries=3, retry_delay=0).upload()
        assert line.left == 0
        check(server, record, film.read_bytes())
