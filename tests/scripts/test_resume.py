"""Downloads over lines that break, and after power cuts."""

import errno
import json
import os
from pathlib import Path

import pytest

from tests.support.scripts import (
    actions,
    failures,
    make_folder,
    serve_range,
    tree,
)


STORY = b"once upon a time " * 100


# Retries


def breaking(content, *sizes, ranges=True):
    """Return a file of :class:`FakeKinto` whose downloads end after so many bytes each."""
    left = list(sizes)

    def serve(handler):
        start = int(handler.headers.get("Range", "bytes=0-")[len("bytes=") : -1]) if ranges else 0
        if not left:
            serve_range(handler, content)
            return
        size = left.pop(0)
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(content[start : start + size])
        handler.close_connection = True

    return serve


def test_retries_count_from_the_last_progress(kinto, get, folder):
    kinto.add("story.txt", STORY, served=breaking(STORY, *[100] * 10))
    get("--retry", 1)
    assert (folder / "story.txt").read_bytes() == STORY


def test_retries_end_where_there_is_no_progress(kinto, get, folder):
    kinto.add("story.txt", STORY, served=breaking(STORY, 100, 0, 100, 0, 0, 0, 0))
    assert failures(get("--retry", 2, code=1)).keys() == {"story.txt"}
    # The third one has the last progress: two more tries.
    assert [path for _, path in kinto.seen].count("/files/stored-1") == 5


def test_what_comes_again_and_again_is_no_progress(kinto, get):
    kinto.add("story.txt", STORY, served=breaking(STORY, *[100] * 20, ranges=False))
    assert failures(get("--retry", 3, code=1)).keys() == {"story.txt"}
    assert [path for _, path in kinto.seen].count("/files/stored-1") == 4


# Power cuts


@pytest.fixture
def disk(monkeypatch):
    """The paths that were synced and renamed, in the order in which that was done."""
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


def test_state_is_on_the_disk_before_and_after_it_gets_its_name(get, folder, disk):
    get()
    new, state = str(folder / ".partial" / "state"), str(folder / ".last_sync")
    saved = [("sync", new), ("rename", new, state), ("sync", str(folder))]
    assert disk[:3] == saved
    assert disk[-3:] == saved


def test_files_are_on_the_disk_before_the_state_says_that_they_are_here(kinto, get, folder, disk):
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
def test_folders_that_cannot_be_synced_do_not_matter(kinto, get, folder, monkeypatch, number):
    fsync = os.fsync

    def refuse_folders(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    kinto.add("story.txt", STORY)
    assert actions(get()) == {"downloaded": {"story.txt"}}


def test_disk_that_fails_is_told(kinto, get, monkeypatch):
    kinto.add("story.txt", STORY)

    def fail(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    assert "Input/output error" in str(failures(get(code=1)))


@pytest.mark.parametrize("state", [b"", b"\0" * 500])
def test_state_that_a_power_cut_took_counts_as_none(kinto, get, folder, state):
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
