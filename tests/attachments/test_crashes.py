"""Workers that are killed at every step from receiving to deleting, a database that stops."""

import contextlib
import io
import uuid

import pytest
import requests
import transaction

from kinto_attachment.deletions import Deletions
from tests.support.app import RECORD, App
from tests.support.forms import file_part, multipart
from tests.support.gcs import GCSBucket
from tests.support.paths import ROOT
from tests.support.postgresql import create_database, postgresql_backends, postgresql_server
from tests.support.s3 import Bucket, eventually
from tests.support.servers import Server
from tests.support.settings import base_settings
from tests.support.users import ALICE


AUTH = ("alice", "secret")
LARGE = bytes(range(256)) * 4 * 1024 * 8
"""8 MiB: more than one part of an upload to S3."""

# What is left of each: the files that no record points at, and those that are not whole.
UNDONE = {
    "staged half": (0, 1),
    "staged whole": (0, 1),
    "published": (1, 0),
    "record written": (1, 0),
    "link written": (1, 0),
}
DONE = ("committed and not deleted", "deleted and not struck out")


class LocalPlace:
    def __init__(self, folder):
        self.folder = folder
        self.settings = {"kinto.attachment.base_path": str(folder)}

    def files(self):
        return {path.name for path in self.folder.iterdir() if path.is_file()}

    def unfinished(self):
        return sorted(path.name for path in (self.folder / ".staging").iterdir())


class BucketPlace:
    def __init__(self, endpoint_url):
        self.bucket = Bucket(endpoint_url, f"bucket-{uuid.uuid4()}")
        options = {"base_path": "", **self.bucket.options}
        self.settings = {f"kinto.attachment.{k}": str(v) for k, v in options.items()}

    def files(self):
        return set(self.bucket.keys())

    def unfinished(self):
        return self.bucket.uploads()


class GCSPlace:
    def __init__(self, url):
        self.bucket = GCSBucket(url, f"bucket-{uuid.uuid4()}")
        options = {"base_path": "", **self.bucket.options}
        self.settings = {f"kinto.attachment.{k}": str(v) for k, v in options.items()}

    def files(self):
        return set(self.bucket.keys())

    def unfinished(self):
        """Return nothing: sessions cannot be listed."""
        return []


class Crashing:
    """A server that is killed and started again, and an application that looks at what it left."""

    def __init__(self, folder, url, place, kind="waitress"):
        self.place = place
        self.armed = folder / "armed"
        self.settings = {**base_settings(), **postgresql_backends(url), **place.settings}
        self.inspector = App(folder / "files", **self.settings)
        self.inspector.create_collection()
        plugin = {"kinto.includes": "kinto_attachment tests.support.killing"}
        settings = {**self.settings, **plugin, "killing.armed": str(self.armed)}
        environment = {"PYTHONPATH": str(ROOT)}
        self.server = Server(kind, folder / "server", settings, environment)

    def url(self, record):
        return f"{self.server.url}/buckets/blog/collections/photos/records/{record}"

    def start(self):
        self.armed.unlink(missing_ok=True)
        if self.server.process.poll() is not None:
            self.server.start()
        self.server.wait_until_ready()

    def upload(self, record, content):
        files = {"attachment": ("story.txt", content)}
        url = f"{self.url(record)}/attachment"
        response = requests.post(url, files=files, auth=AUTH, timeout=60)
        response.raise_for_status()
        return response.json()

    def kill_at(self, step, action):
        self.armed.write_text(step)
        # The worker may delete before or after the answer is sent.
        with contextlib.suppress(requests.ConnectionError):
            action()
        assert self.server.process.wait(20) == -9

    def seen(self):
        """Return the names of the files of records, of links, of releases and of all, and how
        many records there are."""
        transaction.abort()
        records = self.inspector.registry.storage.list_all(
            "record", "/buckets/blog/collections/photos"
        )
        attached = {record["attachment"]["location"] for record in records}
        storage = self.inspector.registry.attachments.files
        files = self.place.files()
        return (
            {name for name in files if storage.url(name) in attached} if attached else set(),
            {link["location"] for link in self.inspector.links()},
            set(self.inspector.released()),
            files,
            len(attached),
        )

    def wait_until_nothing_is_released(self):
        # The first requests of a worker have it look for what others have left.
        assert eventually(lambda: requests.get(self.server.url, timeout=30) and not self.seen()[2])


PLACES = ("local", "S3", "GCS")
STEPS = [
    (place, step)
    for place in PLACES
    for step in (*UNDONE, *DONE)
    # What a killed worker leaves in the database does not depend on the storage.
    if place != "GCS" or step not in ("record written", "link written")
]


