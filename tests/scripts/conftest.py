"""The fixtures of the tests of the scripts."""

import json
import uuid

import pytest

from kinto_attachment.scripts import upload
from tests.support.fake_kinto import FakeKinto
from tests.support.scripts import Scripts, download_from, make_folder


@pytest.fixture(autouse=True)
def state_folder(tmp_path, monkeypatch):
    """The folder in which the upload script remembers what it has begun."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "kinto-attachment-upload"


@pytest.fixture
def kinto():
    """A fake Kinto, which responds as a test wants."""
    with FakeKinto() as server:
        yield server


@pytest.fixture
def scripts(server):
    """The scripts on a real server, with a bucket of their own."""
    return Scripts(server.url, bucket=uuid.uuid4().hex)


@pytest.fixture
def source(tmp_path):
    """A folder to upload."""
    return make_folder(tmp_path / "source", 5)


@pytest.fixture
def folder(tmp_path):
    """The path of the folder to download to."""
    return tmp_path / "copy"


@pytest.fixture
def get(kinto, folder, capsys):
    """Run the download script in this process on the fake server, and return the lines of JSON."""
    return download_from(kinto, folder, capsys)


@pytest.fixture
def upload_to(kinto, capsys):
    """Run the upload script in this process on the fake server, and return the lines of JSON."""

    def run(*args, code=0, auth="alice:secret"):
        options = ["-s", kinto.url, "-a", auth, "-b", "blog", "-c", "photos", "--json"]
        assert upload.main([*options, *map(str, args)]) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run
