"""What the tests of S3 share: real and fake servers, buckets to look into, a proxy that watches."""

import contextlib
import functools
import http.client
import http.server
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

import boto3
import botocore
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from tests.support.paths import ROOT, SCRIPTS
from tests.support.servers import free_port


ACCESS_KEY = "kinto"
SECRET_KEY = "for-trying-things-out"
"""Those of seaweedfs.json beside this, with which everybody may read all files."""

MIB = 1024 * 1024
PART_BYTES = 5 * MIB
"""The smallest parts that S3 takes."""


class SeaweedFS:
    """A real S3 server in a process of its own."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.endpoint_url = f"http://127.0.0.1:{port}"
        others = [
            f"-{name}={free_port()}"
            for service in ("s3", "filer", "volume", "master", "admin")
            for name in (f"{service}.port", f"{service}.port.grpc")
            if name != "s3.port"
        ]
        options = {
            "dir": folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.port": port,
            "s3.config": ROOT / "tests" / "support" / "seaweedfs.json",
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "volume.max": 1000,
            "master.volumeSizeLimitMB": 64,
            "master.telemetry": "false",
        }
        command = [SCRIPTS / "weed", "mini", *(f"-{k}={v}" for k, v in options.items()), *others]
        self.log = folder / "seaweedfs.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    def wait_until_ready(self, seconds=60):
        client = s3_client(self.endpoint_url)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(
                botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError
            ):
                client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                return self
            time.sleep(0.2)
        raise AssertionError(f"SeaweedFS did not start:\n{self.log.read_text()}")

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@functools.lru_cache
def s3_client(endpoint_url):
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(
            s3={"addressing_style": "path"},
            connect_timeout=5,
            read_timeout=30,
            retries={"total_max_attempts": 1},
        ),
    )


class Bucket:
    """An empty bucket on a server, to be used and looked into.

    :ivar options: the plugin's settings for it, without prefix.
    """

    def __init__(self, endpoint_url, name):
        self.name = name
        self.endpoint_url = endpoint_url
        self.client = s3_client(endpoint_url)
        self.client.create_bucket(Bucket=name)
        self.options = {
            "aws.bucket_name": name,
            "aws.endpoint_url": endpoint_url,
            "aws.access_key": ACCESS_KEY,
            "aws.secret_key": SECRET_KEY,
            "aws.part_size_bytes": PART_BYTES,
        }

    def settings(self, **more):
        """Return keyword arguments for ``make_app`` and ``serve``."""
        options = {
            "base_path": "",
            **self.options,
            **{name.replace("__", "."): value for name, value in more.items()},
        }
        return {f"attachment__{k.replace('.', '__')}": str(v) for k, v in options.items()}

    def keys(self):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return sorted(stored["Key"] for page in pages for stored in page.get("Contents", ()))

    def content(self, key):
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def files(self):
        """Return ``{key: content}`` of all objects."""
        return {key: self.content(key) for key in self.keys()}

    def uploads(self):
        """Return the keys of the multipart uploads that are neither completed nor aborted."""
        answer = self.client.list_multipart_uploads(Bucket=self.name)
        return [upload["Key"] for upload in answer.get("Uploads", ())]

    def clear(self):
        for key in self.keys():
            self.client.delete_object(Bucket=self.name, Key=key)
        answer = self.client.list_multipart_uploads(Bucket=self.name)
        for upload in answer.get("Uploads", ()):
            self.client.abort_multipart_upload(
                Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"]
            )

    def location(self, key):
        return f"{self.endpoint_url}/{self.name}/{urllib.parse.quote(key)}"


def through(bucket, proxy):
    """Return the options of a bucket, to be reached through a proxy."""
    return {**bucket.options, "aws.endpoint_url": proxy.url}


class Seen:
    """A request that a proxy has seen: its operation in the words of S3, and its headers."""

    def __init__(self, handler):
        self.method = handler.command
        self.path = handler.path
        self.headers = dict(handler.headers)

    @property
    def is_copy(self):
        return "x-amz-copy-source" in self.headers

    @property
    def operation(self):
        query = urllib.parse.parse_qs(
            urllib.parse.urlsplit(self.path).query, keep_blank_values=True
        )
        if self.method == "POST":
            return {"uploads": "Create", "uploadId": "Complete", "delete": "DeleteObjects"}[
                next(name for name in query if name in ("uploads", "uploadId", "delete"))
            ]
        if "uploadId" in query:
            if self.is_copy:
                return "UploadPartCopy"
            return {"PUT": "UploadPart", "DELETE": "Abort"}[self.method]
        if self.is_copy:
            return "CopyObject"
        if "uploads" in query:
            return "ListMultipartUploads"
        return {
            "PUT": "PutObject",
            "GET": "GetObject",
            "HEAD": "HeadObject",
            "DELETE": "DeleteObject",
        }[self.method]


class Proxy:
    """Hands requests on to an S3 server, remembers them, and may behave badly.

    :ivar seen: the requests, in order.
    :ivar misbehave: called with a handler and what it saw; returns whether that was its own way to
        deal with the request.
    :param prefix: what the paths begin with that it answers, and that the server does not see.
    """

    see = Seen

    def __init__(self, endpoint_url, prefix=""):
        self.seen = []
        self.misbehave = lambda handler, seen: False
        self.most_parts_at_once = 0
        self._parts_now = 0
        self._lock = threading.Lock()
        self._target = urllib.parse.urlsplit(endpoint_url).netloc
        self._prefix = prefix
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                proxy.handle(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}{prefix}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def operations(self):
        return [seen.operation for seen in self.seen]

    def handle(self, handler):
        seen = self.see(handler)
        handler.body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._lock:
            self.seen.append(seen)
        with self._counted(seen):
            if not handler.path.startswith(f"{self._prefix}/"):
                self.refuse(handler, 404, "NoSuchRoute")
            elif not self.misbehave(handler, seen):
                self.forward(handler)

    def forward(self, handler, answer=True):
        headers = {k: v for k, v in handler.headers.items() if k.lower() != "expect"}
        path = handler.path.removeprefix(self._prefix)
        connection = http.client.HTTPConnection(self._target, timeout=30)
        try:
            connection.request(handler.command, path, handler.body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if answer:
            self.answer(handler, response.status, content, response.getheaders())

    def answer(self, handler, status, content=b"", headers=()):
        handler.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                handler.send_header(name, value)
        if handler.command == "HEAD":
            lengths = [value for name, value in headers if name.lower() == "content-length"]
            handler.send_header("Content-Length", lengths[0] if lengths else "0")
            handler.end_headers()
            return
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def refuse(self, handler, status, code):
        """Answer with an error of S3."""
        content = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.answer(handler, status, content)
        return True

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def _counted(self, seen):
        is_part = seen.operation == "UploadPart"
        with self._lock:
            self._parts_now += is_part
            self.most_parts_at_once = max(self.most_parts_at_once, self._parts_now)
        try:
            yield
        finally:
            with self._lock:
                self._parts_now -= is_part


class SlowLine:
    """Relays connections to an S3 server, and so many bytes per second of what it is sent."""

    BUFFER_BYTES = 32 * 1024

    def __init__(self, endpoint_url, bytes_per_second):
        self._target = urllib.parse.urlsplit(endpoint_url)
        self._seconds_per_byte = 1 / bytes_per_second
        self._is_cut = threading.Event()
        self._lock = threading.Lock()
        self._listener = socket.socket()
        # Before it listens, for the connections to have it.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.BUFFER_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(self):
        """Silently drop all further bytes."""
        self._is_cut.set()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._target.hostname, self._target.port))
                for source, target, wait in (
                    (client, server, self._take_time),
                    (server, client, lambda size: None),
                ):
                    relay = functools.partial(self._relay, source, target, wait)
                    threading.Thread(target=relay, daemon=True).start()

    def _take_time(self, size):
        with self._lock:
            time.sleep(size * self._seconds_per_byte)
        if self._is_cut.is_set():
            threading.Event().wait()

    def _relay(self, source, target, wait):
        with contextlib.suppress(OSError):
            while chunk := source.recv(4096):
                wait(len(chunk))
                target.sendall(chunk)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Silence:
    """A server that takes connections and never answers."""

    def __init__(self):
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler, bind_and_activate=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self):
        self._server.server_close()


def is_signed_for(seen, url):
    """Return whether the signature of a request is that of a client which asks for its path."""
    root = urllib.parse.urlsplit(url)
    request = AWSRequest(seen.method, f"{root.scheme}://{root.netloc}{seen.path}")
    authorization = dict(
        part.split("=", 1) for part in seen.headers["Authorization"].partition(" ")[2].split(", ")
    )
    headers = {name.lower(): value for name, value in seen.headers.items()}
    for name in authorization["SignedHeaders"].split(";"):
        request.headers[name] = headers[name]
    request.context["timestamp"] = headers["x-amz-date"]
    auth = S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1")
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return auth.signature(text, request) == authorization["Signature"]


def eventually(condition, seconds=30):
    """Wait until a condition holds, and return what it gave last."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


class HeartbeatRequest:
    """A request to a server that is not read-only."""

    class registry:  # noqa: N801
        settings = {"readonly": False}


def logged_exceptions(caplog):
    return [
        f"{record.getMessage()}\n{record.exc_text}"
        for record in caplog.records
        if record.name.startswith("kinto_attachment") and record.exc_info
    ]
