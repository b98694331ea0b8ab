"""The folder of the downloads: its lock, its state, and other volumes."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.fake_kinto import (
    Stalled,
)
from tests.support.scripts import (
    STORY,
    Scripts,
    actions,
    everything_in,
    failures,
    kill,
    make_folder,
    saved_state,
    tree,
    write_journal,
)


def test_state_of_an_older_script_is_replaced(kinto, get, folder):
    kinto.add("a.txt", b"a")
    make_folder(folder, 0)
    (folder / ".last_sync").write_text("9999999")
    assert actions(get()) == {"downloaded": {"a.txt"}}


def test_state_without_hashes_is_replaced_for_the_same_collection(kinto, get, folder):
    kinto.add("a.txt", b"a")
    source = [kinto.url, "blog", "photos"]
    older = {"source": source, "timestamp": "9999999", "names": {"record-1": "a.txt"}, "gone": []}
    make_folder(folder, 0)
    (folder / ".last_sync").write_text(json.dumps(older))
    with pytest.raises(SystemExit):
        get("--collection", "others")
    assert actions(get()) == {"downloaded": {"a.txt"}}


def test_folder_is_for_one_collection(kinto, get, folder, capsys):
    get()
    with pytest.raises(SystemExit) as exit:
        get("--collection", "others")
    assert exit.value.code == 2
    assert f"contains the files of {kinto.url} blog photos" in capsys.readouterr().err


@pytest.mark.external
def test_folder_is_for_one_run_at_a_time(kinto, get, folder, capsys):
    stalled = Stalled(STORY, after=100)
    kinto.add("story.txt", STORY, served=stalled)
    process = Scripts(kinto.url).start("download", "--folder", folder)
    assert stalled.reached.wait(60)
    with pytest.raises(SystemExit) as exit:
        get()
    assert exit.value.code == 2
    assert "another run" in capsys.readouterr().err
    stalled.released.set()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert actions(get("--full")) == {"unchanged": {"story.txt"}}


@pytest.mark.parametrize(
    "number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, 524], ids=errno.errorcode.get
)
def test_folder_without_locks_is_downloaded_into_with_a_warning(
    kinto, get, folder, monkeypatch, number
):
    def no_locks(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    kinto.add("story.txt", STORY)
    lines = get()
    assert actions(lines) == {"warning": {str(folder)}, "downloaded": {"story.txt"}}
    assert "locked" in lines[0]["message"]
    assert everything_in(folder) == {"story.txt", ".last_sync"}


def test_lock_that_fails_is_wrong_usage(get, folder, monkeypatch, capsys):
    def broken(descriptor, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(SystemExit) as exit:
        get()
    assert exit.value.code == 2
    assert "Input/output error" in capsys.readouterr().err


def test_lock_is_requested_with_a_descriptor_for_writing(kinto, get, monkeypatch):
    """NFSv4 answers ``EBADF`` to others (flock(2), "NFS details")."""
    flock = fcntl.flock

    def as_nfs(descriptor, operation):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", as_nfs)
    kinto.add("story.txt", STORY)
    assert actions(get()) == {"downloaded": {"story.txt"}}


def test_lock_file_that_the_run_before_has_removed_is_not_locked(kinto, get, folder, monkeypatch):
    """A file that was opened before it was removed is not the one that is there."""
    flock = fcntl.flock
    locked = []

    def late(descriptor, operation):
        if not locked:
            (folder / ".partial" / "lock").unlink()
            (folder / ".partial").rmdir()
        flock(descriptor, operation)
        there = folder / ".partial" / "lock"
        locked.append(there.exists() and os.path.samestat(os.fstat(descriptor), there.stat()))

    monkeypatch.setattr(fcntl, "flock", late)
    kinto.add("story.txt", STORY)
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert locked == [False, True]


@pytest.fixture
def other_volume(folder, monkeypatch):
    """A folder in the folder that is another volume: files cannot be renamed across."""
    path = folder / "x"
    replace = os.replace

    def checked(source, target):
        if (path in Path(source).parents) != (path in Path(target).parents):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace(source, target)

    monkeypatch.setattr(os, "replace", checked)
    return path


@pytest.fixture
def story(kinto):
    """A record whose file has a name on the other volume."""
    kinto.add("story.txt", STORY)
    kinto.records[0]["path"] = "x/story.txt"


def test_file_is_downloaded_into_a_folder_on_another_volume(
    kinto, get, folder, other_volume, story
):
    assert actions(get()) == {"downloaded": {"x/story.txt"}}
    assert (folder / "x" / "story.txt").read_bytes() == STORY
    assert everything_in(folder) == {"x", "x/story.txt", ".last_sync"}


def test_previous_file_on_another_volume_stays_until_its_new_one_is_complete(
    kinto, get, folder, other_volume, story, monkeypatch
):
    def full(source, target, size):
        target.write(source.read(1000))
        target.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    other_volume.mkdir(parents=True)
    (other_volume / "story.txt").write_text("previous")
    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert failures(get(code=1)) == {"x/story.txt": "No space left on device"}
    assert [path.name for path in other_volume.iterdir()] == ["story.txt"]
    assert (other_volume / "story.txt").read_text() == "previous"


def test_copy_of_a_killed_run_is_removed_by_the_next_one(kinto, get, folder, other_volume, story):
    other_volume.mkdir(parents=True)
    copy = other_volume / f".partial-{hashlib.sha256(b'story.txt').hexdigest()}"
    copy.write_bytes(STORY[:1000])
    write_journal(
        folder, json.dumps(["record-1", "x/story.txt", hashlib.sha256(STORY).hexdigest()])
    )
    kinto.records.clear()
    get()
    assert not copy.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"timestamp": "x"},
        {"timestamp": "-5"},
        {"timestamp": 1.5},
        {"names": []},
        {"names": {"record-1": 1}},
        {"hashes": 1},
        {"obsolete": {"a.txt": 1}},
        {"obsolete": {"a.txt": ["hash"]}},
        {"source": 5},
        {"source": None},
    ],
)
def test_state_that_the_script_did_not_write_is_wrong_usage(kinto, get, folder, capsys, changes):
    make_folder(folder, 0)
    state = saved_state(kinto, **changes)
    (folder / ".last_sync").write_text(state)
    with pytest.raises(SystemExit) as exit:
        get()
    assert exit.value.code == 2
    assert ".last_sync was not written by this script" in capsys.readouterr().err
    assert everything_in(folder) == {".last_sync"}
    assert (folder / ".last_sync").read_text() == state


def test_two_names_of_another_system_may_be_one_here(kinto, get, folder):
    make_folder(folder, 0)
    (folder / "a.txt").write_bytes(b"a")
    hashes = dict.fromkeys(["record-1", "record-2"], tree(folder)["a.txt"])
    names = dict.fromkeys(hashes, "a.txt")
    (folder / ".last_sync").write_text(saved_state(kinto, names=names, hashes=hashes))
    assert actions(get("--delete")) == {"deleted": {"a.txt"}}


@pytest.mark.parametrize("state", ["{", "[" * 100_000])
def test_state_that_is_no_json_is_wrong_usage(get, folder, capsys, state):
    make_folder(folder, 0)
    (folder / ".last_sync").write_text(state)
    with pytest.raises(SystemExit) as exit:
        get()
    assert exit.value.code == 2
    assert ".last_sync is not JSON" in capsys.readouterr().err


@pytest.mark.external
def test_folder_of_a_killed_run_is_for_its_collection(kinto, get, folder, capsys):
    stalled = Stalled(STORY, after=100)
    kinto.add("story.txt", STORY, served=stalled)
    process = Scripts(kinto.url).start("download", "--folder", folder)
    assert stalled.reached.wait(60)
    kill(process)
    stalled.released.set()
    with pytest.raises(SystemExit) as exit:
        get("--collection", "others")
    assert exit.value.code == 2
    assert f"contains the files of {kinto.url} blog photos" in capsys.readouterr().err


def test_folder_that_cannot_be_made_is_wrong_usage(kinto, get, folder, capsys):
    folder.write_text("a file")
    with pytest.raises(SystemExit) as exit:
        get()
    assert exit.value.code == 2
    assert "File exists" in capsys.readouterr().err
