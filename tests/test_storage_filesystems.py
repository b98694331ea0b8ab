"""The local storage on file systems that lack something, and beside files of others."""

import errno
import fcntl
import logging
import os
import socket
import time

import pytest

from kinto_attachment.storage import StorageError, in_background
from kinto_attachment.storage.local import LocalStorage
from tests.test_storage import listing, store


HOUR = 3600
DAY = 24 * HOUR

ENOTSUPP = 524
"""The kernel's own (``linux/errno.h``), for which Python has no name."""

NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, ENOTSUPP]
NO_SYNC = [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, ENOTSUPP]
FAILURES = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS]


@pytest.fixture
def storage(tmp_path):
    storage = LocalStorage(str(tmp_path / "files"), "https://cdn.test/")
    storage.prepare()
    return storage


@pytest.fixture
def staging(storage):
    return os.path.join(storage.base_path, ".staging")


def raising(number):
    """Return a function that fails with this error, whatever it is asked to do."""

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def leave(path, content=b"half", age=HOUR):
    """Have a file there that was last written some time ago."""
    with open(path, "wb") as file:
        file.write(content)
    make_older(path, age)
    return path


def make_older(path, age=HOUR):
    os.utime(path, (time.time() - age,) * 2, follow_symlinks=False)


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def make_folder(path):
    os.mkdir(path)
    leave(os.path.join(path, "thumbnail.jpg"))


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
def test_server_starts_whatever_lies_among_the_staged_files(storage, staging, caplog, make):
    stranger = os.path.join(staging, "@eaDir")
    make(stranger)
    make_older(stranger)
    abandoned = leave(os.path.join(staging, "abandoned"))
    # In a thread: to open a pipe is to wait for somebody at its other end.
    in_background(storage.prepare).result(timeout=30)
    assert os.path.lexists(stranger)
    assert not os.path.exists(abandoned)
    (line,) = warnings(caplog)
    assert stranger in line
    assert list(storage.unfinished()) == []
    assert storage.exists(store(storage, "story.txt"))


def test_application_starts_with_the_folder_of_a_nas_among_the_staged_files(make_app, tmp_path):
    (tmp_path / "files" / ".staging" / "@eaDir").mkdir(parents=True)
    app = make_app()
    app.upload(status=201)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("step", ["opened", "locked", "removed"])
def test_server_starts_where_a_staged_file_cannot_be_cleared(
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


def test_server_starts_where_a_staged_file_vanishes(storage, staging, monkeypatch, caplog):
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


def test_server_starts_where_staged_files_cannot_be_listed(storage, monkeypatch, caplog):
    monkeypatch.setattr(os, "scandir", raising(errno.EACCES))
    storage.prepare()
    (line,) = warnings(caplog)
    assert ".staging" in line


@pytest.fixture(params=NO_LOCKS, ids=errno.errorcode.get)
def no_locks(request, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", raising(request.param))


def test_files_are_stored_without_locks(no_locks, storage, caplog):
    storage.prepare()
    names = [store(storage, "story.txt", bytes([number])) for number in range(3)]
    assert names == ["story.txt", "story-1.txt", "story-2.txt"]
    assert listing(storage) == sorted(names)


def test_missing_locks_are_told_once(no_locks, make_app, caplog):
    app = make_app()
    app.upload(status=201)
    app.upload(status=200)
    assert app.get("/__heartbeat__").json["attachments"] is True
    (line,) = [line for line in warnings(caplog) if "lock" in line]
    assert str(app.folder) in line


def test_staged_file_is_abandoned_after_a_day_without_locks(no_locks, storage, staging):
    leave(os.path.join(staging, "young"), age=DAY - HOUR)
    leave(os.path.join(staging, "old"), age=DAY + HOUR)
    storage.prepare()
    assert listing(storage) == [".staging/young"]


def test_locks_are_asked_for_with_descriptors_for_writing(storage, staging, monkeypatch):
    """NFSv4 answers ``EBADF`` to others (flock(2), "NFS details")."""
    flock = fcntl.flock

    def as_nfs(file, operation):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", as_nfs)
    alive = storage.stage("alive.txt", "text/plain")
    leave(os.path.join(staging, "abandoned"))
    for entry in os.scandir(staging):
        make_older(entry.path)
    storage.prepare()
    assert len(listing(storage)) == 1
    assert alive.publish() == "alive.txt"


def syncing(monkeypatch, number, of_folders):
    """Have ``fsync`` fail for all folders, or for all files."""
    fsync = os.fsync

    def failing(descriptor):
        is_folder = os.path.isdir(os.readlink(f"/proc/self/fd/{descriptor}"))
        if is_folder is of_folders:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)


HOW = {
    "unique": lambda storage, name: storage.stage(name, "text/plain", unique=True),
    "free": lambda storage, name: storage.stage(name, "text/plain"),
    "over": lambda storage, name: storage.replace(name, "text/plain"),
}


@pytest.fixture(params=HOW.values(), ids=HOW.keys())
def stage(request, storage):
    """Stage a file with some content, to be published in one way or the other."""

    def staged(name, content=b"content"):
        staged = request.param(storage, name)
        staged.write(content)
        return staged

    return staged


@pytest.mark.parametrize("number", [*NO_SYNC, errno.EBADF], ids=errno.errorcode.get)
def test_file_is_stored_where_folders_cannot_be_synced(storage, stage, monkeypatch, caplog, number):
    syncing(monkeypatch, number, of_folders=True)
    assert stage("new/story.txt").publish() == "new/story.txt"
    assert stage("newer/story.txt").publish() == "newer/story.txt"
    assert listing(storage) == ["new/story.txt", "newer/story.txt"]
    (line,) = warnings(caplog)
    assert "fsync of folders" in line


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR], ids=errno.errorcode.get)
def test_file_is_stored_where_folders_cannot_be_opened(storage, stage, monkeypatch, number):
    real = os.open

    def refusing(path, *args, **kwargs):
        return (raising(number) if os.path.isdir(path) else real)(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    assert stage("new/story.txt").publish() == "new/story.txt"


@pytest.mark.parametrize("number", NO_SYNC, ids=errno.errorcode.get)
def test_file_is_stored_where_files_cannot_be_synced(storage, stage, monkeypatch, caplog, number):
    syncing(monkeypatch, number, of_folders=False)
    assert stage("story.txt").publish() == "story.txt"
    (line,) = warnings(caplog)
    assert "fsync of files" in line


@pytest.mark.parametrize(
    ("number", "of_folders"),
    [(errno.EBADF, False), *((number, where) for number in FAILURES for where in (True, False))],
)
@pytest.mark.parametrize("unique", [True, False])
def test_file_that_could_not_be_synced_is_refused(storage, monkeypatch, number, of_folders, unique):
    syncing(monkeypatch, number, of_folders)
    staged = storage.stage("story.txt", "text/plain", unique=unique)
    staged.write(b"content")
    with pytest.raises(StorageError):
        staged.publish()
    staged.discard()
    assert listing(storage) == []
