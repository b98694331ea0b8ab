"""What every action leaves behind, however it ends: of files, of links, of records."""

import contextlib
import dataclasses
import itertools
import uuid
from dataclasses import dataclass

import pytest
import sqlalchemy
from kinto.core.events import ResourceChanged

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.names import is_private
from tests.support.app import App
from tests.support.forms import file_part
from tests.support.gcs import GCSBucket
from tests.support.postgresql import postgresql_backends
from tests.support.resumable import CHUNK, TUS, encode
from tests.support.s3 import Bucket
from tests.support.users import ALICE


PHOTOS = "/collections/photos"
FIRST = f"{PHOTOS}/records/first"
SECOND = f"{PHOTOS}/records/second"
NEW = f"{PHOTOS}/records/new"
COPY = "/collections/other/records/copy"
ELSEWHERE = "/buckets/elsewhere/collections/photos/records/first"
BEFORE = {FIRST: b"a", SECOND: b"b", COPY: b"b"}

JSON_PATCH = "application/json-patch+json"
STALE = {"If-Match": '"123"'}


@dataclass
class Action:
    """A request, and the records that hold files once it has succeeded."""

    method: str
    path: str
    body: object = None
    changes: dict = None
    content_type: str = "application/json"

    def holders(self, before):
        held = {**before, **(self.changes or {})}
        return {path: content for path, content in held.items() if content}


ACTIONS = {
    "create": Action("POST", f"{NEW}/attachment", b"n", {NEW: b"n"}),
    "replace": Action("POST", f"{FIRST}/attachment", b"n", {FIRST: b"n"}),
    "create resumed": Action("TUS", f"{NEW}/attachment/uploads", b"n", {NEW: b"n"}),
    "replace resumed": Action("TUS", f"{FIRST}/attachment/uploads", b"n", {FIRST: b"n"}),
    "detach": Action("DELETE", f"{FIRST}/attachment", None, {FIRST: None}),
    "record deleted": Action("DELETE", FIRST, None, {FIRST: None}),
    "list deleted": Action("DELETE", f"{PHOTOS}/records", None, {FIRST: None, SECOND: None}),
    "list with filter": Action("DELETE", f"{PHOTOS}/records?title=a", None, {FIRST: None}),
    "batch": Action("BATCH", FIRST, None, {FIRST: None, SECOND: None}),
    "PUT without": Action("PUT", FIRST, {"data": {"title": "z"}}, {FIRST: None}),
    "PATCH null": Action("PATCH", FIRST, {"data": {"attachment": None}}, {FIRST: None}),
    "JSON patch remove": Action(
        "PATCH", FIRST, [{"op": "remove", "path": "/data/attachment"}], {FIRST: None}, JSON_PATCH
    ),
    "collection": Action("DELETE", PHOTOS, None, {FIRST: None, SECOND: None}),
    "bucket": Action("DELETE", "", None, dict.fromkeys(BEFORE)),
    "flush": Action("POST", "/__flush__", None, dict.fromkeys(BEFORE)),
}

ENDINGS = (
    "commit",
    "listener raises",
    "commit refused",
    "412",
    "412 through the default bucket",
    "storage delete fails",
)

CELLS = [
    (action, ending)
    for action, ending in itertools.product(ACTIONS, ENDINGS)
    # Kinto's flush is committed at once, sends no event of a change, and has no preconditions.
    if action != "flush" or ending in ("commit", "storage delete fails")
]


