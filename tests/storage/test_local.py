"""Files in a local folder."""

import errno
import fcntl
import multiprocessing
import os

import pytest

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.local import LocalStorage
from tests.support.local import listing, store


def test_a_published_file_is_there_under_its_name(storage):
    name = store(storage, "a/b/story.txt")
    assert name == "a/b/story.txt"
    assert storage.exists(name)
    assert storage.open(name).read() == b"content"
    assert storage.url(name) == "https://cdn.test/a/b/story.txt"
    assert listing(storage) == [name]


def test_a_staged_file_cannot_be_seen(storage):
    staged = storage.stage("story.txt", "text/plain")
    staged.write(b"content")
    (hidden,) = listing(storage)
    assert hidden.startswith(".staging/")
    assert not storage.exists("story.txt")
    assert not storage.exists(hidden)
    with pytest.raises(FileNotFoundError):
        storage.open(hidden)
    staged.discard()


def test_a_discarded_file_leaves_nothing(storage):
    staged = storage.stage("story.txt", "text/plain")
    staged.write(b"content")
    staged.discard()
    staged.discard()
    assert listing(storage) == []


def test_discarding_a_published_file_does_nothing(storage):
    staged = storage.stage("story.txt", "text/plain")
    name = staged.publish()
    staged.discard()
    assert listing(storage) == [name]


def test_a_taken_name_gets_a_number(storage):
    names = [store(storage, "a/story.txt", bytes([i])) for i in range(3)]
    assert names == ["a/story.txt", "a/story-1.txt", "a/story-2.txt"]
    assert [storage.open(name).read() for name in names] == [b"\0", b"\1", b"\2"]


def store_many(base_path, number):
    storage = LocalStorage(base_path, fsync=False)
    for i in range(50):
        store(storage, "story.txt", f"{number}/{i}".encode())


@pytest.mark.external
def test_a_name_is_never_taken_twice_by_many_processes(storage):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=store_many, args=(storage.base_path, i)) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    contents = {storage.open(name).read() for name in listing(storage)}
    assert contents == {f"{n}/{i}".encode() for n in range(4) for i in range(50)}
    assert set(listing(storage)) == {"story.txt", *(f"story-{i}.txt" for i in range(1, 200))}


