"""The README's commands, run as printed against the server of ``make serve``."""

import json
import os
import re
import subprocess
import sys

import pytest
import requests

from tests.readme import blocks
from tests.support import TryOutServer, basic_auth


RECORD = "/buckets/default/collections/photos/records/first"
PHOTO = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = TryOutServer(tmp_path_factory.mktemp("readme"))
    yield server.wait_until_ready()
    server.stop()


@pytest.fixture
def folder(tmp_path):
    """A folder with the photo that the README is about."""
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    return tmp_path


def for_server(code, server):
    assert "http://localhost:8888" in code
    return code.replace("http://localhost:8888", server.url.removesuffix("/v1"))


def run(folder, *command):
    """Return what a command printed."""
    finished = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, env=environment()
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def environment():
    # curl would look for a proxy, and for settings of its own.
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def run_shell(folder, code):
    return run(folder, "bash", "-e", "-c", code.replace("curl ", "curl --fail-with-body -sS "))


def record(server):
    headers = {"Authorization": basic_auth("alice")}
    return requests.get(server.url + RECORD, headers=headers, timeout=10).json()


def curl_blocks():
    return [block for block in blocks("shell") if "-u alice:secret" in block and "curl" in block]


def test_the_quick_starts_commands_attach_download_and_detach(server, folder):
    attach, look_and_detach, _ = curl_blocks()
    attachment = json.loads(run_shell(folder, for_server(attach, server)))
    assert record(server)["data"]["attachment"] == attachment
    (example,) = [json.loads(block) for block in blocks("json") if '"location"' in block]
    assert example.keys() == attachment.keys()
    assert server.stored("photos") == [PHOTO]

    rest = re.sub(
        r"http://localhost:8888/v1/__files__/\S+", attachment["location"], look_and_detach
    )
    assert rest != look_and_detach
    run_shell(folder, for_server(rest, server))
    assert (folder / "downloaded.jpg").read_bytes() == PHOTO
    assert record(server)["data"]["attachment"] is None
    assert server.stored("photos") == []


def test_the_api_sections_curl_sets_attributes_and_permissions(server, folder):
    *_, with_fields = curl_blocks()
    run_shell(folder, for_server(with_fields, server))
    written = record(server)
    assert written["data"]["title"] == "Spring"
    assert written["permissions"]["read"] == ["system.Everyone"]


def test_the_api_sections_python_attaches(server, folder):
    (example,) = [block for block in blocks("python") if "import requests" in block]
    printed = run(folder, sys.executable, "-c", for_server(example, server))
    assert printed.strip() == record(server)["data"]["attachment"]["location"]
    assert record(server)["data"]["title"] == "Spring"
