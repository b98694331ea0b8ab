"""The local storage on file systems that lack something, and beside files of others."""

import errno
import fcntl
import logging
import multiprocessing
import os
import shutil
import socket
import time

import pytest

from kinto_attachment.background import in_background
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.local import LocalStorage
from tests.storage.test_storage import listing, store
from tests.support.forms import file_part


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
    assert list(storage.incomplete_uploads()) == []
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


def test_what_a_file_system_keeps_for_itself_is_not_listed(storage, monkeypatch, caplog):
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
        list(app.registry.attachment_storage.files())


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


def another_volume(folder, patch):
    """Have a folder be on another volume: no name leads from the one to the other."""

    def checked(function):
        def moving(source, target):
            if (os.path.dirname(source) == folder) != (os.path.dirname(target) == folder):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            function(source, target)

        return moving

    for name in ("link", "rename", "replace"):
        patch(os, name, checked(getattr(os, name)))


@pytest.fixture
def blog(storage, monkeypatch):
    """A folder that is another volume."""
    folder = os.path.join(storage.base_path, "blog")
    os.mkdir(folder)
    another_volume(folder, monkeypatch.setattr)
    return folder


@pytest.fixture(params=[True, False], ids=["hard links", "no hard links"])
def hard_links(request, blog, monkeypatch):
    link = os.link

    def refusing(source, target):
        if os.path.dirname(source) == blog:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        link(source, target)

    if not request.param:
        monkeypatch.setattr(os, "link", refusing)


def test_file_is_stored_on_another_volume(storage, hard_links, stage):
    content = os.urandom(3_000_000)
    assert stage("blog/story.txt", content).publish() == "blog/story.txt"
    assert storage.open("blog/story.txt").read() == content
    assert listing(storage) == ["blog/story.txt"]


def test_equal_names_on_another_volume_do_not_overwrite_one_another(storage, hard_links):
    names = [store(storage, "blog/story.txt", bytes([number])) for number in range(3)]
    assert names == ["blog/story.txt", "blog/story-1.txt", "blog/story-2.txt"]
    assert [storage.open(name).read() for name in names] == [b"\0", b"\1", b"\2"]
    assert listing(storage) == sorted(names)


def test_attachment_is_stored_on_another_volume(make_app, tmp_path, monkeypatch):
    app = make_app(attachment__folder="{bucket_id}")
    another_volume(str(app.folder / "blog"), monkeypatch.setattr)
    attachment = app.upload(file_part(b"once upon a time")).json
    assert app.stored(attachment) == b"once upon a time"
    assert list(app.files()) == [attachment["location"]]


def test_copy_on_another_volume_is_synced_before_it_has_its_name(storage, stage, blog, monkeypatch):
    synced = []
    fsync = os.fsync

    def recording(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((path, os.path.exists(os.path.join(blog, "story.txt"))))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    stage("blog/story.txt").publish()
    (hidden,) = [entry for entry in synced if entry[0].startswith(f"{blog}/")]
    assert hidden[1] is False
    assert synced[-1] == (blog, True)


def test_nobody_sees_half_a_copy(storage, stage, blog, monkeypatch):
    seen = []

    def watched(source, target, size):
        target.write(source.read(1_000_000))
        target.flush()
        seen.extend(file.key for file in storage.files())
        seen.append(storage.exists("blog/story.txt"))
        ((hidden, half),) = (
            (f, f.size) for f in storage.incomplete_uploads() if "/blog" in f"/{f.key}"
        )
        assert half == 1_000_000
        assert not storage.exists(hidden.key)
        shutil_copy(source, target, size)

    shutil_copy = shutil.copyfileobj
    monkeypatch.setattr(shutil, "copyfileobj", watched)
    content = os.urandom(3_000_000)
    stage("blog/story.txt", content).publish()
    assert seen == [False]
    assert storage.open("blog/story.txt").read() == content


@pytest.mark.parametrize("number", FAILURES, ids=errno.errorcode.get)
def test_copy_that_fails_leaves_nothing(storage, stage, blog, monkeypatch, number):
    monkeypatch.setattr(shutil, "copyfileobj", raising(number))
    staged = stage("blog/story.txt")
    with pytest.raises(StorageError, match=os.strerror(number)):
        staged.publish()
    staged.discard()
    assert listing(storage) == []


def test_previous_file_survives_a_copy_that_fails(storage, blog, monkeypatch):
    store(storage, "blog/story.txt", b"previous")
    monkeypatch.setattr(shutil, "copyfileobj", raising(errno.ENOSPC))
    staged = storage.replace("blog/story.txt", "text/plain")
    with pytest.raises(StorageError):
        staged.publish()
    staged.discard()
    assert storage.open("blog/story.txt").read() == b"previous"
    assert listing(storage) == ["blog/story.txt"]


def copy_and_die(base_path, step):
    """Publish a file on another volume, in a process that does not survive a step of that."""
    another_volume(os.path.join(base_path, "blog"), setattr)

    def dying(function):
        def die(*args):
            if step == "half copied":
                args[1].write(args[0].read(1000))
                args[1].flush()
            else:
                function(*args)
            os._exit(9)

        return die

    if step == "moved":
        link = os.link

        def link_and_die(source, target):
            link(source, target)
            os._exit(9)

        os.link = link_and_die
    else:
        shutil.copyfileobj = dying(shutil.copyfileobj)
    store(LocalStorage(base_path), "blog/story.txt", b"x" * 100_000)


@pytest.mark.parametrize(
    ("step", "left"), [("half copied", []), ("copied", []), ("moved", ["blog/story.txt"])]
)
def test_copy_of_a_killed_worker_goes_at_the_next_start(storage, blog, step, left):
    worker = multiprocessing.get_context("spawn").Process(
        target=copy_and_die, args=(storage.base_path, step)
    )
    worker.start()
    worker.join()
    assert worker.exitcode == 9
    assert len(list(storage.incomplete_uploads())) == 2
    storage.prepare()
    assert len(list(storage.incomplete_uploads())) == 2, "what is young is left alone"
    for folder in (blog, os.path.join(storage.base_path, ".staging")):
        for entry in os.scandir(folder):
            make_older(entry.path)
    storage.prepare()
    assert list(storage.incomplete_uploads()) == []
    assert listing(storage) == left


def test_copy_of_a_living_worker_stays(storage, stage, blog, monkeypatch):
    def restarted(source, target, size):
        for entry in os.scandir(os.path.join(storage.base_path, ".staging")):
            make_older(entry.path)
        LocalStorage(storage.base_path).prepare()
        shutil_copy(source, target, size)

    shutil_copy = shutil.copyfileobj
    monkeypatch.setattr(shutil, "copyfileobj", restarted)
    assert stage("blog/story.txt").publish() == "blog/story.txt"
    assert listing(storage) == ["blog/story.txt"]


@pytest.mark.parametrize("content", [b"", b"\0" * 4, b"nowhere", b"../../outside"])
def test_server_starts_with_a_note_that_the_power_cut_has_spoiled(storage, staging, content):
    name = "0123456789abcdef" * 2
    leave(os.path.join(staging, name))
    leave(os.path.join(staging, f"{name}.copy"), content)
    storage.prepare()
    assert not os.path.exists(os.path.join(staging, name))
    assert store(storage, "story.txt") == "story.txt"
