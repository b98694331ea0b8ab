"""The environment of the workloads: servers in processes of their own, and their storages."""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import sqlalchemy

from bench.client import MIB, Body, Client, json_body
from tests.support.gcs import FakeGCSServer, GCSBucket
from tests.support.paths import ROOT, SCRIPTS
from tests.support.postgresql import create_database, postgresql_backends, postgresql_server
from tests.support.s3 import Bucket, SeaweedFS
from tests.support.servers import Server, eventually_answers, free_port
from tests.support.settings import base_settings


COLLECTION = "/v1/buckets/plain/collections/files"
GZIPPED_COLLECTION = "/v1/buckets/gzipped/collections/files"


NGINX = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    sendfile on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {files};
    }}
}}
"""


class Setup(NamedTuple):
    """How a server is set up.

    :ivar server: its kind, a method of ``BenchServer``.
    :ivar records: ``memory`` or ``postgresql``: the same database for all servers.
    :ivar files: ``local``, ``s3`` or ``gcs``, an emulator that has all in memory.
    :ivar fsync: whether files are synced.
    :ivar processes: how many respond to requests, each with ``THREADS``.
    :ivar plugin: whether Kinto has the plugin.
    """

    server: str = "granian"
    records: str = "memory"
    files: str = "local"
    fsync: bool = False
    processes: int = 1
    plugin: bool = True


LOCAL = Setup()
SYNCED = Setup(fsync=True)
POSTGRESQL = Setup(records="postgresql", fsync=True)
WITHOUT_PLUGIN = POSTGRESQL._replace(plugin=False)
S3 = Setup(files="s3")
GCS = Setup(files="gcs")
THREADS = 4
EMULATOR_SECONDS = 180


class BenchServer(Server):
    """A server of the benchmark's application."""

    def __init__(self, setup, folder, settings, environment):
        self._processes = str(setup.processes)
        super().__init__(setup.server, folder, settings, environment)

    def _granian(self):
        options = ["--interface", "wsgi", "--http", "1", "--blocking-threads", str(THREADS)]
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", self._processes]
        return [SCRIPTS / "granian", *options, *address, "bench.wsgi:application"]

    def _waitress(self):
        # The settings of config/serve.ini. It has one process.
        options = ["--recv-bytes=65536", f"--max-request-body-size={1 << 40}"]
        address = f"--listen=127.0.0.1:{self.port}"
        return [SCRIPTS / "waitress-serve", address, *options, "bench.wsgi:application"]

    def _gunicorn(self):
        options = ["--worker-class", "gthread", "--threads", str(THREADS)]
        address = ["--bind", f"127.0.0.1:{self.port}", "--workers", self._processes]
        return [SCRIPTS / "gunicorn", *options, *address, "bench.wsgi:application"]

    def _uwsgi(self):
        # Kinto is loaded in the workers: threads and connections do not survive a fork.
        options = [
            "--master",
            "--lazy-apps",
            "--need-app",
            "--die-on-term",
            "--buffer-size",
            "65535",
        ]
        address = ["--http11-socket", f"127.0.0.1:{self.port}", "--processes", self._processes]
        threads = ["--enable-threads", "--threads", str(THREADS)]
        return [SCRIPTS / "uwsgi", *options, *address, *threads, "--module", "bench.wsgi"]


class Environment(contextlib.ExitStack):
    """All running servers: each is started when it is first requested, and stopped at the end.

    :ivar files: the folder of all stored files.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder
        self.files = folder / "files"
        self.files.mkdir(parents=True)
        self._servers = {}
        self._database = None
        self._bucket = None
        self._gcs_bucket = None
        self._nginx = None

    def server(self, setup):
        """Return the server of a setup, started once."""
        if setup not in self._servers:
            self._servers[setup] = self.new_server(setup)
            self.callback(self._servers[setup].stop)
        return self._servers[setup]

    def new_server(self, setup):
        """Return a new server, to be stopped by the caller."""
        folder = self._folder / f"server-{len(list(self._folder.glob('server-*')))}"
        settings = base_settings() | self._settings(setup)
        if setup.plugin:
            settings["kinto.includes"] += " bench.usual"
        else:
            settings["kinto.includes"] = "kinto.plugins.default_bucket"
        variables = {"PYTHONPATH": str(ROOT), "BENCH_FILES": str(self.files)}
        server = BenchServer(setup, folder, settings, variables).wait_until_ready()
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

    def gcs_bucket(self):
        """Return the bucket of the emulator of Google Cloud Storage."""
        if self._gcs_bucket is None:
            emulator = FakeGCSServer()
            self.callback(emulator.stop)
            self._gcs_bucket = GCSBucket(emulator.url, "bench")
        return self._gcs_bucket

    def nginx(self):
        """Return the port of an nginx that serves the folder of the files."""
        if self._nginx is None:
            folder = self._folder / "nginx"
            folder.mkdir()
            self._nginx = free_port()
            user = "user root;" if os.geteuid() == 0 else ""
            configuration = NGINX.format(
                user=user, folder=folder, port=self._nginx, files=self.files
            )
            (folder / "nginx.conf").write_text(configuration)
            command = ["nginx", "-e", folder / "error.log", "-p", folder]
            process = subprocess.Popen([*command, "-c", folder / "nginx.conf"])
            self.callback(process.wait)
            self.callback(process.terminate)
            eventually_answers(f"http://127.0.0.1:{self._nginx}")
        return self._nginx

    def database(self):
        """Return the URL of the PostgreSQL of all servers."""
        if self._database is None:
            self._database = create_database(self.enter_context(postgresql_server()))
        return self._database

    def analyze(self):
        """Update PostgreSQL's statistics, as its autovacuum does soon after many changes."""
        if self._database is not None:
            engine = sqlalchemy.create_engine(self._database, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text("ANALYZE"))
            engine.dispose()

    def count_files(self):
        """Return how many files are stored in the folder."""
        return sum(entry.is_file() for entry in os.scandir(self.files))

    def clear(self):
        """Delete the large files that the last round has left.

        Small ones stay: ext4 takes several times as long to make a file where many have just been
        deleted, since for some minutes it does not use again what they have left.
        """
        for path in self.files.iterdir():
            if path.is_file() and path.stat().st_size > MIB:
                path.unlink()
        for bucket in (self._bucket, self._gcs_bucket):
            if bucket is not None:
                bucket.clear()

    def _settings(self, setup):
        settings = {
            "kinto.attachment.extensions": "any",
            "kinto.attachment.fsync": str(setup.fsync).lower(),
            "kinto.attachment.resources.gzipped.gzipped": "true",
        }
        if setup.records == "postgresql":
            settings |= postgresql_backends(self.database())
        if setup.files == "local":
            return settings | {"kinto.attachment.base_path": str(self.files)}
        if setup.files == "s3":
            options = {**self.bucket().options, "aws.part_size_bytes": 8 * MIB}
        else:
            options = {**self.gcs_bucket().options, "gcloud.part_size_bytes": 8 * MIB}
            # Unlike Google, the emulator copies and hashes all bytes that it composes.
            options["gcloud.timeout"] = EMULATOR_SECONDS
        return settings | {f"kinto.attachment.{name}": str(v) for name, v in options.items()}

    def _create_collections(self, server):
        client = Client(server.port)
        for collection in (COLLECTION, GZIPPED_COLLECTION):
            bucket = collection.partition("/collections")[0]
            client.send("PUT", bucket, Body("application/json", b"{}"))
            client.send("PUT", collection, json_body({"data": {}}))
        client.close()
