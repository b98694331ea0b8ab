"""The command lines of the scripts: exit codes, output and installation."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from importlib.metadata import entry_points

import pytest
import requests

from tests.support.paths import SCRIPTS
from tests.support.scripts import (
    MIB,
    Scripts,
    failures,
    make_folder,
    make_large_file,
    names_in,
    without_modules,
)


def test_refusal_of_the_server_has_an_exit_code_of_its_own(scripts, source):
    scripts.upload(source, "-r")
    bob = scripts.but(auth="bob:secret")
    lines = bob.upload(source, "-r", code=3)
    assert failures(lines) == {None: "403 Forbidden: This user cannot access this resource."}
    lines = bob.upload(source, "-r", "--auth", "Bearer unknown", code=3)
    message = "401 Unauthorized: Please authenticate yourself to use this endpoint."
    assert failures(lines) == {None: message}


def test_permission_to_create_records_is_enough(scripts, source):
    scripts.upload(source / "file 1.bin")
    permissions = {"permissions": {"record:create": ["system.Authenticated"]}}
    requests.patch(scripts.collection, json=permissions, auth=scripts.auth)
    scripts.but(auth="bob:secret").upload(source / "file 2.bin")
    assert scripts.records().keys() == {"file 1.bin", "file 2.bin"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-s", ""], "--server is required"),
        (["-s", "ftp://host/v1"], "--server should be a URL"),
        (["-s", "http:host/v1"], "--server should be a URL"),
        (["-s", "http://[::1/v1"], "--server should be a URL"),
        (["-b", ""], "--bucket is required"),
        (["-c", ""], "--collection is required"),
        (["--jobs", "0"], "--jobs"),
        (["--retry", "-1"], "cannot be negative"),
        (["--ignore-batch-4xx"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_reported(upload_to, capsys, options, message):
    with pytest.raises(SystemExit) as exit:
        upload_to("a.txt", *options)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_closed_output_ends_the_script_silently(scripts, source):
    process = scripts.start("upload", source, "-r")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 1


def test_output_that_cannot_be_written_is_reported(scripts, source):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            scripts.command("upload", source, "-r"), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert {line.partition(":")[0] for line in done.stderr.splitlines()} <= {
        "the output cannot be written",
        "[Errno 28] No space left on device",
    }


def test_folder_without_recursive_is_wrong_usage(upload_to, capsys, source):
    with pytest.raises(SystemExit) as exit:
        upload_to(source)
    assert exit.value.code == 2
    assert "--recursive" in capsys.readouterr().err


def test_two_files_of_one_name_are_wrong_usage(upload_to, capsys, kinto, tmp_path):
    folders = [make_folder(tmp_path / name, 2) for name in ("a", "b")]
    with pytest.raises(SystemExit) as exit:
        upload_to(*folders, "-r")
    assert exit.value.code == 2
    assert "would both be the record of 'file 0.bin'" in capsys.readouterr().err
    assert kinto.seen == []


# Output


def test_lines_are_plain_without_a_terminal(scripts, source):
    done = scripts.run_plain("upload", "-r", "-j", 1, source)
    lines = [f"Uploaded {name}" for name in sorted(names_in(source))]
    assert done.stdout.splitlines() == [*lines, "5 uploaded"]
    assert scripts.run_plain("upload", "-r", source).stdout.splitlines() == ["5 unchanged"]
    verbose = scripts.run_plain("upload", "-v", "-r", "-j", 1, source).stdout
    assert verbose.splitlines()[0] == "Unchanged file 0.bin"


def test_quiet_prints_failures_only(scripts, source):
    done = scripts.run_plain("upload", "-q", "-r", source, source / "typo", code=1)
    assert (done.stdout, done.stderr) == ("", "typo: does not exist\n")


def test_control_characters_do_not_reach_the_terminal(scripts, tmp_path):
    (tmp_path / "\x1b[2J.txt").write_bytes(b"a")
    done = scripts.run_plain("upload", tmp_path / "\x1b[2J.txt")
    assert done.stdout.splitlines()[0] == "Uploaded \\x1b[2J.txt"


def test_names_are_printed_in_any_charset(scripts, tmp_path):
    (tmp_path / "☃.txt").write_bytes(b"a")
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = scripts.run_plain("upload", tmp_path / "☃.txt", env=env)
    assert done.stdout.splitlines()[0] == "Uploaded \\u2603.txt"


def on_terminal(scripts, *args, env=None):
    """Return the output of a script on a terminal."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    shown = []

    def show():
        try:
            while chunk := os.read(main, 1 << 16):
                shown.append(chunk)
        except OSError:  # The terminal was closed (Linux).
            pass

    reader = threading.Thread(target=show)
    reader.start()
    command = scripts.command(*args)
    subprocess.run(command, stdout=terminal, stderr=terminal, env=env, check=True)
    os.close(terminal)
    reader.join()
    os.close(main)
    return b"".join(shown).decode()


def test_terminal_has_a_bar(scripts, source):
    make_large_file(source / "large.bin", 4 * MIB)
    shown = on_terminal(scripts, "upload", "-r", source)
    assert "100%" in shown
    assert "4.00M/4.00M [" in shown
    assert "B/s]" in shown
    assert "Uploaded" not in shown
    assert "6 uploaded" in shown


def test_terminal_has_plain_lines_without_the_library(scripts, source, tmp_path):
    env = without_modules(tmp_path / "site", "tqdm")
    shown = on_terminal(scripts, "upload", "-r", source, env=env)
    assert "Uploaded file 0.bin" in shown


# Installation


@pytest.mark.external
@pytest.mark.parametrize("name", ["upload", "download"])
def test_script_runs_if_only_kinto_http_is_installed(tmp_path, name):
    env = without_modules(tmp_path, "kinto", "pyramid", "pyramid_storage", "tqdm", "multipart")
    done = Scripts("http://127.0.0.1:9/v1").run_plain(name, "--help", env=env)
    assert done.stdout.startswith(f"usage: {name}.py [-h] [-s SERVER]")


@pytest.mark.parametrize("name", ["upload", "download"])
def test_script_is_installed_as_a_command(name):
    [script] = entry_points(group="console_scripts", name=f"kinto-attachment-{name}")
    assert script.load().__module__ == f"kinto_attachment.scripts.{name}"
    assert os.access(SCRIPTS / f"kinto-attachment-{name}", os.X_OK)