def test_files_are_stored_without_hard_links(storage, monkeypatch):
    def no_link(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    names = [store(storage, "story.txt", bytes([i])) for i in range(2)]
    assert names == ["story.txt", "story-1.txt"]
    assert [storage.open(name).read() for name in names] == [b"\0", b"\1"]
    assert listing(storage) == sorted(names)


@pytest.mark.parametrize("unique", [False, True])
def test_file_and_folders_are_synced_before_publish_returns(storage, monkeypatch, unique):
    synced = []
    fsync = os.fsync

    def recording(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    store(storage, "new/story.txt", unique=unique)
    base = storage.base_path
    assert synced[0].startswith(f"{base}/.staging/")
    assert set(synced[1:]) == {base, f"{base}/new"}
    assert synced[-1] == f"{base}/new"


def test_nothing_is_synced_if_fsync_is_off(storage, monkeypatch):
    monkeypatch.setattr(os, "fsync", None)
    fast = LocalStorage(storage.base_path, fsync=False)
    assert fast.exists(store(fast, "new/story.txt"))


@pytest.mark.parametrize("unique", [False, True])
def test_a_name_that_cannot_be_synced_is_not_left(storage, monkeypatch, unique):
    fsync = os.fsync

    def broken_for_folders(descriptor):
        if os.path.isdir(os.readlink(f"/proc/self/fd/{descriptor}")):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", broken_for_folders)
    staged = storage.stage("story.txt", "text/plain", unique=unique)
    with pytest.raises(StorageError):
        staged.publish()
    staged.discard()
    assert listing(storage) == []


def test_a_file_whose_closing_fails_is_not_left(storage, stage):
    staged = stage("story.txt")
    staged = getattr(staged, "_staged", staged)
    file = staged._file

    class Failing:
        """A file on a network, the last bytes of which could not be sent."""

        flush, fileno = file.flush, file.fileno

        def close(self):
            file.close()
            raise OSError(errno.EIO, "Input/output error")

    staged._file = Failing()
    with pytest.raises(StorageError):
        staged.publish()
    staged.discard()
    assert listing(storage) == []


def test_a_file_whose_staged_name_stays_is_not_left(storage, monkeypatch):
    def busy(path):
        monkeypatch.undo()
        raise OSError(errno.EIO, "Input/output error")

    staged = storage.stage("story.txt", "text/plain")
    monkeypatch.setattr(os, "remove", busy)
    with pytest.raises(StorageError):
        staged.publish()
    staged.discard()
    assert listing(storage) == []


def test_a_name_that_was_taken_for_nothing_is_not_left(storage, monkeypatch):
    def failing(number):
        def fail(source, target):
            raise OSError(number, os.strerror(number))

        return fail

    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    monkeypatch.setattr(os, "replace", failing(errno.EIO))
    staged = storage.stage("story.txt", "text/plain")
    with pytest.raises(StorageError):
        staged.publish()
    staged.discard()
    assert listing(storage) == []


def test_a_staged_file_that_cannot_be_locked_is_not_left(storage, monkeypatch):
    def broken(file, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(StorageError):
        storage.stage("story.txt", "text/plain")
    assert listing(storage) == []


def test_a_staged_file_that_cannot_be_removed_is_closed_and_logged(storage, monkeypatch, caplog):
    def read_only(path):
        raise OSError(errno.EROFS, "Read-only file system")

    staged = storage.stage("story.txt", "text/plain")
    file = staged._file
    monkeypatch.setattr(os, "remove", read_only)
    staged.discard()
    assert file.closed
    (line,) = caplog.records
    assert "Read-only file system" in line.getMessage()


def test_a_stored_file_has_the_rights_that_the_process_gives(storage):
    name = store(storage, "story.txt")
    umask = os.umask(0)
    os.umask(umask)
    assert os.stat(storage.path(name)).st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    "name",
    ["../secret.txt", "a/../../secret.txt", "/etc/passwd", ".staging/x", "a//b", "", ".", "a\0b"],
)
def test_no_name_leads_out_of_the_folder(storage, tmp_path, name):
    (tmp_path / "secret.txt").write_text("secret")
    assert not storage.exists(name)
    assert not storage.delete(name)
    assert storage.delete_many([name]) == {}
    with pytest.raises(FileNotFoundError):
        storage.open(name)
    assert (tmp_path / "secret.txt").exists()


def test_no_symbolic_link_leads_out_of_the_folder(storage, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    os.symlink(tmp_path, os.path.join(storage.base_path, "link"))
    with pytest.raises(FileNotFoundError):
        storage.open("link/secret.txt")
    assert storage.delete_many(["link/secret.txt"]) == {}
    assert (tmp_path / "secret.txt").exists()


def test_no_symbolic_link_leads_to_what_is_hidden(storage):
    staged = storage.stage("story.txt", "text/plain")
    (hidden,) = listing(storage)
    os.symlink(".staging", os.path.join(storage.base_path, "link"))
    os.symlink(hidden, os.path.join(storage.base_path, "link.txt"))
    for name in (hidden.replace(".staging", "link"), "link.txt"):
        assert not storage.exists(name)
        assert not storage.delete(name)
        with pytest.raises(FileNotFoundError):
            storage.open(name)
        with pytest.raises(StorageError):
            storage.replace(name, "text/plain")
        assert storage.delete_many([name]) == {}
    assert staged.publish() == "story.txt"


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("folder", ["link", "link/new"])
def test_no_file_is_stored_in_a_hidden_folder_through_a_link(storage, folder, unique):
    os.symlink(".staging", os.path.join(storage.base_path, "link"))
    staged = storage.stage(f"{folder}/story.txt", "text/plain", unique=unique)
    with pytest.raises(StorageError):
        staged.publish()
    staged.discard()
    assert os.listdir(os.path.join(storage.base_path, ".staging")) == []


def test_folder_that_is_inside_of_a_hidden_one_is_none_that_is_hidden(tmp_path):
    storage = LocalStorage(str(tmp_path / ".hidden" / "files"))
    storage.prepare()
    assert storage.exists(store(storage, "a/story.txt"))


def test_delete_returns_whether_there_was_a_file(storage):
    name = store(storage, "story.txt")
    assert storage.delete(name) is True
    assert storage.delete(name) is False
    assert listing(storage) == []


def test_a_folder_that_vanished_is_made_again(storage):
    os.rmdir(os.path.join(storage.base_path, ".staging"))
    os.rmdir(storage.base_path)
    assert storage.exists(store(storage, "story.txt"))
