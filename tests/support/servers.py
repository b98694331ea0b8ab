"""Real Kintos in processes of their own."""

import configparser
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

from tests.support.paths import ROOT, SCRIPTS


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def eventually_answers(url, seconds=30):
    """Wait until a URL responds, and return the response."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return requests.get(url, timeout=5, allow_redirects=False)
        except (requests.ConnectionError, requests.Timeout):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def assert_eventually(look, expected, seconds=30):
    """Wait until a look at what a server does after its answer returns what is expected.

    (It deletes the files that no record refers to any more.)
    """
    deadline = time.monotonic() + seconds
    while look() != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert look() == expected


def files_in(folder):
    """Return the paths of all files in a folder and below."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Server:
    """A real Kinto in processes of its own, under waitress (``kinto start``), granian or others.

    :ivar url: the root of its API.
    :ivar log: the path of its output.
    """

    def __init__(self, kind, folder, settings, environment=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.log = folder / "server.log"
        self.ini = folder / "kinto.ini"
        self._write_ini(settings)
        self._command = getattr(self, f"_{kind}")()
        self._environment = {**os.environ, "KINTO_INI": str(self.ini), **(environment or {})}
        if "kinto.storage_url" in settings:
            migrate = [SCRIPTS / "kinto", "migrate", "--ini", str(self.ini)]
            subprocess.run(migrate, check=True, capture_output=True, env=self._environment)
        self.start()

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT / "config", env=self._environment, stdout=log, stderr=log
            )

    def _write_ini(self, settings):
        # Its way of logging is that of the file for trying things out.
        ini = configparser.RawConfigParser()
        ini.read(ROOT / "config" / "serve.ini")
        ini["server:main"] = {
            "use": "egg:waitress#main",
            "host": "127.0.0.1",
            "port": str(self.port),
            "recv_bytes": "65536",
            "max_request_body_size": str(1 << 40),
        }
        ini["app:main"] = {"use": "egg:kinto", **settings}
        with self.ini.open("w") as file:
            ini.write(file)

    def _waitress(self):
        return [SCRIPTS / "kinto", "start", "--ini", str(self.ini)]

    def _granian(self, threads=4):
        options = ["--interface", "wsgi", "--http", "1", "--blocking-threads", str(threads)]
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        return [SCRIPTS / "granian", *options, *address, "wsgi:application"]

    def _granian_of_two_threads(self):
        return self._granian(2)

    def _cheroot(self):
        command = [sys.executable, "-m", "cheroot", "--bind", f"127.0.0.1:{self.port}"]
        return [*command, "wsgi:application"]

    def _gunicorn(self):
        options = ["--threads", "4", "--bind", f"127.0.0.1:{self.port}"]
        return [SCRIPTS / "gunicorn", *options, "wsgi:application"]

    def _wsgiref(self):
        code = (
            "from wsgi import application; from wsgiref.simple_server import make_server;"
            f"make_server('127.0.0.1', {self.port}, application).serve_forever()"
        )
        return [sys.executable, "-c", code]

    def wait_until_ready(self, seconds=60):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            # gunicorn listens before it can answer.
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                if requests.get(f"{self.url}/__lbheartbeat__", timeout=5).ok:
                    return self
            time.sleep(0.1)
        raise AssertionError(f"The server did not start:\n{self.log.read_text()}")

    def worker(self):
        """Return the id of the process that responds to requests."""
        return (*self.workers(), self.process.pid)[0]

    def workers(self):
        """Return the ids of the processes that the first one has started to respond to requests."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [
            int(pid)
            for pid in children.read_text().split()
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def peak_memory(self):
        """Return the peak of the resident memory of the worker, in bytes."""
        status = Path(f"/proc/{self.worker()}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def written(self):
        """Return how many bytes the worker has written to disks."""
        counters = Path(f"/proc/{self.worker()}/io").read_text()
        return int(re.search(r"write_bytes: (\d+)", counters)[1])

    def stop(self):
        self.terminate()
        self.wait_until_stopped()

    def terminate(self):
        self._signalled = self.workers() if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)

    def wait_until_stopped(self, seconds=20):
        """Wait until all processes have ended.

        The workers get a second signal: Python handles signals in the main thread, where granian
        waits, and one that arrives in a thread that is starting another does not wake it up.
        """
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(seconds)
            for pid in self._signalled:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
        self.process.kill()
        self.process.wait()
        raise AssertionError(f"The server did not stop:\n{self.log.read_text()}")


class TryOutServer(Server):
    """The Kinto of ``config/serve.ini``, with its files in another folder.

    :ivar files: the folder of its files, in which every collection has one of its own.
    """

    def __init__(self, folder, **options):
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://localhost:{self.port}/v1"
        self.log = folder / "server.log"
        self.files = folder / "files"
        options = {"base_path": self.files, "folder": "{bucket_id}/{collection_id}", **options}
        variables = {f"KINTO_ATTACHMENT_{k.upper()}": str(v) for k, v in options.items()}
        self._environment = {**os.environ, **variables}
        ini = ROOT / "config" / "serve.ini"
        self._command = [SCRIPTS / "kinto", "start", "--ini", ini, "--port", str(self.port)]
        self.start()

    def assert_stored(self, collection, contents):
        """Wait until these are the contents of all files of a collection, sorted."""
        folders = lambda: self.files.glob(f"*/{collection}/*")  # noqa: E731
        assert_eventually(lambda: sorted(map(_content, folders())), contents)


def _content(path):
    """Return the bytes of a file, or ``None`` if it was just deleted."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
