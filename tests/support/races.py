"""A cluster: several server processes on one PostgreSQL and one folder of files."""

import contextlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import requests
import sqlalchemy

from tests.support.postgresql import postgresql_backends
from tests.support.servers import Server
from tests.support.settings import base_settings


AUTH = ("alice", "secret")

QUEUED = "SELECT count(*) FROM objects WHERE resource_name = 'attachment-releases'"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"


class Cluster:
    """Server processes that share a database and a folder of files."""

    def __init__(self, servers, url, folder):
        self.servers = servers
        self.engine = sqlalchemy.create_engine(url)
        self.folder = folder
        self._turns = itertools.cycle(servers)
        self._lock = threading.Lock()
        self._sessions = threading.local()

    def request(self, method, path, **kwargs):
        with self._lock:
            server = next(self._turns)
        session = self._session_of_thread()
        return session.request(method, server.url + path, timeout=60, **kwargs)

    def put(self, path):
        self.request("PUT", path, json={"data": {}}).raise_for_status()

    def upload(self, record, content=b"once upon a time", **kwargs):
        files = {"attachment": ("story.txt", content, "text/plain")}
        return self.request("POST", f"{record}/attachment", files=files, **kwargs)

    def race(self, *actions):
        """Run actions at the same time, and return the statuses of the responses."""
        return [answer.status_code for answer in self.at_once(*actions)]

    def at_once(self, *actions):
        """Run actions at the same time, and return what they return."""
        start = threading.Barrier(len(actions))

        def act(action):
            start.wait()
            return action()

        with ThreadPoolExecutor(len(actions)) as pool:
            return list(pool.map(act, actions))

    def queue(self, record, *actions):
        """Queue actions on the locked row of a record, in this order, and return the statuses."""
        collection, _, id_ = record.rsplit("/", 2)
        row = "SELECT 1 FROM objects WHERE parent_id = :parent AND id = :id FOR UPDATE"
        with ThreadPoolExecutor(len(actions)) as pool, self.engine.connect() as connection:
            connection.execute(sqlalchemy.text(row), {"parent": collection, "id": id_})
            answers = []
            for number, action in enumerate(actions, start=1):
                answers.append(pool.submit(action))
                self._wait_until_blocked(number)
            connection.rollback()
        return [answer.result().status_code for answer in answers]

    def _wait_until_blocked(self, number):
        query = sqlalchemy.text(f"{WAITING} AND wait_event_type = 'Lock'")
        deadline = time.monotonic() + 30
        with self.engine.connect() as connection:
            while connection.execute(query).scalar() < number:
                assert time.monotonic() < deadline, f"{number} requests should wait for the row"
                connection.rollback()
                time.sleep(0.01)

    def _session_of_thread(self):
        if not hasattr(self._sessions, "session"):
            self._sessions.session = requests.Session()
            self._sessions.session.auth = AUTH
        return self._sessions.session

    def wait_for_deletions(self):
        """Wait until the servers have deleted the files that no record refers to any more."""
        deadline = time.monotonic() + 60
        with self.engine.connect() as connection:
            while connection.execute(sqlalchemy.text(QUEUED)).scalar():
                assert time.monotonic() < deadline, "the files should be deleted"
                connection.rollback()
                time.sleep(0.01)

    def seen(self):
        """Return the URIs of objects, the locations in records and links, and the files."""
        self.wait_for_deletions()
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
        """Assert that each record has its file, each file its record, and each link both."""
        uris, records, links, files = self.seen()
        attached = {uri: location for uri, location in records.items() if location}
        assert sorted(attached.items()) == sorted(links)
        assert set(attached.values()) == set(files)
        parents = {uri.rsplit("/", 2)[0] for uri in attached}
        assert parents <= uris
        assert {parent.rsplit("/", 2)[0] for parent in parents} <= uris
        return attached

    def check_files(self):
        """Assert that each link has its record and its file, and each file a link."""
        _, records, links, files = self.seen()
        assert all(records.get(uri) == location for uri, location in links)
        assert {location for _, location in links} == set(files)


@contextlib.contextmanager
def running_cluster(number, folder, url, **settings):
    """Run so many servers of a database, with settings beside the usual ones."""
    settings = {
        **base_settings(),
        **postgresql_backends(url),
        "kinto.includes": "kinto.plugins.default_bucket kinto.plugins.flush kinto_attachment",
        "kinto.attachment.base_path": str(folder / "files"),
        **settings,
    }
    servers = [Server("granian", folder / str(one), settings) for one in range(number)]
    try:
        for server in servers:
            server.wait_until_ready()
        yield Cluster(servers, url, folder / "files")
    finally:
        for server in servers:
            server.stop()
