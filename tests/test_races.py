"""What is left when requests race one another: several server processes on one PostgreSQL."""

import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import requests
import sqlalchemy

from tests.support import Server, base_settings, postgresql_backends


AUTH = ("alice", "secret")
SERVERS = 3
ROUNDS = 4
UPLOADS = 5
REQUESTS = 120


class Cluster:
    """Server processes that share a database and a folder of files."""

    def __init__(self, servers, url, folder):
        self.engine = sqlalchemy.create_engine(url)
        self.folder = folder
        self._turns = itertools.cycle(servers)
        self._lock = threading.Lock()

    def request(self, method, path, **kwargs):
        with self._lock:
            server = next(self._turns)
        return requests.request(method, server.url + path, auth=AUTH, timeout=60, **kwargs)

    def put(self, path):
        self.request("PUT", path, json={"data": {}}).raise_for_status()

    def upload(self, record, content=b"once upon a time"):
        files = {"attachment": ("story.txt", content, "text/plain")}
        return self.request("POST", f"{record}/attachment", files=files)

    def race(self, *actions):
        """Do all of these at once, and return the statuses of the answers."""
        start = threading.Barrier(len(actions))

        def act(action):
            start.wait()
            return action().status_code

        with ThreadPoolExecutor(len(actions)) as pool:
            return list(pool.map(act, actions))

    def seen(self):
        """Return all there is: objects with their URIs, locations in records and links, files."""
        query = "SELECT resource_name, parent_id, id, data FROM objects WHERE NOT deleted"
        with self.engine.connect() as connection:
            rows = connection.execute(sqlalchemy.text(query)).all()
        uris = {f"{parent}/{name}s/{id_}" for name, parent, id_, _ in rows}
        records = {
            f"{parent}/records/{id_}": (data.get("attachment") or {}).get("location")
            for name, parent, id_, data in rows
            if name == "record"
        }
        links = [
            (d["record_uri"], d["location"]) for name, _, _, d in rows if name == "attachments"
        ]
        files = [path.name for path in self.folder.rglob("*") if path.is_file()]
        return uris, records, links, files

    def check(self):
        """No record without its file, no file without its record, no link without both."""
        uris, records, links, files = self.seen()
        holding = {uri: location for uri, location in records.items() if location}
        assert sorted(holding.items()) == sorted(links)
        assert sorted(holding.values()) == sorted(files)
        parents = {uri.rsplit("/", 2)[0] for uri in holding}
        assert parents <= uris
        assert {parent.rsplit("/", 2)[0] for parent in parents} <= uris
        return holding


@pytest.fixture(scope="module")
def cluster(postgresql, tmp_path_factory):
    folder = tmp_path_factory.mktemp("races")
    url = postgresql()
    settings = {
        **base_settings(),
        **postgresql_backends(url),
        "kinto.attachment.base_path": str(folder / "files"),
    }
    servers = [Server("granian", folder / str(number), settings) for number in range(SERVERS)]
    try:
        for server in servers:
            server.wait_until_ready()
        yield Cluster(servers, url, folder / "files")
    finally:
        for server in servers:
            server.stop()


def test_of_many_uploads_at_once_to_one_record_one_file_is_left(cluster):
    for number in range(ROUNDS):
        bucket = f"/buckets/one{number}"
        cluster.put(bucket)
        cluster.put(f"{bucket}/collections/photos")
        record = f"{bucket}/collections/photos/records/first"
        statuses = cluster.race(*[partial(cluster.upload, record)] * 12)
        assert sorted(statuses) == [200] * 11 + [201]
        assert record in cluster.check()


LOSERS = {"collection": {403, 404}, "bucket": {403, 404}}
"""What uploads are answered where what they were sent to is gone, or its permissions are."""

DELETIONS = {
    "attachment": {204},
    # Kinto deletes the permissions of a record and then the record, and writes them the other way
    # round: sometimes a deadlock. If it is the upload that PostgreSQL ends, it is tried again.
    "record": {200, 503},
    "collection": {200},
    "bucket": {200},
}


@pytest.mark.parametrize("existing", ["new", "written", "attached"])
@pytest.mark.parametrize("kind", ["attachment", "record", "collection", "bucket"])
def test_uploads_against_a_deletion_end_consistent(cluster, kind, existing):
    for number in range(ROUNDS):
        bucket = f"/buckets/{kind}-{existing}{number}"
        collection = f"{bucket}/collections/photos"
        record = f"{collection}/records/first"
        deleted = {
            "attachment": f"{record}/attachment",
            "record": record,
            "collection": collection,
            "bucket": bucket,
        }[kind]
        cluster.put(bucket)
        cluster.put(collection)
        if existing != "new":
            cluster.put(record)
        if existing == "attached":
            cluster.upload(record).raise_for_status()
        uploads = [partial(cluster.upload, record)] * UPLOADS
        *statuses, status = cluster.race(*uploads, partial(cluster.request, "DELETE", deleted))
        assert set(statuses) <= {200, 201, *LOSERS.get(kind, ())}
        assert status in DELETIONS[kind] | ({404} if existing == "new" else set())
        cluster.check()


def test_first_uploads_at_once_to_the_default_bucket_all_succeed(cluster):
    record = "/buckets/default/collections/photos/records/{}"
    uploads = [partial(cluster.upload, record.format(number)) for number in range(12)]
    assert cluster.race(*uploads) == [201] * 12
    cluster.check()


@pytest.mark.parametrize("buckets", [40, 1])
def test_uploads_beside_plain_changes_meet_no_conflict(cluster, buckets):
    collections = []
    for number in range(buckets):
        bucket = f"/buckets/busy{buckets}-{number}"
        cluster.put(bucket)
        cluster.put(f"{bucket}/collections/photos")
        collections.append(f"{bucket}/collections/photos")

    def upload(number):
        record = f"{collections[number % buckets]}/records/uploaded{number}"
        return "upload", cluster.upload(record).status_code

    def put(number):
        record = f"{collections[number % buckets]}/records/put{number}"
        return "put", cluster.request("PUT", record, json={"data": {}}).status_code

    with ThreadPoolExecutor(12) as pool:
        tasks = [pool.submit(do, number) for number in range(REQUESTS) for do in (upload, put)]
        answers = Counter(task.result() for task in tasks)
    assert answers["upload", 201] == REQUESTS
    cluster.check()
