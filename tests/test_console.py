"""What the command lines print: lines, JSON, summaries, progress bars and exit codes."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import termios
import threading

import pytest

from kinto_attachment.console import EXIT_FAILED, Console, OutputError, exit_code_of


def objects(capsys):
    captured = capsys.readouterr()
    assert captured.err == ""
    return [json.loads(line) for line in captured.out.splitlines()]


def test_people_get_lines_and_errors_on_the_standard_error(capsys):
    console = Console(as_json=False)
    console.report("copied", "a.txt: copied", name="a.txt")
    console.note("waiting", "Waiting for an hour")
    console.error("failure", "The server is gone")
    assert capsys.readouterr() == ("a.txt: copied\nWaiting for an hour\n", "The server is gone\n")


def test_quiet_consoles_print_errors_alone(capsys):
    console = Console(as_json=False, quiet=True)
    console.report("copied", "a.txt: copied")
    console.error("failure", "The server is gone")
    console.end("Compared 1 file")
    assert capsys.readouterr() == ("", "The server is gone\n")
    assert console.counts == {"copied": 1}


@pytest.mark.parametrize("quiet", [False, True])
def test_machines_get_objects_errors_included(capsys, quiet):
    console = Console(as_json=True, kind_key="action", quiet=quiet)
    console.report("copied", "a.txt: copied", name="a.txt", size=3)
    console.error("failure", "The server is gone", message="gone")
    console.end("Compared 1 file", files=1)
    assert objects(capsys) == [
        {"action": "copied", "name": "a.txt", "size": 3},
        {"action": "failure", "message": "gone"},
        {"action": "summary", "files": 1},
    ]


def test_what_was_reported_is_counted_and_what_was_noted_is_not(capsys):
    console = Console(as_json=False)
    for kind in ("copied", "failed", "copied"):
        console.report(kind, kind)
    console.note("waiting", "Waiting for an hour")
    console.error("failure", "The server is gone")
    assert console.counts == {"copied": 2, "failed": 1}
    console.end("Compared 3 files")
    assert capsys.readouterr().out.splitlines()[-1] == "Compared 3 files; 2 copied, 1 failed"


@pytest.mark.parametrize(
    ("line", "reported", "summary"),
    [
        ("", [], "Nothing to do"),
        ("Compared 0 files", [], "Compared 0 files"),
        ("", ["copied"], "1 copied"),
    ],
)
def test_a_summary_is_never_empty(capsys, line, reported, summary):
    console = Console(as_json=False)
    for kind in reported:
        console.report(kind, kind)
    console.end(line)
    assert capsys.readouterr().out.splitlines()[-1] == summary


def test_names_cannot_write_to_the_terminal(capsys):
    console = Console(as_json=False)
    console.note("copied", "a\x1b[31m\r\n\u202egpj.exe")
    console.error("failure", "b\x1b]0;title\x07")
    out, error = capsys.readouterr()
    assert out == "a\\x1b[31m\\r\\n\\u202egpj.exe\n"
    assert error == "b\\x1b]0;title\\x07\n"


def test_any_name_can_be_printed_in_any_encoding(print_to):
    written = io.BytesIO()
    print_to(io.TextIOWrapper(written, "ascii"))
    Console(as_json=False).note("copied", "Ἀ é \udcff")
    Console(as_json=True).note("copied", "", name="Ἀ")
    line, object_ = written.getvalue().decode().splitlines()
    assert line == "\\u1f08 \\xe9 \\udcff"
    assert json.loads(object_)["name"] == "Ἀ"


@pytest.fixture
def print_to(monkeypatch):
    """Make a file the standard output until the test ends."""
    return lambda file: monkeypatch.setattr("sys.stdout", file)


@pytest.fixture
def full():
    """A file on a full disk."""
    with open("/dev/full", "w") as file:
        yield file


@pytest.fixture
def closed():
    """A pipe of which the reader is gone, as in ``command | head -1``."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as file:
        yield file


def write_a_line():
    Console(as_json=False).note("copied", "a.txt: copied")
    return 0