class World:
    """A Kinto on PostgreSQL, with three records that hold two files, and one in another bucket.

    :ivar before: which records hold files. The copy of a private attachment holds none.
    """

    def __init__(self, app, files):
        self.app = app
        self.files = files
        self.is_private = app.registry.attachments.settings.has_private_files
        self.before = {k: v for k, v in BEFORE.items() if not (self.is_private and k == COPY)}
        self.bucket = None
        self.refusing = False
        app.registry.registerHandler(self._listen, (ResourceChanged,))

    def fill(self, through_default):
        self.refusing = False
        self.app.post("/__flush__", headers=ALICE)
        self.app.wait_for_deletions()
        self.files.clear()
        self.bucket = "/buckets/default" if through_default else "/buckets/blog"
        if not through_default:
            self.app.put_json(self.bucket, headers=ALICE)
        self.app.create_collection("elsewhere", "photos")
        for collection in (PHOTOS, "/collections/other"):
            self.app.put_json(self.bucket + collection, headers=ALICE)
        for path, content in ((FIRST, b"a"), (SECOND, b"b")):
            url = self.bucket + path
            self.app.put_json(url, {"data": {"title": content.decode()}}, headers=ALICE)
            self.app.upload(file_part(content), url=f"{url}/attachment")
        self.app.upload(file_part(b"e"), url=f"{ELSEWHERE}/attachment")
        body = {"data": {"attachment": self.app.record(self.bucket + SECOND)["attachment"]}}
        self.app.put_json(self.bucket + COPY, body, headers=ALICE)

    def do(self, action, headers):
        headers = {**ALICE, **headers}
        if action.method == "BATCH":
            return self._batch(headers)
        url = action.path if action.path == "/__flush__" else self.bucket + action.path
        if action.method == "TUS":
            headers |= {**TUS, **CHUNK, "Upload-Length": "1", "Upload-Metadata": encode()}
            return self.app.post(url, action.body, headers=headers, status="*")
        if isinstance(action.body, bytes):
            return self.app.upload(file_part(action.body), url=url, headers=headers, status="*")
        request = getattr(self.app, f"{action.method.lower()}_json")
        headers["Content-Type"] = action.content_type
        body = () if action.body is None else (action.body,)
        return request(url, *body, headers=headers, status="*")

    def _batch(self, headers):
        conditions = {k: v for k, v in headers.items() if k.startswith("If-")}
        requests = [
            {"method": method, "path": self.bucket + path, "headers": conditions}
            for method, path in (
                ("DELETE", FIRST),
                ("DELETE", f"{PHOTOS}/records/none"),
                ("DELETE", f"{SECOND}/attachment"),
            )
        ]
        return self.app.post_json("/batch", {"requests": requests}, headers=ALICE, status="*")

    def seen(self):
        """Return records with their files, links with theirs, all files, and the released ones."""
        self.app.wait_for_deletions()
        stored = self.files.read()
        assert {key for key in stored if is_private(key) != self.is_private} == set()
        contents = {self.app.registry.attachments.files.url(n): c for n, c in stored.items()}
        records = {}
        for path in (FIRST, SECOND, NEW, COPY):
            answer = self.app.get(self.bucket + path, headers=ALICE, status="*").json
            attachment = answer.get("data", {}).get("attachment")
            if attachment and self.is_private:
                url = f"{self.bucket}{path}/attachment"
                fetched = self.app.get(url, headers=ALICE, status=(200, 404))
                records |= {path: fetched.body} if fetched.status_int == 200 else {}
            elif attachment:
                records[path] = contents[attachment["location"]]
        links = {
            "/" + link["record_uri"].split("/", 3)[3]: stored[link["location"]]
            for link in self.app.links()
            if link["bucket_uri"] != "/buckets/elsewhere"
        }
        others = [link for link in self.app.links() if link["bucket_uri"] == "/buckets/elsewhere"]
        released = sorted(stored[location] for location in self.app.released())
        return records, links, len(others), sorted(stored.values()), released

    def _listen(self, event):
        if self.refusing:
            raise RuntimeError("not today")

    @contextlib.contextmanager
    def database_that_refuses(self):
        """Have PostgreSQL refuse to commit whatever writes an object."""
        engine = self.app.registry.storage.client.session_factory().get_bind()
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(REFUSAL))
        yield
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("DROP TRIGGER refusal ON objects"))


