"""Where the races are run: servers in processes of their own, and what they need."""

import contextlib
import tempfile
from pathlib import Path
from typing import NamedTuple

import sqlalchemy

from bench.client import MIB, Body, Client, json_body
from tests.support.paths import ROOT, SCRIPTS
from tests.support.postgresql import create_database, postgresql_backends, postgresql_server
from tests.support.s3 import Bucket, SeaweedFS
from tests.support.servers import Server
from tests.support.settings import base_settings


COLLECTION = "/v1/buckets/plain/collections/files"
GZIPPED_COLLECTION = "/v1/buckets/gzipped/collections/files"


class Place(NamedTuple):
    """What a server is: of which kind, where records and files are, whether files are synced."""

    server: str = "granian"
    records: str = "memory"
    files: str = "local"
    fsync: bool = False


class BenchServer(Server):
    """A server of the benchmark's application."""

    def _granian(self):
        options = ["--interface", "wsgi", "--http", "1", "--blocking-threads", "4"]
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        return [SCRIPTS / "granian", *options, *address, "bench.wsgi:application"]

    def _waitress(self):
        # The settings of config/serve.ini.
        options = ["--recv-bytes=65536", f"--max-request-body-size={1 << 40}"]
        address = f"--listen=127.0.0.1:{self.port}"
        return [SCRIPTS / "waitress-serve", address, *options, "bench.wsgi:application"]


class Ground(contextlib.ExitStack):
    """All that is running. What is asked for first is started, what is left is stopped at the end.

    :ivar files: the folder of all stored files.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder
        self.files = folder / "files"
        self.files.mkdir(parents=True)
        self._servers = {}
        self._postgresql = None
        self._databases = {}
        self._bucket = None

    def server(self, place):
        """Return the server of a place, started once."""
        if place not in self._servers:
            self._servers[place] = self.new_server(place)
            self.callback(self._servers[place].stop)
        return self._servers[place]

    def new_server(self, place):
        """Return a new server, which whoever asked for it stops."""
        folder = self._folder / f"server-{len(list(self._folder.glob('server-*')))}"
        settings = base_settings() | self._settings(place)
        settings["kinto.includes"] += " bench.usual"
        environment = {"PYTHONPATH": str(ROOT), "BENCH_FILES": str(self.files)}
        server = BenchServer(place.server, folder, settings, environment).wait_until_ready()
        self._create_collections(server)
        return server

    def new_folder(self):
        """Return an empty folder on the disk that the stored files are on."""
        return Path(tempfile.mkdtemp(dir=self._folder))

    def bucket(self):
        """Return the bucket of the S3 server."""
        if self._bucket is None:
            seaweedfs = SeaweedFS(self._folder / "seaweedfs").wait_until_ready()
            self.callback(seaweedfs.stop)
            self._bucket = Bucket(seaweedfs.endpoint_url, "bench")
        return self._bucket

    def analyze(self, place):
        """Have PostgreSQL know what it holds, as its autovacuum does soon after many changes."""
        if place in self._databases:
            engine = sqlalchemy.create_engine(self._databases[place], isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text("ANALYZE"))
            engine.dispose()

    def clear(self):
        """Delete the large files that the last round has left.

        Small ones stay: ext4 takes several times as long to make a file where many have just been
        deleted, since for some minutes it does not use again what they have left.
        """
        for path in self.files.iterdir():
            if path.is_file() and path.stat().st_size > MIB:
                path.unlink()
        if self._bucket is not None:
            keys = self._bucket.keys()
            for key in keys:
                self._bucket.client.delete_object(Bucket=self._bucket.name, Key=key)

    def _settings(self, place):
        settings = {
            "kinto.attachment.extensions": "any",
            "kinto.attachment.fsync": str(place.fsync).lower(),
            "kinto.attachment.resources.gzipped.gzipped": "true",
        }
        if place.records == "postgresql":
            self._databases[place] = self._database()
            settings |= postgresql_backends(self._databases[place])
        if place.files == "local":
            return settings | {"kinto.attachment.base_path": str(self.files)}
        options = {**self.bucket().options, "aws.part_size_bytes": 8 * 1024**2}
        return settings | {f"kinto.attachment.{name}": str(v) for name, v in options.items()}

    def _database(self):
        if self._postgresql is None:
            self._postgresql = self.enter_context(postgresql_server())
        return create_database(self._postgresql)

    def _create_collections(self, server):
        client = Client(server.port)
        for collection in (COLLECTION, GZIPPED_COLLECTION):
            bucket = collection.partition("/collections")[0]
            client.send("PUT", bucket, Body("application/json", b"{}"))
            client.send("PUT", collection, json_body({"data": {}}))
        client.close()
