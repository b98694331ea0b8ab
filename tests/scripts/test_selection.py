"""The selection of the local files that the upload script sends."""

import io
import os
import socket

import pytest

from kinto_attachment.scripts import compression, content
from kinto_attachment.scripts.content import Content
from kinto_attachment.scripts.errors import Failure
from tests.support.scripts import (
    Scripts,
    actions,
    failures,
    make_folder,
    sha256_of,
)


JUNK = {
    ".DS_Store",
    "._photo.jpg",
    "Thumbs.db",
    "thumbs.db",
    "Desktop.ini",
    "desktop.ini",
    ".#notes.txt",
    "~$doc.docx",
    ".~lock.doc.odt#",
    ".notes.txt.swp",
    ".notes.txt.swo",
    "notes.txt~",
    ".nfs000000000001",
    ".fuse_hidden0001",
}
CONTENT = {"x.swp", "DS_Store", "#notes.txt", "desktop.ini.txt", "swp", ".x.swx"}


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "source", 2)


FILES = {"file 0.bin", "file 1.bin"}


def skipped(lines):
    """Return the names of what was skipped, and the messages about it."""
    lines = [line for line in lines if line["action"] == "skipped"]
    return {name for line in lines for name in line["names"]}, [line["message"] for line in lines]


def uploaded(lines):
    return actions(lines)["uploaded"]


def test_junk_of_programs_is_skipped_with_one_line(scripts, folder):
    for name in JUNK | CONTENT:
        (folder / name).write_bytes(b"x")
    # As Emacs leaves it: a link to nothing.
    (folder / ".#locked").symlink_to("user@host.1234:5678")
    (folder / "sub" / ".Trashes").mkdir(parents=True)
    (folder / "sub" / ".Trashes" / "thrown away").write_bytes(b"x")
    (folder / "sub" / ".DS_Store").write_bytes(b"x")
    lines = scripts.upload(folder, "-r", "--delete")
    assert uploaded(lines) == FILES | CONTENT
    names, [message] = skipped(lines)
    assert names == JUNK | {".#locked", "sub/.Trashes", "sub/.DS_Store"}
    first = ", ".join(sorted(JUNK | {".#locked"})[:3])
    assert message == f"{first} and 14 more: skipped, as junk of other programs or excluded"


def test_junk_does_not_prevent_deletions(serve, folder):
    scripts = Scripts(serve(attachment__extensions="bin").url)
    scripts.upload(folder, "-r")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "file 1.bin").unlink()
    assert actions(scripts.upload(folder, "-r", "--delete"))["deleted"] == {"file 1.bin"}


def test_junk_that_is_named_is_sent_and_its_record_kept(scripts, folder):
    (folder / "notes.txt~").write_bytes(b"x")
    assert actions(scripts.upload(folder / "notes.txt~")) == {"uploaded": {"notes.txt~"}}
    scripts.upload(folder, "-r", "--delete")
    assert scripts.records().keys() == FILES | {"notes.txt~"}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*.tmp"], {"a.tmp", "sub/b.tmp", "sub/deep/c.tmp"}),
        (["sub"], {"sub"}),
        (["sub/"], {"sub"}),
        (["/sub"], {"sub"}),
        (["deep"], {"sub/deep"}),
        (["/deep"], set()),
        (["sub/*.tmp"], {"sub/b.tmp", "sub/deep/c.tmp"}),
        (["sub/deep/c.tmp"], {"sub/deep/c.tmp"}),
        (["[ab].tmp", "c.*"], {"a.tmp", "sub/b.tmp", "sub/deep/c.tmp"}),
        (["?.TMP"], set()),
    ],
)
def test_excluded_files_are_skipped_and_their_records_kept(scripts, folder, patterns, expected):
    names = {"a.tmp", "sub/b.tmp", "sub/deep/c.tmp", "sub/kept.txt"}
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    scripts.upload(folder, "-r")
    # An excluded file may still exist.
    (folder / "file 1.bin").unlink()
    options = [option for pattern in patterns for option in ("--exclude", pattern)]
    lines = scripts.upload(folder, "-r", "--delete", "--force", *options)
    assert skipped(lines)[0] == expected
    gone = {name for name in names if any(f"{name}/".startswith(f"{e}/") for e in expected)}
    assert uploaded(lines) == names - gone | {"file 0.bin"}
    assert actions(lines)["deleted"] == {"file 1.bin"}
    assert scripts.records().keys() == names | {"file 0.bin"}


