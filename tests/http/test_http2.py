"""Granian refuses HTTP/2, since a client that is gone would block a thread for ever."""

import contextlib
import re
import socket

import requests

from tests.support.documentation import PAGES
from tests.support.paths import ROOT


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = bytes(3) + b"\x04" + bytes(5)


def test_an_http2_connection_is_closed_at_once_and_the_server_goes_on(serve):
    server = serve("granian_of_two_threads")
    with contextlib.ExitStack() as connections:
        for _ in range(4):
            address = ("127.0.0.1", server.port)
            connection = connections.enter_context(socket.create_connection(address, timeout=30))
            connection.sendall(PREFACE + EMPTY_SETTINGS)
            with contextlib.suppress(ConnectionResetError):
                while answer := connection.recv(65536):
                    assert answer.startswith(b"HTTP/1.1 400 ")
        assert requests.get(f"{server.url}/", timeout=30).status_code == 200


def test_all_commands_of_granian_are_for_http1():
    commands = []
    for path in [*PAGES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/*.py")]:
        commands += re.findall(r"--interface\b(?!\\).*", path.read_text())
    assert len(commands) >= 4
    for command in commands:
        assert re.search(r'--http[", ]+1\b', command), command
