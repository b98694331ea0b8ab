"""Real clients of tus against a running server, and the examples of the guide, as printed."""

import base64
import hashlib
import json
import os
import sys

import pytest
import requests
from tusclient.client import TusClient

from tests.docs.test_examples import run, run_shell
from tests.support.documentation import only
from tests.support.node import install, run_node
from tests.support.paths import ROOT
from tests.support.servers import Server
from tests.support.settings import base_settings


GUIDE = "docs/how-to/resumable-uploads"
RECORD = "/buckets/default/collections/photos/records/first"
AUTH = ("alice", "secret")
HEADERS = {"Authorization": "Basic " + base64.b64encode(b"alice:secret").decode()}
MIB = 1024**2
CONTENT = os.urandom(3 * MIB + 5)


@pytest.fixture(scope="module")
def server(external, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    settings = {**base_settings(), "kinto.attachment.base_path": str(folder / "files")}
    server = Server("granian", folder, settings).wait_until_ready()
    server.files = folder / "files"
    yield server
    server.stop()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(CONTENT)
    return tmp_path


def attached(server):
    """Return the attachment and the content of its file."""
    answer = requests.get(server.url + RECORD, auth=AUTH, timeout=10).json()
    attachment = answer["data"]["attachment"]
    return attachment, (server.files / attachment["location"]).read_bytes()


def check(server, content=CONTENT):
    attachment, stored = attached(server)
    assert stored == content
    assert attachment["hash"] == hashlib.sha256(content).hexdigest()
    assert [path for path in server.files.rglob("*") if path.is_file()] == [
        server.files / attachment["location"]
    ]
    requests.delete(server.url + RECORD, auth=AUTH, timeout=10)


def printed(server, language, text):
    code = only(GUIDE, language, text)
    return code.replace("http://localhost:8888", server.url.removesuffix("/v1"))


def test_the_commands_of_the_guide_upload(server, folder):
    run_shell(folder, printed(server, "shell", "-X POST"))
    answer = run_shell(folder, printed(server, "shell", "-X PATCH").replace("| curl", "| curl -sS"))
    assert json.loads(answer) == attached(server)[0]
    check(server)


def test_the_commands_of_the_guide_continue(server, folder):
    run_shell(folder, printed(server, "shell", "-X POST"))
    again = printed(server, "shell", "-X PATCH").replace("| curl", "| curl -sS")
    run_shell(folder, again.replace("photo.jpg |", "photo.jpg | head -c 1000000 |"))
    run_shell(folder, again)
    check(server)


def test_the_python_of_the_guide_uploads(server, folder):
    run(folder, sys.executable, "-c", printed(server, "python", "TusClient"))
    check(server)


def test_tuspy_continues_with_checksums(server, folder):
    client = TusClient(f"{server.url}{RECORD}/attachment/uploads", HEADERS)
    options = {"chunk_size": MIB, "metadata": {"filename": "photo.jpg"}, "upload_checksum": True}
    first = client.uploader(str(folder / "photo.jpg"), **options)
    first.upload_chunk()
    other = client.uploader(str(folder / "photo.jpg"), url=first.url, **options)
    assert other.offset == MIB
    other.upload()
    check(server)


@pytest.fixture(scope="module")
def javascript(tmp_path_factory):
    return install(ROOT / "tests" / "javascript", tmp_path_factory.mktemp("javascript"))


def tus_js(javascript, server, path, mode="", **options):
    usual = {
        "endpoint": f"{server.url}{RECORD}/attachment/uploads",
        "headers": HEADERS,
        "metadata": {"filename": "photo.jpg", "filetype": "image/jpeg"},
    }
    given = json.dumps({**usual, **options})
    lines = run_node("node", "resumable.js", given, path, mode, cwd=javascript)
    return [json.loads(line) for line in lines.splitlines()]


WAYS = {
    "whole": {},
    "in chunks": {"chunkSize": MIB},
    "during the creation": {"uploadDataDuringCreation": True},
    "during the creation, in chunks": {"uploadDataDuringCreation": True, "chunkSize": MIB},
    "by POST": {"overridePatchMethod": True, "chunkSize": MIB},
}


@pytest.mark.parametrize("way", WAYS)
def test_tus_js_client_uploads(javascript, server, folder, way):
    reports = tus_js(javascript, server, folder / "photo.jpg", **WAYS[way])
    assert [one["what"] for one in reports] == ["url", "success"]
    etag = requests.get(server.url + RECORD, auth=AUTH, timeout=10).headers["ETag"]
    assert reports[-1]["etag"] == etag
    check(server)


def test_the_javascript_of_the_guide_uploads(javascript, server, folder):
    beginning = """
        import { createRequire } from "node:module";
        import { readFileSync } from "node:fs";
        const tus = createRequire(import.meta.url)("tus-js-client");
        const file = readFileSync(process.argv[2]);
    """
    printed_code = printed(server, "javascript", "tus.Upload")
    (javascript / "guide.mjs").write_text(beginning + printed_code)
    lines = run_node("node", "guide.mjs", folder / "photo.jpg", cwd=javascript).splitlines()
    assert lines[-1] == "attached"
    record = requests.get(server.url + RECORD, auth=AUTH, timeout=10).json()["data"]
    assert record["title"] == "Spring"
    check(server)


def test_tus_js_client_uploads_an_empty_file(javascript, server, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    reports = tus_js(javascript, server, tmp_path / "empty")
    assert [one["what"] for one in reports] == ["url", "success"]
    check(server, b"")


@pytest.mark.parametrize("options", [{}, {"chunkSize": MIB}], ids=["whole", "in chunks"])
def test_tus_js_client_continues_what_was_aborted(javascript, server, folder, options):
    reports = tus_js(javascript, server, folder / "photo.jpg", "abort", **options)
    urls = {one["url"] for one in reports if "url" in one}
    assert len(urls) == 1
    assert reports[-1]["what"] == "success"
    check(server)
