"""The session with the scripts in the documentation, run as printed."""

import subprocess

import pytest

from tests.support.documentation import ENVIRONMENT, blocks, sessions
from tests.support.paths import ROOT
from tests.support.servers import TryOutServer


@pytest.fixture
def server(external, tmp_path):
    server = TryOutServer(tmp_path / "server")
    yield server.wait_until_ready()
    server.stop()


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of the session."""
    (tmp_path / "photos" / "2026").mkdir(parents=True)
    for name in ("cat.jpg", "dog.jpg", "2026/cat.jpg"):
        (tmp_path / "photos" / name).write_bytes(name.encode() * 1000)
    (tmp_path / "photos" / "notes.txt").write_bytes(b"note\n" * 117779)
    return tmp_path


def test_the_scripts_print_what_the_guide_shows(server, folder):
    shown = sessions("docs/how-to/scripts")
    (assignment, _), *commands = shown
    assignment = assignment.replace("http://localhost:8888/v1", server.url)
    for command, printed in commands:
        finished = subprocess.run(
            ["bash", "-c", f"{assignment}; {command}"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            env=ENVIRONMENT,
        )
        # Files are sent in parallel.
        assert sorted(finished.stdout.splitlines()) == sorted(printed.splitlines()), command
    assert len(commands) >= 9


@pytest.mark.parametrize("code", blocks("docs/how-to/scripts", "shell"))
def test_the_scripts_can_be_started_as_shown(external, code):
    commands = [line for line in code.splitlines() if not line.startswith("pip ")]
    assert len(commands) == 2
    for command in commands:
        usage = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT
        )
        assert usage.stdout.startswith("usage: "), usage.stderr
