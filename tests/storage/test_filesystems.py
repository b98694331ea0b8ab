"""File systems without locks, without fsync, and with folders of their own."""

import errno
import fcntl
import os

import pytest

from kinto_attachment.storage.contract import StorageError
from tests.support.local import (
    HOUR,
    leave,
    listing,
    make_folder,
    make_older,
    raising,
    store,
    warnings,
)


DAY = 24 * HOUR

ENOTSUPP = 524
"""The kernel's own (``linux/errno.h``), for which Python has no name."""

NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, ENOTSUPP]

NO_SYNC = [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, ENOTSUPP]

FAILURES = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS]


def test_folders_of_the_file_system_are_not_listed(storage, monkeypatch, caplog):
    names = {store(storage, name) for name in ("a.txt", "f/b.txt")}
    make_folder(os.path.join(storage.base_path, "lost+found"))
    refuse_to_list(monkeypatch, "lost+found", errno.EACCES)
    assert {file.key for file in storage.files()} == names
    (line,) = warnings(caplog)
    assert "lost+found" in line


@pytest.mark.parametrize(
    ("folder", "number"), [("blog", errno.EACCES), ("lost+found", errno.EIO)], ids=["ours", "EIO"]
)
def test_list_that_may_lack_stored_files_is_an_error(make_app, monkeypatch, folder, number):
    app = make_app(attachment__folder="{bucket_id}")
    app.upload()
    (app.folder / folder).mkdir(exist_ok=True)
    refuse_to_list(monkeypatch, folder, number)
    with pytest.raises(StorageError):
        list(app.registry.attachments.files.files())


def refuse_to_list(monkeypatch, name, number):
    scandir = os.scandir

    def refusing(path):
        if os.path.basename(str(path).rstrip("/")) == name:
            raise OSError(number, os.strerror(number), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


@pytest.fixture(params=NO_LOCKS, ids=errno.errorcode.get)
def no_locks(request, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", raising(request.param))


def test_files_are_stored_without_locks(no_locks, storage, caplog):
    storage.prepare()
    names = [store(storage, "story.txt", bytes([number])) for number in range(3)]
    assert names == ["story.txt", "story-1.txt", "story-2.txt"]
    assert listing(storage) == sorted(names)


def test_missing_locks_are_logged_once(no_locks, make_app, caplog):
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


def test_locks_use_descriptors_for_writing(storage, staging, monkeypatch):
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


@pytest.mark.parametrize("number", [*NO_SYNC, errno.EBADF], ids=errno.errorcode.get)
def test_file_is_stored_if_folders_cannot_be_synced(storage, stage, monkeypatch, caplog, number):
    syncing(monkeypatch, number, of_folders=True)
    assert stage("new/story.txt").publish() == "new/story.txt"
    assert stage("newer/story.txt").publish() == "newer/story.txt"
    assert listing(storage) == ["new/story.txt", "newer/story.txt"]
    (line,) = warnings(caplog)
    assert "fsync of folders" in line


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR], ids=errno.errorcode.get)
def test_file_is_stored_if_folders_cannot_be_opened(storage, stage, monkeypatch, number):
    real = os.open

    def refusing(path, *args, **kwargs):
        return (raising(number) if os.path.isdir(path) else real)(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    assert stage("new/story.txt").publish() == "new/story.txt"


@pytest.mark.parametrize("number", NO_SYNC, ids=errno.errorcode.get)
def test_file_is_stored_if_files_cannot_be_synced(storage, stage, monkeypatch, caplog, number):
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
