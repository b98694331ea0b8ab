"""What the tests of the helper scripts share: folders, runs of a script, servers that fail."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from kinto_attachment.scripts import download
from tests.support.paths import ROOT
from tests.support.s3 import Bucket
from tests.support.servers import Server
from tests.support.settings import base_settings


MEASURED = """
import re, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(re.search(r"VmHWM:.*", open("/proc/self/status").read())[0], file=sys.stderr)
"""


def make_folder(folder, count, seed=1):
    """Fill a folder with so many small files, random and of different sizes."""
    numbers = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"file {number}.bin").write_bytes(numbers.randbytes(numbers.randrange(3000)))
    return folder


def make_large_file(path, size, seed=1):
    """Write a file of random MiB, repeated in random order, so that it is made fast."""
    numbers = random.Random(seed)
    blocks = [numbers.randbytes(1 << 20) for _ in range(16)]
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(numbers.choice(blocks))
    return path


def tree(folder):
    """Return ``{name: SHA-256}`` of all there is in a folder, but for the state of the script."""
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name != ".last_sync"
    }


def sha256_of(path):
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def script_storage(request):
    """Give the settings of a server that keeps files where the parameter of a fixture says.

    (``base_path`` is added to those of a local folder.)
    """
    if request.param == "local":
        yield {"attachment__serve_files": True}
        return
    bucket = Bucket(request.getfixturevalue("seaweedfs").endpoint_url, f"scripts-{uuid.uuid4()}")
    yield bucket.settings()
    stored = bucket.keys()
    for key in stored:
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    bucket.client.delete_bucket(Bucket=bucket.name)


def start_server(folder, storage, **settings):
    """Return a real server that takes files of any kind.

    :param storage: what :func:`script_storage` gives.
    """
    settings = {"attachment__extensions": "any", **storage, **settings}
    prefixed = {f"kinto.{name.replace('__', '.')}": value for name, value in settings.items()}
    files = {"kinto.attachment.base_path": str(folder / "files")}
    server = Server("granian", folder / "server", base_settings() | files | prefixed)
    return server.wait_until_ready()


class Scripts:
    """Runs the scripts of the checkout on one collection.

    :ivar options: the command line's, before those of each run.
    """

    def __init__(self, url, auth="alice:secret", bucket="blog", collection="photos"):
        self._arguments = {"url": url, "auth": auth, "bucket": bucket, "collection": collection}
        self.collection = f"{url}/buckets/{bucket}/collections/{collection}"
        self.auth = tuple(auth.split(":"))
        self.options = ["--server", url, "--auth", auth, "--bucket", bucket]
        self.options += ["--collection", collection]

    def but(self, **arguments):
        """Return others like these, with something changed."""
        return Scripts(**{**self._arguments, **arguments})

    def command(self, name, *args):
        script = str(ROOT / "scripts" / f"{name}.py")
        return [sys.executable, script, *self.options, *map(str, args)]

    def run(self, name, *args, code=0, **kwargs):
        """Return what the script printed, by lines of JSON, when it ended with this code."""
        done = self.run_plain(name, "--json", *args, code=code, **kwargs)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def run_plain(self, name, *args, code=0, **kwargs):
        """Return the ended process, its output as text."""
        command = self.command(name, *args)
        done = subprocess.run(command, capture_output=True, text=True, **kwargs)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def upload(self, *args, **kwargs):
        return self.run("upload", *args, **kwargs)

    def download(self, folder, *args, **kwargs):
        return self.run("download", "--folder", folder, *args, **kwargs)

    def start(self, name, *args):
        # What is started in the background of a shell ignores it, and hands that on.
        reset = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.command(name, *args), text=True, **pipes, **reset)

    def peak_memory(self, name, *args):
        """Return the largest resident memory of a run, in bytes."""
        command = self.command(name, *args)
        command[1:1] = ["-c", MEASURED]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stderr.split()[-2]) * 1024

    def records(self):
        """Return ``{name: record}`` of the collection, by the names that the upload gave."""
        records = requests.get(f"{self.collection}/records", auth=self.auth).json()["data"]
        return {self._name(record): record for record in records}

    def _name(self, record):
        content = record.get("original") or record["attachment"]
        return record.get("path") or content["filename"]


def actions(lines):
    """Return ``{action: names}`` of what a script printed, without the summary."""
    by_action = {}
    for line in lines:
        if line["action"] != "summary":
            by_action.setdefault(line["action"], set()).add(line["name"])
    return by_action


def failures(lines):
    """Return ``{name: message}`` of what failed."""
    return {line["name"]: line["message"] for line in lines if line["action"] == "failed"}


class FakeServer(ThreadingHTTPServer):
    """An HTTP server in the process of the test.

    :ivar seen: requests as ``(method, path)``, without the query.
    :ivar headers: their headers, in the same order.
    """

    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.seen = []
        self.headers = []
        self.lock = threading.Lock()
        self.origin = f"http://127.0.0.1:{self.server_port}"
        self.url = f"{self.origin}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()

    def handle_error(self, *args):
        """Say nothing: what these servers do to their clients is meant."""


class FakeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def note(self):
        with self.server.lock:
            self.server.seen.append((self.command, self.path.partition("?")[0]))
            self.server.headers.append(self.headers)

    def answer(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class FakeKinto(FakeServer):
    """A Kinto that has the records, and the files, that a test wants it to have.

    :ivar records: as they are listed.
    :ivar files: ``{path: content}``; content may be a function of the handler.
    :ivar base_url: of the capability.
    :ivar next_page: the URL after the first page of records.
    :ivar etag: how its timestamps are put into ``ETag``.
    :ivar post: a function of handler and body, for the answer to an upload.
    """

    def __init__(self):
        super().__init__(_KintoHandler)
        self.records = []
        self.files = {}
        self.base_url = f"{self.origin}/files/"
        self.next_page = None
        self.etag = '"{}"'
        self.post = None

    def add(self, filename, content=b"once upon a time", served=None, **changes):
        """Add a record with a file, and return it. ``changes`` are to the attachment."""
        number = len(self.records) + 1
        path = f"stored-{number}"
        self.files[path] = content if served is None else served
        attachment = {"location": path, "mimetype": "text/plain", **described(filename, content)}
        record = {"id": f"record-{number}", "last_modified": number * 1000}
        self.records.append({**record, "attachment": {**attachment, **changes}})
        return self.records[-1]

    @property
    def timestamp(self):
        return max((record["last_modified"] for record in self.records), default=1)


def download_from(kinto, folder, capsys):
    """Return what runs the download script in this process, and returns its lines of JSON."""

    def run(*args, code=0, url=kinto.url, auth="alice:secret"):
        options = ["-s", url, "-b", "blog", "-c", "photos", "--json", "--folder", str(folder)]
        options += ["--retry-after", "0", *(["-a", auth] if auth else []), *map(str, args)]
        assert download.main(options) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def described(filename, content):
    sha256 = hashlib.sha256(content).hexdigest()
    return {"filename": filename, "hash": sha256, "size": len(content)}


class _KintoHandler(FakeHandler):
    def do_GET(self):
        self.note()
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/v1/":
            self.answer_capabilities()
        elif url.path.endswith("/records"):
            self._list(urllib.parse.parse_qs(url.query))
        else:
            self._file(self.server.files.get(url.path.rpartition("/")[2]))

    def do_HEAD(self):
        self.note()
        found = [record for record in self.server.records if record.get("attachment")]
        self.send_response(200)
        self.send_header("Total-Objects", str(len(found)))
        self.end_headers()

    def do_PUT(self):
        self.note()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(201, {})

    def do_POST(self):
        self.note()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.post(self, body)

    def answer_capabilities(self):
        self.answer(200, {"capabilities": {"attachments": {"base_url": self.server.base_url}}})

    def _list(self, query):
        since = int(query.get("_since", ["0"])[0].strip('"'))
        found = [record for record in self.server.records if record["last_modified"] > since]
        headers = {"ETag": self.server.etag.format(self.server.timestamp)}
        if self.server.next_page:
            headers["Next-Page"], self.server.next_page = self.server.next_page, None
        self.answer(200, {"data": found}, **headers)

    def _file(self, content):
        if callable(content):
            content(self)
        elif content is None:
            self.answer(404, {"message": "No such file."})
        else:
            serve_range(self, content)


def serve_range(handler, content):
    """Answer with a file, or with the range of it that is asked for."""
    start = handler.headers.get("Range", "")[len("bytes=") : -1]
    if not start:
        handler.answer(200, content)
    elif int(start) >= len(content):
        handler.answer(416)
    else:
        content_range = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.answer(206, content[int(start) :], Content_Range=content_range)


def cut_off(content, after):
    """Return a file of :class:`FakeKinto` whose first download ends after so many bytes."""
    served = []

    def serve(handler):
        if served:
            serve_range(handler, content)
            return
        served.append(True)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:after])
        handler.close_connection = True

    return serve


class Stalled:
    """A file of :class:`FakeKinto` whose first download stops in the middle, and waits."""

    def __init__(self, content, after):
        self._content = content
        self._after = after
        self.reached = threading.Event()
        self.released = threading.Event()

    def __call__(self, handler):
        if self.reached.is_set():
            serve_range(handler, self._content)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self._content)))
        handler.end_headers()
        handler.wfile.write(self._content[: self._after])
        self.reached.set()
        self.released.wait(60)
        handler.close_connection = True


class FlakyProxy(FakeServer):
    """Hands requests on to a real server, but for those that a fault is made for.

    :param fault: a function of the handler and the number of the request, from 1; what it returns
        tells whether it answered.
    """

    def __init__(self, url, fault):
        super().__init__(_ProxyHandler)
        self.target = url.removesuffix("/v1")
        self.fault = fault


class _ProxyHandler(FakeHandler):
    def do_GET(self):
        self.note()
        if self.server.fault(self, len(self.server.seen)):
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        response = requests.request(
            self.command,
            self.server.target + self.path,
            headers=headers,
            data=self._body(),
            stream=True,
            allow_redirects=False,
        )
        self.send_response(response.status_code)
        for name, value in response.headers.items():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if "Content-Length" not in response.headers:
            self.send_header("Connection", "close")
        self.end_headers()
        for chunk in response.raw.stream(1 << 16, decode_content=False):
            self.wfile.write(chunk)

    do_POST = do_PUT = do_DELETE = do_GET

    def _body(self):
        length = int(self.headers.get("Content-Length", 0))
        return _Body(self, length) if length else None


class _Body:
    def __init__(self, handler, length):
        self._handler = handler
        self._length = length

    def __len__(self):
        return self._length

    def __iter__(self):
        left = self._length
        while left:
            chunk = self._handler.rfile.read1(min(left, 1 << 16))
            if not chunk:
                raise ConnectionAbortedError
            left -= len(chunk)
            yield chunk
            passed = getattr(self._handler.server, "passed", None)
            if passed is not None:
                passed(self._length - left)


def every_third_request(handler, number):
    """A fault of :class:`FlakyProxy`: in turn, 503, 429 and a connection that ends."""
    if number % 3:
        return False
    handler.close_connection = True
    if number % 9 == 0:
        return True
    # Unread: the client may not have sent all of it.
    status = 503 if number % 2 else 429
    handler.answer(status, {"message": "Not now."}, Retry_After=0, Connection="close")
    return True


def kill(process, how=signal.SIGKILL):
    process.send_signal(how)
    return (*process.communicate(timeout=30), process.returncode)


def without_modules(folder, *names):
    """Return an environment in which Python does not find these modules.

    :param folder: for the file that does that.
    """
    code = "".join(f"import sys; sys.modules[{name!r}] = None\n" for name in names)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {**os.environ, "PYTHONPATH": str(folder)}