@pytest.fixture(scope="module")
def crashing(request, postgresql, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crashing")
    if request.param == "local":
        place = LocalPlace(folder / "files")
    elif request.param == "GCS":
        place = GCSPlace(request.getfixturevalue("fake_gcs").url)
    else:
        place = BucketPlace(request.getfixturevalue("seaweedfs").endpoint_url)
    crashing = Crashing(folder, postgresql(), place)
    yield crashing
    crashing.server.stop()
    if request.param == "S3":
        place.bucket.client.delete_bucket(Bucket=place.bucket.name)


@pytest.fixture
def previous(crashing):
    """The attachment of a record on a server that runs, and what else there is."""
    crashing.start()
    attachment = crashing.upload("first", b"previous")
    crashing.wait_until_nothing_is_released()
    return attachment


@pytest.mark.parametrize(("crashing", "step"), STEPS, indirect=["crashing"], scope="module")
def test_a_worker_is_killed_while_it_replaces_a_file(crashing, previous, step):
    before, unfinished_before = crashing.seen(), crashing.place.unfinished()
    crashing.kill_at(step, lambda: crashing.upload("first", LARGE))

    on_records, on_links, _, files, records = crashing.seen()
    assert len(on_records) == records, "a record points at a missing file"
    assert on_records == on_links

    crashing.start()
    crashing.wait_until_nothing_is_released()
    on_records, on_links, _, files, records = crashing.seen()
    assert len(on_records) == records
    assert on_records == on_links
    orphans, unfinished = UNDONE.get(step, (0, 0))
    assert len(files - on_records) == len(before[3] - before[0]) + orphans
    if not isinstance(crashing.place, GCSPlace):
        assert len(crashing.place.unfinished()) == len(unfinished_before) + unfinished
    assert (on_records == before[0]) == (step in UNDONE)


@pytest.mark.parametrize("crashing", PLACES, indirect=True, scope="module")
def test_a_worker_is_killed_before_it_deletes_the_files_of_a_bucket(crashing, previous):
    crashing.upload("second", b"another")
    orphans = crashing.seen()[3] - crashing.seen()[0]
    url = f"{crashing.server.url}/buckets/blog"
    crashing.kill_at(
        "committed and not deleted", lambda: requests.delete(url, auth=AUTH, timeout=60)
    )
    crashing.start()
    crashing.wait_until_nothing_is_released()
    assert crashing.seen()[:4] == (set(), set(), set(), orphans)
    crashing.inspector.create_collection()
    transaction.commit()


def test_a_deletion_that_hangs_holds_up_neither_the_answer_nor_the_end(postgresql, tmp_path):
    crashing = Crashing(tmp_path, postgresql(), LocalPlace(tmp_path / "files"), "granian")
    crashing.start()
    crashing.upload("first", b"previous")
    crashing.armed.write_text("deletion hangs")
    requests.delete(crashing.url("first"), auth=AUTH, timeout=60).raise_for_status()
    assert eventually(lambda: crashing.armed.read_text() == "hanging")
    assert crashing.place.files() == crashing.seen()[2] != set()
    crashing.server.process.terminate()
    assert crashing.server.process.wait(20) == 0
    crashing.start()
    crashing.wait_until_nothing_is_released()
    crashing.server.stop()
    assert crashing.place.files() == set()


class TestDatabaseThatStops:
    @pytest.fixture(scope="class")
    @classmethod
    def database(cls, external):
        with postgresql_server() as server:
            yield server

    @pytest.fixture
    def app(self, database, tmp_path):
        database.ensure_postgres_running()
        app = App(tmp_path, **postgresql_backends(create_database(database)))
        app.create_collection()
        return app

    def test_in_the_middle_of_an_upload(self, app, database):
        app.upload(file_part(b"previous"))
        before = app.state()
        transaction.abort()
        body = io.BytesIO(multipart(file_part(LARGE)))

        class Stopping(io.RawIOBase):
            def read(self, size=-1):
                if body.tell() > len(LARGE) / 2:
                    database.stop()
                return body.read(size)

        length = len(body.getvalue())
        answer = app.upload_raw(Stopping(), length, status=503)
        assert answer.json["errno"] == 201
        assert list(app.files().values()) == [b"previous"]
        database.ensure_postgres_running()
        assert app.state() == before
        transaction.abort()
        app.upload(file_part(b"new"), status=200)
        assert list(app.files().values()) == [b"new"]

    def test_between_the_commit_and_the_deleting(self, app, database, monkeypatch):
        previous = app.upload(file_part(b"previous")).json["location"]
        process = Deletions.process

        def stop_first(self, entries):
            database.stop()
            return process(self, entries)

        with monkeypatch.context() as patch:
            patch.setattr(Deletions, "process", stop_first)
            app.upload(file_part(b"new"), status=200)
            app.wait_for_deletions()
        assert sorted(app.files().values()) == [b"new", b"previous"]
        database.ensure_postgres_running()
        assert app.released() == [previous]
        transaction.abort()
        monkeypatch.setattr("kinto_attachment.deletions.SECONDS_BETWEEN_RETRIES", 0)
        app.retry_deletions()
        assert list(app.files().values()) == [b"new"]
        assert app.released() == []
        assert app.get(RECORD, headers=ALICE).json["data"]["attachment"]["size"] == 3
