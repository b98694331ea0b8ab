"""The README's commands, run as printed against the server of ``make serve``."""

import json
import os
import re
import subprocess
import sys

import pytest
import requests
from pyramid_storage.extensions import GROUPS

from kinto_attachment.settings.options import OPTIONS, PER_COLLECTION
from tests.support.documentation import only, readme
from tests.support.paths import SCRIPTS
from tests.support.servers import TryOutServer


RECORD = "/buckets/default/collections/photos/records/first"
AUTH = ("alice", "secret")
PHOTO = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def server(external, tmp_path_factory):
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
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": "/nonexistent"}


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


def test_the_quick_starts_commands_attach_download_and_detach(server, folder, attached):
    attach = only("shell", "-F attachment=@photo.jpg \\\n    http")
    attachment = json.loads(run_shell(folder, for_server(attach, server)))
    assert attached() == attachment
    example = json.loads(only("json", '"location"'))
    assert example.keys() == attachment.keys()
    assert server.stored("photos") == [PHOTO]

    printed = only("shell", "-X DELETE")
    rest = re.sub(r"http://localhost:8888/v1/__files__/\S+", attachment["location"], printed)
    assert rest != printed
    run_shell(folder, for_server(rest, server))
    assert (folder / "downloaded.jpg").read_bytes() == PHOTO
    assert attached() is None
    assert server.stored("photos") == []


@pytest.mark.parametrize(
    "command",
    ["curl -u alice:secret -F attachment=@photo.jpg \\\n    -F", "http --multipart"],
)
def test_the_api_sections_commands_set_attributes_and_permissions(server, folder, command):
    run_shell(folder, for_server(only("shell", command), server))
    written = record(server)
    assert written["data"]["attachment"]["filename"] == "photo.jpg"
    assert written["data"]["title"] == "Spring"
    assert written["permissions"]["read"] == ["system.Everyone"]
    requests.delete(server.url + RECORD, auth=AUTH, timeout=10).raise_for_status()


def test_the_api_sections_python_attaches(server, folder, attached):
    example = only("python", "json.dumps")
    printed = run(folder, sys.executable, "-c", for_server(example, server))
    assert printed.strip() == attached()["location"]
    assert record(server)["data"]["title"] == "Spring"


def test_the_digests_in_the_examples_are_right(server, folder, attached):
    printed = run_shell(folder, for_server(only("shell", "openssl"), server))
    assert json.loads(printed) == attached()
    example = only("python", "Content-Digest")
    printed = run(folder, sys.executable, "-c", for_server(example, server))
    assert printed.strip() == attached()["hash"]


def settings_table():
    """Return ``{name: (default, scope)}`` of the README's table of settings."""
    table = readme().split("\nSettings\n", 1)[1].split("A server has exactly one of", 1)[0]
    rows = re.findall(r"   \* - (.+)\n     - (.+)\n     - (.+)\n", table)
    return {
        name.strip("`"): (default, scope)
        for names, default, scope in rows[1:]
        for name in names.split(", ")
    }


def test_all_settings_are_in_the_table_with_their_defaults_and_scopes():
    table = settings_table()
    assert table.keys() == OPTIONS.keys()
    for name, (default, scope) in table.items():
        assert scope == ("collection" if name in PER_COLLECTION else "server"), name
        printed = re.search(f"^(?:``{re.escape(name)}``: )?``([^`]+)``$", default)
        if printed:
            assert OPTIONS[name].default == printed[1], name
        else:
            assert OPTIONS[name].default == "", name


def test_all_groups_of_extensions_are_listed():
    listed = readme().split("\nGroups of extensions\n", 1)[1].split("\nAmazon S3\n", 1)[0]
    groups = dict(re.findall(r"- ``(\w+)``: (.+)", listed))
    assert groups.keys() == GROUPS.keys()
    for name in GROUPS.keys() - {"default", "any"}:
        assert tuple(groups[name].split(", ")) == GROUPS[name]
