"""The command line of ``kinto-attachment``: usage, settings, output."""

import fcntl
import logging
import os
import pty
import struct
import subprocess
import termios

import pytest
from pyramid_storage.local import LocalFileStorage

from kinto_attachment.commands.main import main
from tests.support.app import App
from tests.support.commands import write_ini
from tests.support.paths import SCRIPTS
from tests.support.postgresql import postgresql_backends


COMMAND = SCRIPTS / "kinto-attachment"


@pytest.fixture(scope="module")
def settings(postgresql, tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings") / "files"
    app = App(folder, **postgresql_backends(postgresql()))
    app.create_collection()
    app.upload()
    return app.settings


@pytest.fixture
def run(capsys):
    """Run the command in this process, which is faster."""
    logger = logging.getLogger("kinto")
    level = logger.level

    def run_inside(*arguments):
        try:
            code = main(list(arguments))
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    yield run_inside
    logger.setLevel(level)


@pytest.fixture
def ini(settings, tmp_path):
    path = str(tmp_path / "kinto.ini")
    write_ini(path, settings)
    return path


def test_the_settings_file_is_found_as_kinto_finds_it(ini):
    for arguments, environment in ((["--ini", ini], {}), ([], {"KINTO_INI": ini})):
        done = subprocess.run(
            [COMMAND, "check", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "Compared 1 files, 1 links, 1 records\n"


WRONG_SETTINGS = {
    "a wrong value": ({"kinto.attachment.aws.timeout": "soon"}, "kinto.attachment.aws.timeout"),
    "an unknown name": ({"kinto.attachment.bas_path": "x"}, "did you mean"),
    "no plugin": ({"kinto.includes": ""}, "kinto.includes"),
    "no such plugin": ({"kinto.includes": "kinto_attachment no_such"}, "no_such"),
    "records in memory": ({"kinto.storage_backend": "kinto.core.storage.memory"}, "memory"),
    "no database": (
        {"kinto.storage_url": "postgresql+psycopg2://kinto@127.0.0.1:1/kinto"},
        "records cannot be read",
    ),
}


@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_wrong_settings_are_reported_in_a_line(run, settings, tmp_path, case):
    changed, message = WRONG_SETTINGS[case]
    path = str(tmp_path / "wrong.ini")
    write_ini(path, settings | changed)
    code, output, failure = run("check", "--ini", path)
    assert code == 2
    assert message in failure
    assert len(failure.splitlines()) == 1
    assert output == ""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("chek",),
        ("check", "--ini", "no-such.ini"),
        ("check", "--grace", "soon"),
        ("relocate", "--base-url", "https://example.org/"),
        ("copy",),
        ("copy", "--to", "no-such.ini", "--jobs", "0"),
    ],
)
def test_wrong_usage_exits_with_2(run, arguments):
    code, output, failure = run(*arguments)
    assert code == 2
    assert "kinto-attachment" in failure
    assert output == ""


def test_an_unreachable_storage_is_reported_in_a_line(run, settings, tmp_path):
    path = str(tmp_path / "kinto.ini")
    nowhere = {
        "kinto.attachment.base_path": "",
        "kinto.attachment.aws.bucket_name": "nowhere",
        "kinto.attachment.aws.endpoint_url": "http://127.0.0.1:1",
        "kinto.attachment.aws.num_retries": "0",
        "kinto.attachment.aws.access_key": "a",
        "kinto.attachment.aws.secret_key": "b",
    }
    write_ini(path, settings | nowhere)
    code, _, failure = run("check", "--ini", path)
    assert code == 1
    assert "the files cannot be reached" in failure
    assert len(failure.splitlines()) == 1


def test_a_terminal_shows_progress(ini):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run(
        [COMMAND, "check", "--hash", "--ini", ini], stdout=slave, stderr=subprocess.PIPE
    )
    os.close(slave)
    shown = b""
    while chunk := read(master):
        shown += chunk
    assert done.returncode == 0
    assert b"records: 0 records" in shown
    assert b"Compared 1 files" in shown


def read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # On Linux, the end of the output.
        return b""


def test_help_explains_each_subcommand(run):
    assert "compare them with the records" in " ".join(run("--help")[1].split())
    for name in ("check", "repair", "relocate", "copy"):
        help_ = " ".join(run(name, "--help")[1].split())
        assert "exit code is 0 if all is well" in help_
        assert "KINTO_INI" in help_


def test_a_check_leaves_staged_files_to_the_server(run, settings, tmp_path):
    """A server deletes the staged files of killed workers when it starts; a command does not."""
    folder = tmp_path / "files"
    (folder / ".staging").mkdir(parents=True)
    left = folder / ".staging" / "left"
    left.write_bytes(b"of a killed worker")
    os.utime(left, (0, 0))
    path = str(tmp_path / "kinto.ini")
    write_ini(path, settings | {"kinto.attachment.base_path": str(folder)})
    _, output, _ = run("check", "--ini", path)
    assert "incomplete-upload: .staging/left" in output
    assert left.exists()


def test_a_backend_that_does_not_list_its_files_is_reported_in_a_line(
    run, settings, tmp_path, monkeypatch
):
    path = str(tmp_path / "kinto.ini")
    backend = {
        "kinto.attachment.base_path": "",
        "kinto.attachment.backend": "pyramid_storage.local",
        "kinto.storage.base_path": str(tmp_path / "files"),
    }
    write_ini(path, settings | backend)
    monkeypatch.delattr(LocalFileStorage, "path")
    code, _, failure = run("check", "--ini", path)
    assert code == 2
    assert "does not list its files" in failure
    assert len(failure.splitlines()) == 1


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_closed_output_ends_the_command_without_a_trace(ini, options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([COMMAND, "check", "--ini", ini, *options], text=True, **pipes)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 1
