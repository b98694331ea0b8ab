"""The WSGI servers of the page about them: they serve as it says."""

import contextlib
import socket
import subprocess

import pytest
import requests

from tests.support.app import ATTACHMENT
from tests.support.documentation import ENVIRONMENT, only, replaced
from tests.support.forms import BOUNDARY, file_part, multipart
from tests.support.paths import ROOT
from tests.support.s3 import eventually
from tests.support.servers import eventually_answers, files_in, free_port
from tests.support.users import basic_auth


AUTH = ("alice", "secret")
BODY = multipart(file_part())


@contextlib.contextmanager
def serving(name, files):
    """Run a server as printed, and give its URL."""
    port = str(free_port())
    shown = only("docs/how-to/servers", "shell", f"pip install {name}\n")
    shown = replaced(
        shown, {f"pip install {name}\n": "", "8888": port, "KINTO_INI": "exec env KINTO_INI"}
    )
    server = subprocess.Popen(
        ["bash", "-e", "-c", shown],
        cwd=ROOT,
        env={**ENVIRONMENT, "KINTO_ATTACHMENT_BASE_PATH": str(files)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/v1"
        assert eventually_answers(f"{url}/__heartbeat__").json()["attachments"] is True
        for path in ("/buckets/blog", "/buckets/blog/collections/photos"):
            requests.put(url + path, json={}, auth=AUTH, timeout=30).raise_for_status()
        yield url
    finally:
        server.terminate()
        server.wait(60)


def send(url, *headers, body=BODY):
    """Return a connection on which an upload has been sent."""
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    lines = [
        f"POST /v1{ATTACHMENT} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: {basic_auth('alice')}",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        *headers,
    ]
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return connection


def first_status(connection):
    with connection, connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])


@pytest.mark.external
@pytest.mark.parametrize(
    ("name", "of_chunks", "of_expect"), [("gunicorn", 200, 100), ("pyuwsgi", 411, 200)]
)
def test_a_server_serves_as_the_page_says(tmp_path, name, of_chunks, of_expect):
    with serving(name, tmp_path) as url:
        for content in (b"a", b"b"):
            files = {"attachment": ("a.txt", content, "text/plain")}
            requests.post(url + ATTACHMENT, files=files, auth=AUTH, timeout=30).raise_for_status()
        assert eventually(lambda: contents(tmp_path) == [b"b"])
        length = f"Content-Length: {len(BODY)}"
        assert first_status(send(url, length, "Expect: 100-continue")) == of_expect
        in_chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
        assert first_status(send(url, "Transfer-Encoding: chunked", body=in_chunks)) == of_chunks

        assert eventually(lambda: len(contents(tmp_path)) == 1)
        begun = BODY.partition(b"once")[0] + b"x" * 2_000_000
        upload = send(url, "Content-Length: 5000000", body=begun)
        assert eventually(lambda: len(contents(tmp_path)) == 2)
        upload.close()
        assert eventually(lambda: len(contents(tmp_path)) == 1)


def contents(folder):
    """Return the content of all files, those that are being received included."""
    found = []
    for path in files_in(folder):
        # The server may delete it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found.append(path.read_bytes())
    return sorted(found)