REFUSAL = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
CREATE CONSTRAINT TRIGGER refusal AFTER INSERT OR UPDATE OR DELETE ON objects
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
"""


class LocalFiles:
    def __init__(self, folder):
        self.folder = folder
        self.settings = {"kinto.attachment.base_path": str(folder)}

    def read(self):
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def clear(self):
        for name in self.read():
            (self.folder / name).unlink()


class BucketFiles:
    def __init__(self, endpoint_url):
        self.bucket = Bucket(endpoint_url, f"bucket-{uuid.uuid4()}")
        options = {"base_path": "", **self.bucket.options}
        self.settings = {f"kinto.attachment.{k}": str(v) for k, v in options.items()}

    def read(self):
        return self.bucket.files()

    def clear(self):
        for key in self.read():
            self.bucket.client.delete_object(Bucket=self.bucket.name, Key=key)


class GCSFiles:
    def __init__(self, url):
        self.bucket = GCSBucket(url, f"bucket-{uuid.uuid4()}")
        options = {"base_path": "", **self.bucket.options}
        self.settings = {f"kinto.attachment.{k}": str(v) for k, v in options.items()}
        self.read = self.bucket.files
        self.clear = self.bucket.clear


WORLDS = [
    ("local", False, "public"),
    ("local", True, "public"),
    ("S3", False, "public"),
    ("S3", True, "public"),
    ("GCS", False, "public"),
    ("local", False, "private"),
    ("S3", True, "private"),
]
"""Storages, whether previous files are kept, and who may fetch files."""


@pytest.fixture(scope="module", params=WORLDS, ids=str)
def world(request, postgresql, tmp_path_factory):
    kind, keep, downloads = request.param
    folder = tmp_path_factory.mktemp("files")
    if kind == "local":
        files = LocalFiles(folder)
    elif kind == "S3":
        files = BucketFiles(request.getfixturevalue("fake_s3"))
    else:
        files = GCSFiles(request.getfixturevalue("gcs_emulator").url)
    settings = {
        **postgresql_backends(postgresql()),
        **files.settings,
        "kinto.attachment.keep_old_files": str(keep),
        "kinto.attachment.downloads": downloads,
        "kinto.includes": "kinto.plugins.default_bucket kinto.plugins.flush kinto_attachment",
    }
    world = World(App(folder, **settings), files)
    world.keep = keep
    return world


def delete_nothing(storage, monkeypatch):
    """Have a storage delete no stored file. (Pieces would stay until their upload expires.)"""
    delete_many = storage.delete_many

    def refuse(keys):
        if all(key.startswith(".staging/") for key in keys):
            return delete_many(keys)
        return {key: StorageError("not today") for key in keys}

    monkeypatch.setattr(storage, "delete_many", refuse)


@pytest.mark.parametrize(("name", "ending"), CELLS, ids=str)
def test_what_is_left(world, name, ending, monkeypatch):
    action = ACTIONS[name]
    world.fill(through_default=ending.endswith("default bucket"))
    conditions = STALE if ending.startswith("412") else {}
    if name.startswith("create") and conditions:
        conditions = {"If-None-Match": "*"}
        action = dataclasses.replace(action, path=action.path.replace(NEW, FIRST))
    if ending == "storage delete fails":
        delete_nothing(world.app.registry.attachments.files, monkeypatch)
    world.refusing = ending == "listener raises"
    refusal = world.database_that_refuses() if ending == "commit refused" else None
    with refusal or contextlib.nullcontext():
        response = world.do(action, conditions)
    succeeds = ending in ("commit", "storage delete fails")
    assert (response.status_code < 300) == (succeeds or (name == "batch" and bool(conditions)))
    holders = action.holders(world.before) if succeeds else world.before
    files = set(holders.values())
    if ending == "storage delete fails" or world.keep:
        files |= set(world.before.values())
    elsewhere = 0 if name == "flush" else 1
    stays = elsewhere or ending == "storage delete fails" or world.keep
    files |= {b"e"} if stays else set()
    released = set()
    if ending == "storage delete fails" and not world.keep:
        released = files - set(holders.values()) - ({b"e"} if elsewhere else set())
    assert world.seen() == (holders, holders, elsewhere, sorted(files), sorted(released))
