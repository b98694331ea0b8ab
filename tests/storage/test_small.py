"""Small files in a local folder: in memory, and then complete under their key."""

import errno
import os
import subprocess
import sys

import pytest

from kinto_attachment.storage import filesystem
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.small import MAX_SMALL_BYTES
from tests.support.local import listing, raising, store


def small(storage, name="story.txt", content=b"content"):
    staged = storage.stage(name, "text/plain", unique=True)
    staged.write(content)
    return staged


def test_a_small_file_is_not_on_the_disk_before_it_is_published(storage):
    staged = small(storage, content=b"a" * MAX_SMALL_BYTES)
    assert listing(storage) == []
    assert staged.publish() == "story.txt"
    assert listing(storage) == ["story.txt"]
    assert storage.open("story.txt").read() == b"a" * MAX_SMALL_BYTES


def test_a_small_file_is_kept_when_it_is_discarded_after_its_publication(storage):
    staged = small(storage)
    staged.publish()
    staged.discard()
    assert listing(storage) == ["story.txt"]


def test_a_file_that_grows_is_staged(storage):
    staged = small(storage, content=b"a" * MAX_SMALL_BYTES)
    staged.write(b"b")
    (one,) = listing(storage)
    assert one.startswith(".staging/")
    staged.write(b"c")
    assert staged.publish() == "story.txt"
    assert storage.open("story.txt").read() == b"a" * MAX_SMALL_BYTES + b"bc"
    assert listing(storage) == ["story.txt"]


def test_a_file_that_has_grown_is_discarded_from_the_disk(storage):
    staged = small(storage, content=b"a" * (MAX_SMALL_BYTES + 1))
    staged.discard()
    assert listing(storage) == []


def test_an_empty_file_is_stored(storage):
    assert storage.stage("empty.txt", "text/plain", unique=True).publish() == "empty.txt"
    assert storage.open("empty.txt").read() == b""


def test_its_mode_is_that_of_a_staged_one(storage):
    old = os.umask(0o027)
    try:
        small(storage).publish()
        store(storage, "other.txt")
    finally:
        os.umask(old)
    modes = {os.stat(storage.path(name)).st_mode for name in listing(storage)}
    assert modes == {0o100640}


@pytest.mark.parametrize("name", ["new/story.txt", "new/and/newer/story.txt"])
def test_its_folder_is_made(storage, name):
    assert small(storage, name).publish() == name
    assert listing(storage) == [name]


def no_proc(source, target, **kwargs):
    raise FileNotFoundError(source)


NOT_POSSIBLE = {
    "another system": (filesystem, "NAMELESS", 0),
    "no /proc": (os, "link", no_proc),
    "a network": (os, "link", raising(errno.EOPNOTSUPP)),
}


@pytest.mark.parametrize("lacking", NOT_POSSIBLE.values(), ids=NOT_POSSIBLE)
def test_it_is_staged_where_a_file_needs_a_name(storage, monkeypatch, lacking):
    monkeypatch.setattr(*lacking)
    assert small(storage).publish() == "story.txt"
    assert storage.open("story.txt").read() == b"content"
    assert listing(storage) == ["story.txt"]


def test_content_and_name_are_synced_before_publish_returns(storage, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file)))
    small(storage, content=b"content").publish()
    content, folder = synced
    assert (content.st_size, content.st_nlink) == (len(b"content"), 0)
    assert os.path.samestat(folder, os.stat(storage.base_path))


def test_a_file_whose_closing_fails_is_not_left(storage, monkeypatch):
    class Failing:
        """A file on a disk that reports late that it is full."""

        def __init__(self, file):
            self.write, self.flush, self.fileno = file.write, file.flush, file.fileno
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self._file.close()

        def close(self):
            assert listing(storage) == ["story.txt"]
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        filesystem, "open", lambda file, mode: Failing(os.fdopen(file, mode)), raising=False
    )
    with pytest.raises(OSError, match="No space left"):
        filesystem.FileSystem(storage.base_path).create(storage.path("story.txt"), b"content")
    assert listing(storage) == []


@pytest.mark.parametrize("operation", ["fsync", "open"])
def test_nothing_is_left_if_the_disk_fails(storage, monkeypatch, operation):
    staged = small(storage)
    monkeypatch.setattr(os, operation, raising(errno.EIO))
    if operation == "open":
        monkeypatch.setattr("builtins.open", raising(errno.EIO))
    with pytest.raises(StorageError, match="Input/output error"):
        staged.publish()
    monkeypatch.undo()
    staged.discard()
    assert listing(storage) == []


@pytest.mark.external
@pytest.mark.parametrize("operation", ["fsync", "link"])
def test_a_killed_worker_leaves_nothing_of_it(storage, operation):
    code = f"""
import os
from kinto_attachment.storage.local import LocalStorage
staged = LocalStorage({storage.base_path!r}).stage("story.txt", "text/plain", unique=True)
staged.write(b"content")
os.{operation} = lambda *args, **kwargs: os.kill(os.getpid(), 9)
staged.publish()
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert listing(storage) == []