@pytest.mark.parametrize(("output", "is_closed"), [("full", False), ("closed", True)])
def test_an_output_that_cannot_be_written_is_an_error_of_its_own(
    request, print_to, output, is_closed
):
    file = request.getfixturevalue(output)
    print_to(file)
    with pytest.raises(OutputError, match="the output cannot be written") as error:
        write_a_line()
    assert error.value.is_closed is is_closed
    discard(file)


def discard(file):
    """Let the rest of what could not be written be written to nowhere when the file is closed."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), file.fileno())


def test_a_command_on_a_full_disk_fails_with_the_reason(full, print_to, capfd):
    print_to(full)
    assert exit_code_of(write_a_line) == EXIT_FAILED
    assert capfd.readouterr().err == (
        "the output cannot be written: [Errno 28] No space left on device\n"
    )


def test_a_command_whose_reader_is_gone_fails_silently(closed, print_to, capfd):
    print_to(closed)
    assert exit_code_of(write_a_line) == EXIT_FAILED
    assert capfd.readouterr().err == ""


def test_the_exit_code_is_what_the_work_returns():
    assert exit_code_of(lambda: 3) == 3


class Terminal:
    """A terminal, and what it was sent.

    :ivar file: what is written to it.
    """

    def __init__(self):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self.file = os.fdopen(slave, "w")

    def shown(self):
        """Return all that was written since the last call."""
        print("END", end="", file=self.file, flush=True)
        shown = ""
        while not shown.endswith("END"):
            shown += os.read(self._master, 65536).decode()
        return shown.removesuffix("END")

    def close(self):
        self.file.close()
        os.close(self._master)


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_a_bar_counts_the_items_on_a_terminal(terminal, print_to):
    print_to(terminal.file)
    console = Console(as_json=False)
    assert list(console.track("records", iter("abc"))) == ["a", "b", "c"]
    shown = terminal.shown()
    assert "records: 0 records" in shown
    # It is drawn again after a tenth of a second.
    for _ in console.track("records", range(100_000)):
        shown += terminal.shown()
        if re.search(r"records: [1-9]\d* records", shown):
            break
    else:
        pytest.fail("the bar did not move")


@pytest.mark.parametrize("options", [{"as_json": True}, {"as_json": False, "quiet": True}])
def test_there_is_no_bar_for_machines_and_quiet_people(terminal, print_to, options):
    print_to(terminal.file)
    assert list(Console(**options).track("records", "abc")) == ["a", "b", "c"]
    assert terminal.shown() == ""


def test_there_is_no_bar_without_a_terminal(capsys):
    console = Console(as_json=False)
    console.begin("a.txt", 3, keep=True)
    console.expect(3)
    console.advance(6)
    console.finish()
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_moved_by_any_thread_in_both_directions(terminal, print_to):
    print_to(terminal.file)
    console = Console(as_json=False)
    console.begin("upload", 1000, keep=True)
    console.expect(1000)
    threads = [threading.Thread(target=advance, args=(console, 500, 1)) for _ in range(5)]
    threads.append(threading.Thread(target=advance, args=(console, 500, -1)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    console.finish()
    last = terminal.shown().split("\r")[-2]
    assert re.match(r"upload: 100%\|.*\| 1\.95k/1\.95k ", last), last


def advance(console, times, count):
    for _ in range(times):
        console.advance(count)


def test_a_line_does_not_tear_the_bar(terminal, print_to):
    print_to(terminal.file)
    console = Console(as_json=False)
    console.begin("upload", 10)
    console.note("copied", "a.txt: copied")
    console.finish()
    # Blanks remove the bar before the line, and it is drawn again below.
    assert re.search(r"\r +\ra\.txt: copied\r\n\r?upload: ", terminal.shown())


def test_a_finished_bar_is_removed_unless_it_is_kept(terminal, print_to):
    print_to(terminal.file)
    console = Console(as_json=False)
    console.begin("upload", 10)
    console.begin("copy", 10)
    console.end("Copied nothing")
    console.finish()
    shown = terminal.shown()
    assert re.search(r"\r +\rCopied nothing\r\n\Z", shown.replace("\x1b[A", ""))
    assert "upload: " in shown
    assert "copy: " in shown
