"""Random walks of several clients at once: several server processes on one PostgreSQL."""

import base64
import hashlib
import os
import random
import time
import uuid
from collections import Counter

import pytest
import sqlalchemy

from kinto_attachment.storage.names import is_private
from tests.support.races import running_cluster
from tests.support.servers import assert_eventually, files_in


SERVERS = 2
CLIENTS = 5
STEPS = 8
WALKS = int(os.environ.get("WALKS", "3"))
"""How often, with as many steps of each client: ``make walk`` takes more."""

SEED = int(os.environ.get("WALK_SEED", random.randrange(10**9) if "WALKS" in os.environ else 0))
"""That of the first walk; the next one has the next number."""

COLLECTIONS = ("photos", "copies")
RECORDS = ("a", "b")
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = {**TUS, "Content-Type": "application/offset+octet-stream"}

RETRIED = ("upload", "upload_in_pieces", "detach")
"""What the plugin itself retries after a conflict with others."""


@pytest.fixture(scope="module", params=["public", "private", "public later", "private later"])
def cluster(request, postgresql, tmp_path_factory):
    """Servers with public or private files, which go at once or later."""
    downloads, *later = request.param.split()
    settings = {
        "kinto.attachment.downloads": downloads,
        "kinto.attachment.delete_after": "7d" if later else "0",
    }
    folder = tmp_path_factory.mktemp("crowd")
    with running_cluster(SERVERS, folder, postgresql(), **settings) as cluster:
        yield cluster


class Client:
    """One of the clients, which changes the same records as the others.

    :ivar plan: its steps, each the name of a method and the record that it is about.
    :ivar answers: ``(step, status)`` of each request.
    """

    def __init__(self, cluster, bucket, rng):
        self._cluster = cluster
        self._bucket = bucket
        self._rng = rng
        self.plan = [(rng.choice(KINDS), self._any_record()) for _ in range(STEPS)]
        self.answers = []
        self._seen = []

    def walk(self):
        for kind, record in self.plan:
            getattr(self, kind)(record)

    def ask(self, kind, method, path, **kwargs):
        answer = self._cluster.request(method, path, **kwargs)
        self.answers.append((kind, answer.status_code))
        return answer

    def upload(self, record):
        files = {"attachment": ("story.txt", self._content(), "text/plain")}
        self.ask("upload", "POST", f"{record}/attachment", files=files)

    def upload_in_pieces(self, record):
        content = self._content()
        headers = {
            **TUS,
            "Upload-Length": str(len(content)),
            "Upload-Metadata": "filename YS50eHQ=",
        }
        uploads = f"{record}/attachment/uploads"
        begun = self.ask("upload_in_pieces", "POST", uploads, headers=headers)
        if begun.status_code != 201:
            return
        path = begun.headers["Location"].split("/v1", 1)[1]
        for offset, piece in ((0, content[:5]), (5, content[5:])):
            headers = {**CHUNK, "Upload-Offset": str(offset)}
            answer = self.ask("upload_in_pieces", "PATCH", path, data=piece, headers=headers)
        if answer.status_code != 204:
            self.ask("upload_in_pieces", "DELETE", path, headers=TUS)

    def detach(self, record):
        self.ask("detach", "DELETE", f"{record}/attachment")

    def put_without(self, record):
        self._write("put_without", "PUT", record, title="without")

    def put_what_it_has(self, record):
        self._write("put_what_it_has", "PUT", record, attachment=self._attachment_of(record))

    def copy(self, record):
        attachment = self._attachment_of(self._any_record())
        self._write("copy", "PUT", record, attachment=attachment)

    def restore(self, record):
        """Write what a record had at some time, back to it or to another one."""
        if self._seen:
            source, attachment = self._rng.choice(self._seen)
            record = self._rng.choice([source, record])
            self._write("restore", "PUT", record, attachment=attachment)

    def patch(self, record):
        self._write("patch", "PATCH", record, title="patched")

    def patch_null(self, record):
        self._write("patch_null", "PATCH", record, attachment=None)

    def json_patch(self, record):
        operations = [{"op": "remove", "path": "/data/attachment"}]
        self.ask("json_patch", "PATCH", record, json=operations, headers=JSON_PATCH)

    def delete(self, record):
        self.ask("delete", "DELETE", record)

    def delete_list(self, record):
        self.ask("delete_list", "DELETE", record.rsplit("/", 1)[0])

    def move(self, record):
        """Move the attachment of a record to another one, in one transaction."""
        attachment, other = self._attachment_of(record), self._any_record()
        body = {"data": {"attachment": attachment}}
        requests = [
            {"method": "PUT", "path": other, "body": body},
            {"method": "DELETE", "path": record},
        ]
        self._rng.shuffle(requests)
        self.ask("move", "POST", "/batch", json={"requests": requests})

    def delete_collection(self, record):
        collection = record.rsplit("/", 2)[0]
        self.ask("delete_collection", "DELETE", collection)
        self.ask("make_collection", "PUT", collection, json={"data": {}})

    def delete_bucket(self, record):
        self.ask("delete_bucket", "DELETE", self._bucket)
        for path in (self._bucket, *(f"{self._bucket}/collections/{one}" for one in COLLECTIONS)):
            self.ask("make_bucket", "PUT", path, json={"data": {}})

    def _write(self, kind, method, record, **data):
        self.ask(kind, method, record, json={"data": data})

    def _attachment_of(self, record):
        answer = self._cluster.request("GET", record)
        attachment = answer.json()["data"].get("attachment") if answer.ok else None
        if attachment:
            self._seen.append((record, attachment))
        return attachment

    def _any_record(self):
        collection = self._rng.choice(COLLECTIONS)
        return f"{self._bucket}/collections/{collection}/records/{self._rng.choice(RECORDS)}"

    def _content(self):
        return base64.b64encode(self._rng.randbytes(8))


