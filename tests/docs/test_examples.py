"""The commands of the documentation, run as printed against the server of ``make serve``."""

import json
import re
import subprocess
import sys

import pytest
import requests

from tests.support.documentation import ENVIRONMENT, only
from tests.support.servers import TryOutServer


RECORD = "/buckets/default/collections/photos/records/first"
GUIDE = "docs/how-to/attach-files"
AUTH = ("alice", "secret")
PHOTO = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def server(external, tmp_path_factory):
    server = TryOutServer(tmp_path_factory.mktemp("examples"))
    yield server.wait_until_ready()
    server.stop()


@pytest.fixture
def folder(tmp_path):
    """A folder with the photo of the examples."""
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    return tmp_path


def for_server(code, server):
    assert "http://localhost:8888" in code
    return code.replace("http://localhost:8888", server.url.removesuffix("/v1"))


def run(folder, *command):
    """Return what a command printed."""
    finished = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, env=ENVIRONMENT
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def run_shell(folder, code):
    code = re.sub("^http ", "http --check-status --ignore-stdin ", code)
    return run(
        folder, "bash", "-e", "-c", re.sub("^curl ", "curl --fail-with-body -sS ", code, flags=re.M)
    )


def record(server):
    return requests.get(server.url + RECORD, auth=AUTH, timeout=10).json()


@pytest.fixture
def attached(server):
    """A function that returns the attachment of the record in the examples."""
    return lambda: record(server)["data"]["attachment"]


@pytest.mark.parametrize("name", ["README", "docs/tutorial"])
def test_the_first_upload_prints_the_attachment_of_the_record(server, folder, attached, name):
    attach = only(name, "shell", "-F attachment=@photo.jpg \\\n    http")
    attachment = json.loads(run_shell(folder, for_server(attach, server)))
    assert attached() == attachment
    example = json.loads(only(name, "json", '"location"'))
    assert example.keys() == attachment.keys()
    server.assert_stored("photos", [PHOTO])


def test_the_tutorial_downloads_and_detaches_the_attachment(server, folder, attached):
    attach = only("docs/tutorial", "shell", "-F attachment=@photo.jpg \\\n    http")
    attachment = json.loads(run_shell(folder, for_server(attach, server)))
    printed = only("docs/tutorial", "shell", "-X DELETE")
    rest = re.sub(r"http://localhost:8888/v1/__files__/\S+", attachment["location"], printed)
    assert rest != printed
    run_shell(folder, for_server(rest, server))
    assert (folder / "downloaded.jpg").read_bytes() == PHOTO
    assert attached() is None
    server.assert_stored("photos", [])


@pytest.mark.parametrize(
    "command",
    ["curl -u alice:secret -F attachment=@photo.jpg \\\n    -F", "http --multipart"],
)
def test_the_commands_set_attributes_and_permissions(server, folder, command):
    run_shell(folder, for_server(only(GUIDE, "shell", command), server))
    written = record(server)
    assert written["data"]["attachment"]["filename"] == "photo.jpg"
    assert written["data"]["title"] == "Spring"
    assert written["permissions"]["read"] == ["system.Everyone"]
    requests.delete(server.url + RECORD, auth=AUTH, timeout=10).raise_for_status()


def test_the_python_example_attaches(server, folder, attached):
    example = only(GUIDE, "python", "json.dumps")
    printed = run(folder, sys.executable, "-c", for_server(example, server))
    assert printed.strip() == attached()["location"]
    assert record(server)["data"]["title"] == "Spring"


def test_the_digests_in_the_examples_are_right(server, folder, attached):
    printed = run_shell(folder, for_server(only(GUIDE, "shell", "openssl"), server))
    assert json.loads(printed) == attached()
    example = only(GUIDE, "python", "Content-Digest")
    printed = run(folder, sys.executable, "-c", for_server(example, server))
    assert printed.strip() == attached()["hash"]


RESUMABLE = "docs/how-to/resumable-uploads"


def test_curl_continues_what_broke_off(server, folder, attached):
    run_shell(folder, for_server(only(RESUMABLE, "shell", "-X POST"), server))
    send = only(RESUMABLE, "shell", "-X PATCH").replace("| curl", "| curl --fail-with-body -sS")
    run_shell(folder, send.replace("photo.jpg |", "photo.jpg | head -c 100000 |"))
    assert json.loads(run_shell(folder, send)) == attached()
    server.assert_stored("photos", [PHOTO])


def test_tuspy_uploads_as_shown(server, folder, attached):
    example = for_server(only(RESUMABLE, "python", "TusClient"), server)
    run(folder, sys.executable, "-c", example)
    assert attached()["filename"] == "photo.jpg"
    server.assert_stored("photos", [PHOTO])
