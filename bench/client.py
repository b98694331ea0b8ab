"""An HTTP client that takes little time itself, and what it sends."""

import http.client
import json
import pydoc_data.topics
import random
import socket
from typing import NamedTuple

from tests.support.users import basic_auth


MIB = 1024 * 1024
BLOCK_BYTES = 512 * 1024
BOUNDARY = "d74496d66958873e"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="attachment"; filename="file.txt"\r\n'
    "Content-Type: text/plain\r\n\r\n"
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()

CONTENTS = {
    "random": random.Random(7).randbytes(BLOCK_BYTES),
    # Python's own documentation: real text.
    "text": "".join(pydoc_data.topics.topics.values()).encode()[:BLOCK_BYTES],
    "crlf": b"\r\n" * (BLOCK_BYTES // 2),
}
"""What files are made of, again and again. (Deflate sees no farther than 32 KiB.)"""


class Body(NamedTuple):
    """The pieces of a request's body, the block many times."""

    content_type: str
    head: bytes
    block: bytes = b""
    blocks: int = 0
    tail: bytes = b""

    def __len__(self):
        return len(self.head) + len(self.block) * self.blocks + len(self.tail)


def form(size, content="random"):
    """Return a form with a file of so many bytes."""
    block = CONTENTS[content][:size]
    return Body(CONTENT_TYPE, HEAD, block, size // len(block), TAIL)


def json_body(value):
    """Return a body of JSON."""
    return Body("application/json", json.dumps(value).encode())


NO_BODY = Body("application/json", b"")


class Client:
    """A connection that is kept.

    :ivar user: everybody has a default bucket of their own.
    """

    def __init__(self, port, user="alice"):
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._authorization = basic_auth(user)

    def send(self, method, path, body):
        """Send a request, and return what was answered.

        :raises RuntimeError: it was not a success.
        """
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: {self._authorization}",
            f"Content-Type: {body.content_type}",
            f"Content-Length: {len(body)}",
        ]
        start = "\r\n".join([*lines, "", ""]).encode() + body.head
        if len(body.block) * body.blocks < MIB:
            self._socket.sendall(start + body.block * body.blocks + body.tail)
        else:
            self._socket.sendall(start)
            for _ in range(body.blocks):
                self._socket.sendall(body.block)
            self._socket.sendall(body.tail)
        return self._answer(method)

    def close(self):
        self._socket.close()

    def _answer(self, method):
        response = http.client.HTTPResponse(self._socket, method=method)
        response.begin()
        is_json = response.headers.get_content_type() == "application/json"
        answer = b""
        while piece := response.read(BLOCK_BYTES):
            # Of a file, which may be large, nothing but the last piece is kept.
            answer = answer + piece if is_json else piece
        if response.status >= 300:
            raise RuntimeError(f"{method}: {response.status} {answer[:1000]!r}")
        return answer
