"""Staged files: other files among them, and those of workers that ended."""

import errno
import fcntl
import multiprocessing
import os
import socket

import pytest

from kinto_attachment.background import in_background
from kinto_attachment.storage.local import LocalStorage
from tests.support.local import leave, listing, make_folder, make_older, raising, store, warnings


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listening:
        # A relative path, since those of sockets must be short.
        here = os.getcwd()
        os.chdir(os.path.dirname(path))
        try:
            listening.bind(os.path.basename(path))
        finally:
            os.chdir(here)


def make_link(path):
    target = leave(os.path.join(os.path.dirname(path), "..", "..", "secret.txt"))
    os.symlink(target, path)


def make_dangling_link(path):
    os.symlink("nowhere", path)


STRANGERS = {
    "a folder": make_folder,
    "a pipe": os.mkfifo,
    "a socket": make_socket,
    "a link": make_link,
    "a link to nothing": make_dangling_link,
    "a link to a folder": lambda path: os.symlink("/", path),
}


@pytest.mark.parametrize("make", STRANGERS.values(), ids=STRANGERS.keys())
def test_server_starts_with_foreign_entries_among_the_staged_files(storage, staging, caplog, make):
    stranger = os.path.join(staging, "@eaDir")
    make(stranger)
    make_older(stranger)
    abandoned = leave(os.path.join(staging, "abandoned"))
    # In a thread: opening a pipe waits for a process at its other end.
    in_background(storage.prepare).result(timeout=30)
    assert os.path.lexists(stranger)
    assert not os.path.exists(abandoned)
    (line,) = warnings(caplog)
    assert stranger in line
    assert list(storage.incomplete_uploads()) == []
    assert storage.exists(store(storage, "story.txt"))


def test_application_starts_with_the_folder_of_a_nas_among_the_staged_files(make_app, tmp_path):
    (tmp_path / "files" / ".staging" / "@eaDir").mkdir(parents=True)
    app = make_app()
    app.upload(status=201)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("step", ["opened", "locked", "removed"])
def test_server_starts_if_a_staged_file_cannot_be_deleted(
    storage, staging, monkeypatch, caplog, step, number
):
    theirs = leave(os.path.join(staging, "theirs"))
    abandoned = leave(os.path.join(staging, "abandoned"))
    module, name = {"opened": (os, "open"), "locked": (fcntl, "flock"), "removed": (os, "remove")}[
        step
    ]
    real = getattr(module, name)

    def failing(file, *args, **kwargs):
        path = os.readlink(f"/proc/self/fd/{file.fileno()}") if step == "locked" else file
        return (raising(number) if os.fspath(path) == theirs else real)(file, *args, **kwargs)

    monkeypatch.setattr(module, name, failing)
    storage.prepare()
    assert os.path.exists(theirs)
    assert not os.path.exists(abandoned)
    (line,) = warnings(caplog)
    assert theirs in line
    assert os.strerror(number) in line


def test_server_starts_if_a_staged_file_vanishes(storage, staging, monkeypatch, caplog):
    gone = leave(os.path.join(staging, "gone"))
    flock = fcntl.flock

    def vanishing(file, operation):
        flock(file, operation)
        if os.path.exists(gone):
            os.unlink(gone)

    monkeypatch.setattr(fcntl, "flock", vanishing)
    storage.prepare()
    assert warnings(caplog) == []
    assert listing(storage) == []


def test_server_starts_if_staged_files_cannot_be_listed(storage, monkeypatch, caplog):
    monkeypatch.setattr(os, "scandir", raising(errno.EACCES))
    storage.prepare()
    (line,) = warnings(caplog)
    assert ".staging" in line


@pytest.mark.parametrize("content", [b"", b"\0" * 4, b"nowhere", b"../../outside"])
def test_server_starts_with_a_note_that_the_power_cut_has_spoiled(storage, staging, content):
    name = "0123456789abcdef" * 2
    leave(os.path.join(staging, name))
    leave(os.path.join(staging, f"{name}.copy"), content)
    storage.prepare()
    assert not os.path.exists(os.path.join(staging, name))
    assert store(storage, "story.txt") == "story.txt"


def stage_and_die(base_path):
    LocalStorage(base_path).stage("story.txt", "text/plain").write(b"x" * 100_000)
    os._exit(9)


def test_staged_file_of_a_killed_worker_is_deleted_at_the_next_start(storage, staging):
    worker = multiprocessing.get_context("spawn").Process(
        target=stage_and_die, args=(storage.base_path,)
    )
    worker.start()
    worker.join()
    alive = storage.stage("alive.txt", "text/plain")
    assert len(listing(storage)) == 2
    storage.prepare()
    assert len(listing(storage)) == 2, "what is young is left alone"
    for entry in os.scandir(staging):
        make_older(entry.path)
    storage.prepare()
    assert len(listing(storage)) == 1
    assert alive.publish() == "alive.txt"