KINDS = [
    *["upload", "upload_in_pieces", "copy", "move", "restore"] * 3,
    *["detach", "put_without", "put_what_it_has", "patch", "patch_null", "json_patch"],
    *["delete", "delete_list", "delete_collection", "delete_bucket"],
]


def check_answers(answers):
    """Assert that no request failed but for what Kinto itself does not retry."""
    for kind, status in answers:
        if kind in RETRIED:
            assert status < 500, kind
        elif kind == "delete_list":
            # Of two that first ask for the timestamp of a list, Kinto gives one none: it fails.
            assert status <= 500 or status == 503, kind
        else:
            # A deadlock, as without the plugin.
            assert status < 500 or status == 503, kind


def rows(cluster, name):
    query = "SELECT parent_id, id, data FROM objects WHERE resource_name = :name AND NOT deleted"
    with cluster.engine.connect() as connection:
        return connection.execute(sqlalchemy.text(query), {"name": name}).all()


def stored(cluster):
    """Return the keys of all there is in the folder."""
    return {str(path.relative_to(cluster.folder)) for path in files_in(cluster.folder)}


def queued(cluster):
    return [data for _, _, data in rows(cluster, "attachment-releases")]


def is_due(entry):
    return entry.get("due", 0) <= time.time() * 1000


def check(cluster):
    """Assert that each record has its file or none, and that nothing else is left."""
    assert_eventually(lambda: any(map(is_due, queued(cluster))), False, seconds=60)
    links = [data for _, _, data in rows(cluster, "attachments")]
    keys = {link["location"] for link in links}
    waiting = {key for entry in queued(cluster) for key in entry["locations"]}
    assert_eventually(lambda: stored(cluster), keys | waiting)
    own = {link["record_uri"]: link for link in links}
    assert len(own) == len(links)
    attached = {
        f"{parent}/records/{id_}": data["attachment"]
        for parent, id_, data in rows(cluster, "record")
        if data.get("attachment")
    }
    for uri, link in own.items():
        assert attached[uri] == link["attachment"]
        content = (cluster.folder / link["location"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == link["attachment"]["hash"]
        if is_private(link["location"]):
            assert cluster.request("GET", f"{uri}/attachment").content == content
    for uri in attached.keys() - own.keys():
        # A client has copied what was deleted meanwhile, or what is another record's alone.
        assert attached[uri]["location"] not in keys | waiting
        assert cluster.request("GET", f"{uri}/attachment").status_code == 404


def test_nothing_is_lost_and_nothing_left_wherever_a_crowd_goes(cluster):
    asked = Counter()
    for seed in range(SEED, SEED + WALKS):
        bucket = f"/buckets/crowd-{uuid.uuid4()}"
        for path in (bucket, *(f"{bucket}/collections/{one}" for one in COLLECTIONS)):
            cluster.put(path)
        clients = [
            Client(cluster, bucket, random.Random(f"{seed} {number}")) for number in range(CLIENTS)
        ]
        try:
            cluster.at_once(*[client.walk for client in clients])
            for client in clients:
                check_answers(client.answers)
            check(cluster)
        except BaseException:
            print(f"WALKS=1 WALK_SEED={seed}")
            for client in clients:
                print(client.plan, client.answers, sep="\n")
            for server in cluster.servers:
                print(server.log.read_text()[-20_000:])
            raise
        asked.update(one for client in clients for one in client.answers)
    failed = {one: count for one, count in asked.items() if one[1] >= 500}
    print(f"{sum(asked.values())} requests, WALK_SEED={SEED}, failed: {failed}")
