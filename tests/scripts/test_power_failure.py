"""Downloads before and after a power failure."""

import errno
import json
import os
from pathlib import Path

import pytest

from tests.support.scripts import (
    STORY,
    actions,
    failures,
    make_folder,
    tree,
)


@pytest.fixture
def disk(monkeypatch):
    """The paths that are synced and renamed, in order."""
    done = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        done.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noted_replace(source, target):
        done.append(("rename", str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return done


def test_state_is_synced_before_and_after_it_is_renamed(get, folder, disk):
    get()
    new, state = str(folder / ".partial" / "state"), str(folder / ".last_sync")
    saved = [("sync", new), ("rename", new, state), ("sync", str(folder))]
    assert disk[:3] == saved
    assert disk[-3:] == saved


def test_files_are_synced_before_the_state_that_lists_them(kinto, get, folder, disk):
    kinto.add("story.txt", STORY)["path"] = "a/b/story.txt"
    get()
    [(_, partial, name)] = [step for step in disk if step[0] == "rename" and "story" in step[2]]
    assert name == str(folder / "a" / "b" / "story.txt")
    renamed = disk.index(("rename", partial, name))
    assert disk[renamed - 1] == ("sync", partial)
    state_saved = disk.index(("sync", str(folder / ".partial" / "state")), renamed)
    between = disk[renamed + 1 : state_saved]
    assert set(between) == {("sync", str(folder / parent)) for parent in ("", "a", "a/b")}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_folders_that_cannot_be_synced_are_accepted(kinto, get, folder, monkeypatch, number):
    fsync = os.fsync

    def refuse_folders(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    kinto.add("story.txt", STORY)
    assert actions(get()) == {"downloaded": {"story.txt"}}


def test_disk_that_fails_is_reported(kinto, get, monkeypatch):
    kinto.add("story.txt", STORY)

    def fail(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    assert "Input/output error" in str(failures(get(code=1)))


@pytest.mark.parametrize("state", [b"", b"\0" * 500])
def test_state_that_a_power_failure_emptied_is_ignored(kinto, get, folder, state):
    kinto.add("story.txt", STORY)
    make_folder(folder, 0)
    (folder / ".last_sync").write_bytes(state)
    lines = get()
    assert lines[0] == {
        "action": "warning",
        "name": ".last_sync",
        "message": "is empty, as after a power failure, and is ignored",
    }
    assert actions(lines[1:]) == {"downloaded": {"story.txt"}}
    assert json.loads((folder / ".last_sync").read_bytes())["timestamp"] == "1000"
    assert get() == [{"action": "summary"}]
    assert tree(folder).keys() == {"story.txt"}
