"""The guide to upgrades, walked with the settings, records, links and files of earlier plugins."""

import logging
import subprocess

import pytest
import transaction
import webtest
from pyramid.paster import get_app

from kinto_attachment.commands.main import main
from tests.support.app import App
from tests.support.commands import GCS, S3, Folder
from tests.support.documentation import ENVIRONMENT, blocks, replaced
from tests.support.forms import file_part
from tests.support.gcs import TokenServer
from tests.support.legacy import ARTICLES, BUCKET, PHOTOS, leave_attachments
from tests.support.paths import ROOT
from tests.support.postgresql import postgresql_backends
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.users import ALICE


def record(number):
    return f"{PHOTOS}/records/r{number}"


class Earlier(App):
    """A deployment of an earlier plugin, of which the settings file is used as it is.

    :ivar expected: ``{record URI: key}`` of the files that should exist.
    """

    def __init__(self, ini, store, base_url, capsys):
        webtest.TestApp.__init__(self, get_app(str(ini)), lint=False)
        self.registry = self.app.registry
        for backend in ("storage", "permission", "cache"):
            getattr(self.registry, backend).initialize_schema()
        user = self.get("/", headers=ALICE).json["user"]["id"]
        self.expected = leave_attachments(self.registry, store, base_url, user)
        self.ini = str(ini)
        self.store = store
        self._base_url = base_url
        self._capsys = capsys

    def replace(self, record_uri, content):
        """Attach another file to a record."""
        location = self.upload(file_part(content), url=f"{record_uri}/attachment").json["location"]
        assert location.startswith(self._base_url)
        self.expected[record_uri] = location.removeprefix(self._base_url)
        self.wait_for_deletions()
        assert self.store.files()[self.expected[record_uri]] == content

    def remove(self, path, *record_uris):
        """Delete what is there, and with it the files of these records."""
        self.delete(path, headers=ALICE)
        for uri in record_uris:
            del self.expected[uri]

    def check_files(self):
        """Compare what is in the storage with what should be there."""
        self.wait_for_deletions()
        assert sorted(self.store.files()) == sorted(set(self.expected.values()))

    def run_printed(self):
        """Run the commands of the guide, and return what they print."""
        printed = ""
        for commands in blocks("docs/how-to/upgrade", "shell"):
            commands = commands.replace("/etc/kinto/production.ini", self.ini)
            # What is younger than an hour is not looked at.
            for command in ("repair", "check"):
                commands = commands.replace(f"{command} --ini", f"{command} --grace 0 --ini")
            finished = subprocess.run(
                ["bash", "-c", commands],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
                env=ENVIRONMENT,
            )
            printed += finished.stdout
            assert finished.returncode == 0, printed
        return printed

    def command(self, *arguments):
        """Return the exit code and the output of ``kinto-attachment``."""
        self._capsys.readouterr()
        code = main([arguments[0], "--ini", self.ini, "--grace", "0", *arguments[1:]])
        return code, self._capsys.readouterr().out


@pytest.fixture
def logged():
    """Log as before, after a command has set how much it logs."""
    loggers = [logging.getLogger(name) for name in ("kinto", "kinto_attachment")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def in_folder(request, ini):
    return ini, Folder(request.getfixturevalue("tmp_path") / "files"), ""


def on_s3(request, ini):
    bucket = request.getfixturevalue("bucket")
    port = bucket.endpoint_url.rpartition(":")[2]
    actual = {
        "files": bucket.name,
        "port = 1": f"port = {port}",
        "_key = key": f"_key = {ACCESS_KEY}",
        "_key = secret": f"_key = {SECRET_KEY}",
    }
    return replaced(ini, actual), S3(bucket), "https://cdn.example.com/"


def on_gcs(request, ini):
    bucket = request.getfixturevalue("emulated_bucket")
    request.getfixturevalue("token_server").write_key(
        request.getfixturevalue("tmp_path") / "key.json"
    )
    ini = (
        ini.replace("files", bucket.name) + f"kinto.attachment.gcloud.endpoint_url = {bucket.url}\n"
    )
    return ini, GCS(bucket), ""


@pytest.fixture
def token_server():
    server = TokenServer()
    yield server
    assert server.given > 0
    server.stop()


PLACES = {"folder": in_folder, "s3": on_s3, "gcs": on_gcs}


@pytest.fixture(params=PLACES)
def earlier(request, tmp_path, postgresql, capsys, logged):
    ini = (ROOT / "tests" / "settings" / "earlier" / f"{request.param}.ini").read_text()
    backends = postgresql_backends(postgresql())
    ini = ini.replace(".memory\n", ".postgresql\n")
    ini += "".join(f"{key} = {url}\n" for key, url in backends.items() if key.endswith("_url"))
    ini, store, base_url = PLACES[request.param](request, ini)
    (tmp_path / "earlier.ini").write_text(ini)
    yield Earlier(tmp_path / "earlier.ini", store, base_url, capsys)
    transaction.abort()
    for key in store.files():
        store.remove(key)


def test_a_deployment_of_an_earlier_plugin_goes_on_as_the_guide_says(earlier):
    assert earlier.get("/__heartbeat__").json["attachments"] is True
    earlier.check_files()

    # Before the migration.
    earlier.replace(record(1), b"replaced early")
    earlier.remove(record(2), record(2))
    earlier.check_files()

    printed = earlier.run_printed()
    assert "48 links of earlier plugins would be migrated" in printed
    assert "48 links of earlier plugins were migrated" in printed
    assert "missing-link" in printed
    assert printed.endswith("Compared 49 files, 50 links, 50 records\n")
    earlier.check_files()

    # Replaced, detached, deleted, copied, with their collection.
    earlier.replace(record(3), b"replaced")
    earlier.remove(f"{record(4)}/attachment", record(4))
    earlier.remove(record(5), record(5))
    earlier.remove(record(0), record(0))
    earlier.check_files()
    earlier.remove(f"{PHOTOS}/records/copied", f"{PHOTOS}/records/copied")
    earlier.remove(ARTICLES, *[uri for uri in earlier.expected if uri.startswith(ARTICLES)])
    earlier.check_files()
    assert earlier.command("check", "--hash") == (0, "Compared 36 files, 36 links, 36 records\n")

    earlier.store.remove(earlier.expected.pop(record(6)))
    earlier.store.put("blog/photos/0d6b0d1c-7b5a-4d8e-9a53-0a7f6a1f1d11.txt", b"orphan")
    code, found = earlier.command("check")
    assert code == 1
    assert "1 missing-file, 1 orphan-file" in found
    earlier.command("repair", "--delete-files")
    earlier.remove(f"{record(6)}/attachment")
    earlier.check_files()
    assert earlier.command("check") == (0, "Compared 35 files, 35 links, 35 records\n")

    earlier.remove(BUCKET, *earlier.expected.copy())
    earlier.check_files()
