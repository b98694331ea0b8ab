"""Resumable uploads over a line that breaks, beside plain ones of the same file."""

import hashlib
import http.client
import json
import random
import struct
import time
import urllib.parse
import urllib.request
import uuid
from contextlib import closing
from dataclasses import dataclass

from bench.client import BLOCK_BYTES, CONTENT_TYPE, CONTENTS, HEAD, MIB, TAIL
from bench.environment import COLLECTION, Setup
from bench.measure import Bar, Figure, Outcome
from tests.support.resumable import CHUNK, TUS, encode
from tests.support.users import ALICE


WARM_UP_BYTES = 4 * MIB
WARM_UPS = 3
SECONDS = 600
"""How long an answer may take."""


class Content:
    """A file of so many bytes, of which each block is another one.

    :ivar sha256: in hexadecimal.
    """

    def __init__(self, size):
        self.size = size
        digest = hashlib.sha256()
        for block in self.pieces(0, size):
            digest.update(block)
        self.sha256 = digest.hexdigest()

    def pieces(self, start, end):
        """Yield the bytes between two offsets."""
        while start < end:
            number, skipped = divmod(start, BLOCK_BYTES)
            block = struct.pack(">Q", number) + CONTENTS["random"][8:]
            piece = block[skipped : skipped + end - start]
            yield piece
            start += len(piece)


@dataclass(frozen=True)
class Resumable:
    """Seconds, and the growth of a server's memory, beside a POST of the same file.

    After each break, the client goes on at once, with a request to the other of two servers, which
    have nothing in common but the database and the storage.

    :param size: of the file, in bytes.
    :param breaks: how often the line breaks.
    :param at_most: the limit of the ratio to a plain POST.
    :param growth: by how many MiB the memory of a server may grow.
    """

    title: str
    setup: Setup
    size: int
    breaks: int
    rounds: int
    at_most: float
    growth: float

    def run(self, environment):
        """Return the seconds of both, and how much the peak of the memory has grown.

        :raises RuntimeError: a byte is lost, or another one than was sent.
        """
        content = Content(self.size)
        figures = {name: Figure(name, "s") for name in ("resumable", "plain POST")}
        growth = Figure("growth", "MiB")
        for _ in range(self.rounds):
            servers = [environment.new_server(self.setup) for _ in range(2)]
            try:
                growth.samples.append(self._growth(environment, servers, content, figures))
            finally:
                for server in servers:
                    server.stop()
                environment.clear()
        title = f"{self.title}, {self.breaks} breaks"
        bars = (
            Bar(f"{title}: / plain POST, time", *figures, at_most=self.at_most),
            Bar(f"{title}: growth, MiB", "growth", at_most=self.growth),
        )
        return Outcome(title, {**figures, "growth": growth}, bars)

    def _growth(self, environment, servers, content, figures):
        small = Content(min(WARM_UP_BYTES, self.size))
        for _ in range(WARM_UPS):
            for both in (servers, servers[::-1]):
                self._resumable(both, small)
                _plain(both[0], small)
        before = [server.peak_memory() for server in servers]
        begin = time.perf_counter()
        record = self._resumable(servers, content)
        figures["resumable"].samples.append(time.perf_counter() - begin)
        after = [server.peak_memory() for server in servers]
        _verify(environment, servers[0], record, content)
        environment.clear()
        begin = time.perf_counter()
        record = _plain(servers[0], content)
        figures["plain POST"].samples.append(time.perf_counter() - begin)
        _verify(environment, servers[0], record, content)
        return max(0.0, *(b - a for a, b in zip(before, after, strict=True))) / MIB

    def _resumable(self, servers, content):
        """Upload a file over a line that breaks, and return the path of its record."""
        record = f"{COLLECTION}/records/{uuid.uuid4()}"
        length = {"Upload-Length": str(content.size), "Upload-Metadata": encode()}
        with closing(_connection(servers[0])) as connection:
            connection.request("POST", f"{record}/attachment/uploads", headers=_tus(length))
            location = _answer(connection, 201).headers["Location"]
        path = urllib.parse.urlsplit(location).path
        ends = sorted(random.Random(7).sample(range(1, content.size), self.breaks))
        for number, end in enumerate(ends):
            _append(servers[number % 2], path, content, end)
        while _append(servers[0], path, content, content.size) != 204:
            # The server has begun only now with what was sent before a break.
            pass
        return record


def _append(server, path, content, end):
    """Continue an upload, and return the status if the line does not break before the answer."""
    with closing(_connection(server)) as connection:
        connection.request("HEAD", path, headers=_tus())
        offset = int(_answer(connection, 200).headers["Upload-Offset"])
        length = {"Upload-Offset": str(offset), "Content-Length": str(content.size - offset)}
        _begin(connection, "PATCH", path, _tus(CHUNK | length))
        for piece in content.pieces(offset, end):
            connection.send(piece)
        return _answer(connection, 204, 409).status if end == content.size else None


def _plain(server, content):
    """Upload a file in a form, and return the path of its record."""
    record = f"{COLLECTION}/records/{uuid.uuid4()}"
    size = len(HEAD) + content.size + len(TAIL)
    headers = {**ALICE, "Content-Type": CONTENT_TYPE, "Content-Length": str(size)}
    with closing(_connection(server)) as connection:
        _begin(connection, "POST", f"{record}/attachment", headers)
        connection.send(HEAD)
        for piece in content.pieces(0, content.size):
            connection.send(piece)
        connection.send(TAIL)
        _answer(connection, 201)
    return record


def _verify(environment, server, record, content):
    """:raises RuntimeError: the record does not have that file."""
    with closing(_connection(server)) as connection:
        connection.request("GET", record, headers=ALICE)
        attachment = json.load(_answer(connection, 200, read=False))["data"]["attachment"]
    location = urllib.parse.urljoin(f"{environment.files.as_uri()}/", attachment["location"])
    with urllib.request.urlopen(location, timeout=SECONDS) as stored:
        digest = hashlib.file_digest(stored, "sha256").hexdigest()
    if not digest == attachment["hash"] == content.sha256:
        raise RuntimeError(f"{location} has the SHA-256 {digest} instead of {content.sha256}")


def _connection(server):
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)


def _tus(headers=()):
    return {**ALICE, **TUS, **dict(headers)}


def _begin(connection, method, path, headers):
    connection.putrequest(method, path)
    for header in headers.items():
        connection.putheader(*header)
    connection.endheaders()


def _answer(connection, *statuses, read=True):
    """Return an answer. The connection may be used again if it is read."""
    response = connection.getresponse()
    if response.status not in statuses:
        raise RuntimeError(f"{response.status} {response.read()[:1000]!r}")
    if read:
        response.read()
    return response
