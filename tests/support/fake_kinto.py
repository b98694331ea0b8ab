"""A fake Kinto for the tests of the scripts, and a proxy that fails."""

import contextlib
import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests


BROKEN_AFTER_BYTES = 1 << 19


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
    :ivar uploads: the same for requests on resumable uploads; ``None`` if there are none.
    """

    def __init__(self):
        super().__init__(_KintoHandler)
        self.records = []
        self.files = {}
        self.base_url = f"{self.origin}/files/"
        self.next_page = None
        self.etag = '"{}"'
        self.post = stored_as_sent
        self.uploads = None

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


def described(filename, content):
    sha256 = hashlib.sha256(content).hexdigest()
    return {"filename": filename, "hash": sha256, "size": len(content)}


def stored_as_sent(handler, body):
    """Respond with the attachment that a body of the upload script contains as its last part."""
    boundary, _, rest = body.partition(b"\r\n")
    content = rest.rpartition(b"\r\n" + boundary + b"--")[0].rpartition(b"\r\n\r\n")[2]
    handler.answer(201, described("stored", content))


class FakeUploads:
    """Resumable uploads of :class:`FakeKinto`, of which there is one at a time.

    :ivar content: what has been received of it, ``None`` if it does not exist.
    :ivar patched: the ``Upload-Offset`` of all PATCH requests.
    :ivar location: of new uploads.
    :ivar headers: of all answers about one.
    :ivar patch: a function of handler and body that may answer a PATCH instead; it returns whether
        it did.
    """

    def __init__(self):
        self.content = None
        self.patched = []
        self.location = "/v1/uploads/1"
        self.headers = {}
        self.patch = lambda handler, body: False

    def __call__(self, handler, body):
        if handler.command == "POST":
            self.content = b""
            handler.answer(201, Location=self.location, **self.headers)
        elif self.content is None:
            handler.answer(404)
        elif handler.command == "PATCH":
            self._patch(handler, body)
        else:
            handler.answer(200, Upload_Offset=len(self.content), **self.headers)

    def _patch(self, handler, body):
        self.patched.append(int(handler.headers["Upload-Offset"]))
        if not self.patch(handler, body):
            self.content += body
            handler.answer(204, Upload_Offset=len(self.content), **self.headers)


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
        if "/attachment/uploads/" in self.path:
            self.server.uploads(self, b"")
            return
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
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_form = self.path.partition("?")[0].endswith("/attachment")
        (self.server.post if is_form else self.server.uploads)(self, body)

    do_PATCH = do_DELETE = do_POST

    def answer_capabilities(self):
        attachments = {"base_url": self.server.base_url}
        if self.server.uploads:
            attachments["resumable"] = ["tus-1.0.0"]
        self.answer(200, {"capabilities": {"attachments": attachments}})

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
        shows whether it responded.
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
        if self.close_connection or "Content-Length" not in response.headers:
            self.send_header("Connection", "close")
        self.end_headers()
        for chunk in response.raw.stream(1 << 16, decode_content=False):
            self.wfile.write(chunk)

    do_OPTIONS = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _body(self):
        length = int(self.headers.get("Content-Length", 0))
        return _Body(self, length) if length else None


class BreakingLine(FlakyProxy):
    """A line to a real server that breaks in the middle of each of the first large bodies.

    :ivar left: how often it will break.
    """

    def __init__(self, url, breaks):
        super().__init__(url, self._close)
        self.left = breaks

    def _close(self, handler, number):
        handler.close_connection = True
        return False

    def passed(self, size):
        if self.left and size >= BROKEN_AFTER_BYTES:
            self.left -= 1
            raise ConnectionAbortedError


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
