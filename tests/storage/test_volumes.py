"""Folders of the storage on another volume."""

import errno
import multiprocessing
import os
import shutil

import pytest

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.local import LocalStorage
from tests.support.forms import file_part
from tests.support.local import listing, make_older, raising, store


FAILURES = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS]


def another_volume(folder, patch):
    """Make a folder look like another volume: no rename or link leads from or to it."""

    def checked(function):
        def moving(source, target):
            # As Linux, which finds the folders before it compares their volumes.
            os.stat(os.path.dirname(target))
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


def test_half_a_copy_is_invisible(storage, stage, blog, monkeypatch):
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


@pytest.mark.external
@pytest.mark.parametrize(
    ("step", "left"), [("half copied", []), ("copied", []), ("moved", ["blog/story.txt"])]
)
def test_copy_of_a_killed_worker_is_deleted_at_the_next_start(storage, blog, step, left):
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
