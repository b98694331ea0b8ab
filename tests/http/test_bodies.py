"""Bodies that are slow, cut off or refused: what is read, and how many threads it takes."""

import contextlib
import io
import socket
import threading

import pytest
import requests

from kinto_attachment.http.bodies import Body
from kinto_attachment.http.threads import ReadingThreads
from tests.support.app import ATTACHMENT
from tests.support.forms import file_part, multipart
from tests.support.servers import files_in
from tests.support.users import ALICE, basic_auth


AUTH = ("alice", "secret")
PATH = "/v1" + ATTACHMENT
FORM_HEAD = b'--xyz\r\nContent-Disposition: form-data; name="attachment"; filename="a.txt"\r\n\r\n'


def head(*headers, user="alice"):
    """Return the head of an upload, with these headers among others."""
    lines = [f"POST {PATH} HTTP/1.1", "Host: 127.0.0.1", *headers]
    lines += ["Content-Type: multipart/form-data; boundary=xyz"]
    if user:
        lines.append(f"Authorization: {basic_auth(user)}")
    return "\r\n".join([*lines, "", ""]).encode()


@contextlib.contextmanager
def client(server, sent):
    """A connection on which this has been sent, and nothing more."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(sent)
        yield connection


def status_line(connection):
    with connection.makefile("rb") as answer:
        return answer.readline().split(b" ", 1)[1].strip()


def collection(server):
    for path in ("/buckets/blog", "/buckets/blog/collections/photos"):
        requests.put(server.url + path, json={}, auth=AUTH, timeout=30).raise_for_status()
    return server


@pytest.mark.parametrize("length", [2_000_000, 1000])
def test_silent_clients_that_are_refused_do_not_block_a_server(serve, length):
    server = collection(serve("granian_of_two_threads"))
    with contextlib.ExitStack() as silent:
        for _ in range(4):
            silent.enter_context(client(server, head(f"Content-Length: {length}", user=None)))
        assert requests.get(f"{server.url}/", timeout=30).status_code == 200
        files = {"attachment": ("story.txt", b"x" * 2_000_000)}
        url = server.url + ATTACHMENT
        assert requests.post(url, files=files, auth=AUTH, timeout=30).status_code == 201


def test_a_silent_client_that_is_refused_gets_its_response(serve):
    server = collection(serve("granian"))
    for framing in ("Content-Length: 2000000", "Transfer-Encoding: chunked"):
        with client(server, head(framing, user=None)) as connection:
            assert status_line(connection) == b"401 Unauthorized"


def test_a_client_that_expects_100_continue_is_refused_at_once(serve):
    server = collection(serve("granian"))
    for length in (1000, 2_000_000):
        headers = [f"Content-Length: {length}", "Expect: 100-continue"]
        with client(server, head(*headers, user=None)) as connection:
            assert status_line(connection) == b"401 Unauthorized"
        with client(server, head(*headers)) as connection:
            assert status_line(connection) == b"100 Continue"


CUT_OFF = {
    "in a chunk": b"ffff\r\n" + FORM_HEAD,
    "in the size of a chunk": b"%x\r\n%s\r\n5" % (len(FORM_HEAD), FORM_HEAD),
    "before a chunk": b"%x\r\n%s\r\n" % (len(FORM_HEAD), FORM_HEAD),
    "no size": b"%x\r\n%s\r\nno\r\n" % (len(FORM_HEAD), FORM_HEAD),
}


@pytest.mark.parametrize("kind", ["granian", "cheroot", "gunicorn"])
def test_chunks_that_are_cut_off_are_a_400_on_every_server(serve, kind, tmp_path):
    server = collection(serve(kind))
    for name, sent in CUT_OFF.items():
        with client(server, head("Transfer-Encoding: chunked") + sent) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert (name, status_line(connection)) == (name, b"400 Bad Request")
    log = server.log.read_text()
    assert log.count("Upload ended after") == len(CUT_OFF)
    assert "Traceback" not in log
    assert files_in(tmp_path / "files") == []


def test_a_body_in_chunks_is_refused_if_the_server_does_not_mark_its_end(serve):
    server = collection(serve("wsgiref"))
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(FORM_HEAD), FORM_HEAD)
    with client(server, head("Transfer-Encoding: chunked") + body) as connection:
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.0 411 ")
    assert b'"errno":112' in answer
    assert b"should be sent with a Content-Length" in answer


class Endless(io.RawIOBase):
    """The input of a server that does not know where a body ends."""

    def __init__(self, content, rest):
        super().__init__()
        self._content = io.BytesIO(content + rest)
        self._end = len(content)

    def readable(self):
        return True

    def read(self, size=-1):
        assert 0 <= size <= self._end - self._content.tell(), "the body was read past its end"
        return self._content.read(size)


def body_of(content, **environ):
    length = {"CONTENT_LENGTH": str(len(content))}
    return Body({"wsgi.input": Endless(content, b"GET / HTTP/1.1"), **length, **environ})


def test_a_body_ends_where_its_length_says_however_it_is_read():
    content = b"one\ntwo\n" * 20_000
    assert body_of(content).read() == content
    assert body_of(content).readlines() == [b"one\n", b"two\n"] * 20_000
    body = body_of(content)
    assert body.readinto(buffer := bytearray(1 << 20)) == len(content)
    assert buffer.startswith(content)
    assert (body.bytes_left, body.read(10)) == (0, b"")


@pytest.mark.parametrize("length", ["", "x", "-5", "0"])
def test_a_body_of_no_length_is_empty(length):
    body = body_of(b"", CONTENT_LENGTH=length)
    assert (body.bytes_left, body.read(10)) == (0, b"")


def test_nothing_is_read_past_a_refused_body(app):
    content = multipart(file_part(b"x" * 2_000_000))
    for headers in ({}, ALICE):
        stream = Endless(content, b"GET / HTTP/1.1")
        app.upload_raw(stream, len(content), headers=headers, status="*")
        assert io.RawIOBase.readline(stream._content) == b"GET / HTTP/1.1"


class Waiting:
    """The body of a client that sends nothing until it is released."""

    def __init__(self):
        self.is_read = threading.Event()
        self.comes = threading.Event()

    def read(self, size):
        self.is_read.set()
        self.comes.wait()
        return b""


@pytest.fixture
def reading():
    """Start threads that read a body that is not sent, and send it at the end."""
    started = []

    def start(threads):
        waiting = Waiting()
        thread = threading.Thread(target=threads.read, args=(waiting, 10, 60))
        thread.start()
        started.append((waiting, thread))
        assert waiting.is_read.wait(10)
        return waiting

    yield start
    for waiting, thread in started:
        waiting.comes.set()
        thread.join()


def test_at_most_half_of_the_threads_read(reading, monkeypatch):
    monkeypatch.setattr("kinto_attachment.http.threads.MAX_SILENT_SECONDS", 0.01)
    threads = ReadingThreads()
    reading(threads)
    assert not threads.read(io.BytesIO(b"x"), 1, 60)
    together = threading.Barrier(4)

    def request():
        threads.enter()
        together.wait()
        threads.leave()

    others = [threading.Thread(target=request) for _ in range(4)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    reading(threads)
    assert not threads.read(io.BytesIO(b"x"), 1, 60)


def test_a_thread_waits_for_one_that_makes_progress(reading, monkeypatch):
    monkeypatch.setattr("kinto_attachment.http.threads.MAX_SILENT_SECONDS", 60)
    threads = ReadingThreads()
    first = reading(threads)
    second = io.BytesIO(b"x")
    results = []
    waiting = threading.Thread(target=lambda: results.append(threads.read(second, 1, 60)))
    waiting.start()
    waiting.join(0.1)
    assert results == []
    first.comes.set()
    waiting.join()
    assert results == [True]
    assert second.read() == b""


def test_a_thread_waits_no_longer_than_its_time_limit(reading, monkeypatch):
    monkeypatch.setattr("kinto_attachment.http.threads.MAX_SILENT_SECONDS", 60)
    threads = ReadingThreads()
    reading(threads)
    assert not threads.read(io.BytesIO(b"x"), 1, 0.01)


def test_a_body_that_fails_frees_its_place(monkeypatch):
    class Failing:
        def read(self, size):
            raise ValueError("the server's own way to say that the client is gone")

    threads = ReadingThreads()
    for _ in range(2):
        assert threads.read(Failing(), 10, 60)
