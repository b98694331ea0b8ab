"""A client of tus that can do what no client should."""

import base64
import contextlib
import http.client
import socket
import time
import urllib.parse
from contextlib import closing
from typing import NamedTuple


TYPE = "application/offset+octet-stream"


class Response(NamedTuple):
    """:ivar headers: a mapping whose names are of any case."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def offset(self):
        return int(self.headers["Upload-Offset"])


class Tus:
    """A client with one URL for its uploads.

    Each method takes headers, over those that a request should have: ``None`` leaves one out.
    """

    def __init__(self, target, creation_url=None):
        self.target = target
        self.creation_url = creation_url or target.creation_url()

    def request(self, method, url, headers, body=None):
        """Return the response. A body that is no bytes is sent in chunks."""
        with closing(self._connection(url)) as connection:
            sent = self._headers(headers)
            chunked = {"encode_chunked": True} if "Transfer-Encoding" in sent else {}
            connection.request(method, _path(url), body, sent, **chunked)
            response = connection.getresponse()
            return Response(response.status, response.headers, response.read())

    def options(self, url=None, **headers):
        return self.request("OPTIONS", url or self.creation_url, {"Tus_Resumable": None, **headers})

    def post(self, length=None, body=None, metadata=(), **headers):
        """Return the response to a creation."""
        usual = {} if body is None else {"Content_Type": TYPE}
        if length is not None:
            usual["Upload_Length"] = str(length)
        pairs = {**self.target.metadata, **dict(metadata)}
        if pairs:
            usual["Upload_Metadata"] = written(pairs)
        return self.request("POST", self.creation_url, {**usual, **headers}, body)

    def create(self, *args, **headers):
        """Return the URL of a new upload."""
        response = self.post(*args, **headers)
        assert response.status == 201, response
        return self.location(response)

    def location(self, response):
        return urllib.parse.urljoin(self.creation_url, response.headers["Location"])

    def head(self, url, **headers):
        return self.request("HEAD", url, headers)

    def offset(self, url):
        return self.head(url).offset

    def patch(self, url, offset, body, **headers):
        usual = {"Content_Type": TYPE, "Upload_Offset": str(offset)}
        return self.request("PATCH", url, {**usual, **headers}, body)

    def delete(self, url, **headers):
        return self.request("DELETE", url, headers)

    def patch_and_vanish(self, url, offset, body, after, meanwhile=lambda: None):
        """Send so many bytes of a body, and return when the server knows that no more will come.

        :param meanwhile: is called before it can know.
        """
        usual = {"Content_Type": TYPE, "Upload_Offset": str(offset)}
        with closing(self._connection(url)) as connection:
            self._begin(connection, "PATCH", url, {**usual, "Content_Length": len(body)})
            connection.endheaders(body[:after])
            meanwhile()
            connection.sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while connection.sock.recv(1000):
                    pass

    def expect(self, method, url, headers, body):
        """Return the statuses of a request that waits for 100 before it sends its body."""
        with closing(self._connection(url)) as connection:
            usual = {"Expect": "100-continue", "Content_Length": len(body)}
            self._begin(connection, method, url, {**usual, **headers})
            connection.endheaders()
            first = _first_status(connection.sock)
            if first != 100:
                return [first]
            connection.send(body)
            return [first, connection.getresponse().status]

    def content(self, url):
        """Return what the server has made of a complete upload."""
        return self.target.content(self.creation_url, url)

    def _begin(self, connection, method, url, headers):
        sent = self._headers(headers)
        connection.putrequest(method, _path(url), skip_host="Host" in sent)
        for name, value in sent.items():
            connection.putheader(name, value)

    def _connection(self, url):
        return http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=30)

    def _headers(self, headers):
        usual = {"Tus_Resumable": "1.0.0", **self.target.headers, **headers}
        return {
            name.replace("_", "-"): str(value) for name, value in usual.items() if value is not None
        }


def wait_for(look, is_right, seconds=10):
    """Return what is seen as soon as it is right, or the last that was seen."""
    deadline = time.monotonic() + seconds
    while not is_right(seen := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


def another(url):
    """Return a URL like this one, of an upload that does not exist."""
    return url[:-1] + ("1" if url[-1] == "0" else "0")


def written(pairs):
    """Return ``Upload-Metadata``. A value is bytes, text, or ``None`` if there is none."""
    return ",".join(
        key if value is None else f"{key} {encoded(value)}" for key, value in pairs.items()
    )


def encoded(value):
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def read_metadata(header):
    """Return ``{key: bytes}`` of ``Upload-Metadata``."""
    pairs = (pair.strip().partition(" ") for pair in header.split(","))
    return {key: base64.b64decode(value, validate=True) for key, _, value in pairs}


def _path(url):
    parts = urllib.parse.urlsplit(url)
    return parts._replace(scheme="", netloc="").geturl()


def _first_status(connection):
    """Return the status of the first response, which may be an informational one.

    (``http.client`` skips 100.)
    """
    line = b""
    while not line.endswith(b"\r\n"):
        line += connection.recv(1)
    if line.split()[1] == b"100":
        while not line.endswith(b"\r\n\r\n"):
            line += connection.recv(1)
    return int(line.split()[1])