def test_files_that_are_named_can_be_excluded(scripts, folder):
    lines = scripts.upload(*folder.iterdir(), "--exclude", "*1.bin")
    assert uploaded(lines) == {"file 0.bin"}
    assert skipped(lines)[0] == {"file 1.bin"}


@pytest.mark.parametrize("pattern", ["", "/"])
def test_empty_pattern_is_wrong_usage(scripts, folder, pattern):
    done = scripts.run_plain("upload", folder, "-r", "--exclude", pattern, code=2)
    assert "--exclude" in done.stderr


def test_quiet_does_not_print_skipped_files(scripts, folder):
    (folder / ".DS_Store").write_bytes(b"x")
    line = ".DS_Store: skipped, as junk of other programs or excluded"
    done = scripts.run_plain("upload", folder, "-r")
    assert (line in done.stdout.splitlines(), done.stderr) == (True, "")
    done = scripts.run_plain("upload", folder, "-r", "-q")
    assert (done.stdout, done.stderr) == ("", "")


def test_sockets_pipes_and_devices_in_folders_are_skipped(scripts, folder, monkeypatch):
    os.mkfifo(folder / "pipe")
    (folder / "link to a pipe").symlink_to("pipe")
    (folder / "link to a device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        # Its path may be no longer than 108 bytes.
        monkeypatch.chdir(folder)
        listener.bind("socket")
    scripts.upload(folder / "file 0.bin", folder / "file 1.bin")
    (folder / "file 1.bin").unlink()
    lines = scripts.upload(folder, "-r", "--delete")
    assert actions(lines)["deleted"] == {"file 1.bin"}
    names = {"pipe", "socket", "link to a pipe", "link to a device"}
    first = ", ".join(sorted(names)[:3])
    message = f"{first} and 1 more: skipped, as neither files nor folders"
    assert skipped(lines) == (names, [message])


def test_pipe_or_device_that_is_named_fails(scripts, folder):
    os.mkfifo(folder / "pipe")
    (folder / "to a pipe").symlink_to("pipe")
    lines = scripts.upload(folder / "to a pipe", "/dev/zero", code=1)
    assert failures(lines) == {"to a pipe": "is not a file", "zero": "is not a file"}


def test_link_to_nothing_still_fails(scripts, folder):
    (folder / "link").symlink_to("nothing")
    assert failures(scripts.upload(folder, "-r", code=1)) == {"link": "does not exist"}


def test_pipe_that_replaces_a_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    expected = Content("pipe", "0" * 64, 0)
    for read in (content.open_regular, lambda path: content.has_content(path, expected)):
        with pytest.raises(Failure, match="is not a file"):
            read(tmp_path / "pipe")


class Endless(io.BytesIO):
    """A file that is longer than the 100 bytes of its size."""

    def seek(self, offset, whence=os.SEEK_SET):
        return 100 if whence == os.SEEK_END else super().seek(offset, whence)

    def read(self, size=-1):
        self.taken = getattr(self, "taken", 0) + size
        assert self.taken < 1 << 24
        return b"x" * size


def test_compression_ends_at_the_size_of_the_file():
    with pytest.raises(Failure, match="was changed while it was sent"):
        compression.compress(Endless(), io.BytesIO(), "a.txt", lambda: None)


def test_comparison_ends_at_the_size_of_the_content():
    assert len(content.sha256(Endless(), 100)) == 64


def test_file_that_is_longer_than_the_content_differs(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"a")
    expected = Content("a", sha256_of(tmp_path / "a"), 1)
    assert content.has_content(tmp_path / "a", expected)
    # It grows after its size was asked for.
    (tmp_path / "a").write_bytes(b"ab")
    status = os.stat_result((0o100644, 0, 0, 1, 0, 0, 1, 0, 0, 0))
    monkeypatch.setattr(content.os, "fstat", lambda descriptor: status)
    assert not content.has_content(tmp_path / "a", expected)
