import contextlib
import errno
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import signal
import time
import uuid
from pathlib import Path

import pytest

from kinto_attachment.scripts import download
from kinto_attachment.scripts.downloads import absolute_location
from tests.support.s3 import eventually
from tests.support.scripts import (
    FakeKinto,
    Scripts,
    Stalled,
    actions,
    cut_off,
    described,
    failures,
    kill,
    make_folder,
    serve_range,
    tree,
)


STORY = b"once upon a time " * 100


def downloads(kinto):
    """Return the ``Range`` headers of all downloads."""
    requests = zip(kinto.seen, kinto.headers, strict=True)
    return [headers["Range"] for (_, path), headers in requests if "stored-" in path]


def everything_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# What is asked for


def test_file_that_is_right_already_is_not_downloaded(kinto, get, folder):
    kinto.add("story.txt", STORY)
    make_folder(folder, 0)
    (folder / "story.txt").write_bytes(STORY)
    assert actions(get()) == {"unchanged": {"story.txt"}}
    assert downloads(kinto) == []


def test_file_of_the_same_size_that_is_wrong_is_replaced(kinto, get, folder):
    kinto.add("story.txt", STORY)
    make_folder(folder, 0)
    (folder / "story.txt").write_bytes(STORY.upper())
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert (folder / "story.txt").read_bytes() == STORY


def test_only_records_that_changed_are_asked_for(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    kinto.add("b.txt", b"b")
    assert actions(get()) == {"downloaded": {"b.txt"}}
    assert get() == [{"action": "summary"}]
    assert everything_in(folder) == {"a.txt", "b.txt", ".last_sync"}


def test_failed_file_is_asked_for_again_and_those_before_are_not(kinto, get, folder):
    kinto.add("a.txt", b"a")
    kinto.add("b.txt", b"b", served=b"B")
    kinto.add("c.txt", b"c")
    assert actions(get(code=1)) == {"downloaded": {"a.txt", "c.txt"}, "failed": {"b.txt"}}
    kinto.files["stored-2"] = b"b"
    assert actions(get()) == {"downloaded": {"b.txt"}, "unchanged": {"c.txt"}}
    assert tree(folder).keys() == {"a.txt", "b.txt", "c.txt"}


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


def test_full_brings_back_what_is_missing(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    (folder / "a.txt").unlink()
    assert actions(get()) == {}
    assert actions(get("--full")) == {"downloaded": {"a.txt"}}


def test_folder_is_for_one_collection(kinto, get, folder, capsys):
    get()
    with pytest.raises(SystemExit) as exit:
        get("--collection", "others")
    assert exit.value.code == 2
    assert f"holds the files of {kinto.url} blog photos" in capsys.readouterr().err


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


def test_lock_that_fails_is_an_error(get, folder, monkeypatch, capsys):
    def broken(descriptor, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(SystemExit) as exit:
        get()
    assert exit.value.code == 2
    assert "Input/output error" in capsys.readouterr().err


def test_lock_is_asked_for_with_a_descriptor_for_writing(kinto, get, monkeypatch):
    """NFSv4 answers ``EBADF`` to others (flock(2), "NFS details")."""
    flock = fcntl.flock

    def as_nfs(descriptor, operation):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", as_nfs)
    kinto.add("story.txt", STORY)
    assert actions(get()) == {"downloaded": {"story.txt"}}


def test_lock_that_the_run_before_has_removed_meanwhile_is_none(kinto, get, folder, monkeypatch):
    """Whoever has opened the file before it was removed has not locked the one that is there."""
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
    """A folder in the folder that is another volume: no name leads from the one to the other."""
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
    """A record whose file belongs into the other volume."""
    kinto.add("story.txt", STORY)
    kinto.records[0]["path"] = "x/story.txt"


def test_folder_on_another_volume_is_downloaded_into(kinto, get, folder, other_volume, story):
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
    journal(folder, json.dumps(["record-1", "x/story.txt", hashlib.sha256(STORY).hexdigest()]))
    kinto.records.clear()
    get()
    assert not copy.exists()


def state_of(kinto, **changes):
    """Return what the script saves before it downloads anything, but for these changes."""
    source = [kinto.url, "blog", "photos"]
    nothing = {"source": source, "timestamp": None, "names": {}, "hashes": {}, "obsolete": {}}
    return json.dumps(nothing | changes)


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
def test_state_that_is_not_the_scripts_is_wrong_usage(kinto, get, folder, capsys, changes):
    make_folder(folder, 0)
    state = state_of(kinto, **changes)
    (folder / ".last_sync").write_text(state)
    with pytest.raises(SystemExit) as exit:
        get()
    assert exit.value.code == 2
    assert ".last_sync was not written by this script" in capsys.readouterr().err
    assert everything_in(folder) == {".last_sync"}
    assert (folder / ".last_sync").read_text() == state


def test_names_that_were_two_elsewhere_may_be_one_here(kinto, get, folder):
    make_folder(folder, 0)
    (folder / "a.txt").write_bytes(b"a")
    hashes = dict.fromkeys(["record-1", "record-2"], tree(folder)["a.txt"])
    names = dict.fromkeys(hashes, "a.txt")
    (folder / ".last_sync").write_text(state_of(kinto, names=names, hashes=hashes))
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
def test_folder_of_a_run_that_was_killed_is_for_its_collection(kinto, get, folder, capsys):
    stalled = Stalled(STORY, after=100)
    kinto.add("story.txt", STORY, served=stalled)
    process = Scripts(kinto.url).start("download", "--folder", folder)
    assert stalled.reached.wait(60)
    kill(process)
    stalled.released.set()
    with pytest.raises(SystemExit) as exit:
        get("--collection", "others")
    assert exit.value.code == 2
    assert f"holds the files of {kinto.url} blog photos" in capsys.readouterr().err


def test_folder_that_cannot_be_made_is_wrong_usage(kinto, get, folder, capsys):
    folder.write_text("a file")
    with pytest.raises(SystemExit) as exit:
        get()
    assert exit.value.code == 2
    assert "File exists" in capsys.readouterr().err


def test_relative_locations_are_of_the_base_url(kinto, get, folder):
    kinto.add("a.txt", b"a")
    kinto.base_url = "/files/"
    kinto.add("b.txt", b"b", location=f"{kinto.origin}/elsewhere/stored-2")
    get()
    assert ("GET", "/files/stored-1") in kinto.seen
    assert ("GET", "/elsewhere/stored-2") in kinto.seen


@pytest.mark.parametrize(
    ("base_url", "location", "url"),
    [
        ("https://cdn.test/files/", "a.txt", "https://cdn.test/files/a.txt"),
        ("https://cdn.test/files", "a.txt", "https://cdn.test/files/a.txt"),
        ("https://cdn.test/files/", "/a.txt", "https://cdn.test/files/a.txt"),
        ("https://cdn.test", "/files/a.txt", "https://cdn.test/files/a.txt"),
        ("/files/", "a.txt", "https://kinto.test/files/a.txt"),
        ("/files/", "/files/a.txt", "https://kinto.test/files/a.txt"),
        ("//cdn.test/files", "a.txt", "https://cdn.test/files/a.txt"),
        ("", "/files/a.txt", "https://kinto.test/files/a.txt"),
        ("", "a.txt", "https://kinto.test/v1/a.txt"),
        ("https:", "//cdn.test/files/a.txt", "https://cdn.test/files/a.txt"),
        ("/files/", "http://cdn.test/a.txt", "http://cdn.test/a.txt"),
    ],
)
def test_location_and_base_url_make_a_url(base_url, location, url):
    assert absolute_location(location, base_url, "https://kinto.test/v1") == url


def test_locations_with_the_path_of_the_base_url_are_of_the_host(kinto, get):
    kinto.base_url = "/files/"
    kinto.add("a.txt", b"a", location="/files/stored-1")
    get()
    assert ("GET", "/files/stored-1") in kinto.seen


def test_credentials_are_for_kinto_only(kinto, get):
    kinto.add("a.txt", b"a")
    get()
    for (_, path), headers in zip(kinto.seen, kinto.headers, strict=True):
        assert ("Authorization" in headers) == path.startswith("/v1/")


def test_files_are_asked_for_as_they_are(kinto, get):
    kinto.add("a.txt", b"a")
    get()
    assert kinto.headers[-1]["Accept-Encoding"] == "identity"


def test_record_that_is_listed_twice_is_downloaded_once(kinto, get, folder):
    def serve(handler):
        # Long enough for another download to begin.
        time.sleep(0.5)
        serve_range(handler, STORY)

    kinto.records.append(kinto.add("story.txt", STORY, served=serve))
    assert actions(get()) == {"downloaded": {"story.txt"}, "unchanged": {"story.txt"}}
    assert len(downloads(kinto)) == 1


# Deletion


def test_delete_removes_files_whose_records_are_gone(kinto, get, folder):
    kinto.add("a.txt", b"a")
    kinto.add("b.txt", b"b")
    kinto.add("c.txt", b"c")
    get()
    (folder / "mine.txt").write_bytes(b"not the script's")
    kinto.records[0] = {"id": "record-1", "last_modified": 5000, "deleted": True}
    kinto.records[1] = {"id": "record-2", "last_modified": 6000, "attachment": None}
    assert actions(get()) == {}
    assert (folder / "a.txt").exists()
    assert actions(get("--delete")) == {"deleted": {"a.txt", "b.txt"}}
    assert tree(folder).keys() == {"c.txt", "mine.txt"}


def test_delete_removes_the_file_of_the_previous_name(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    kinto.records[0]["attachment"]["filename"] = "b.txt"
    kinto.records[0]["last_modified"] = 5000
    assert actions(get("--delete")) == {"downloaded": {"b.txt"}, "deleted": {"a.txt"}}


def test_delete_spares_a_file_that_another_record_has_now(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    kinto.records[0] = {"id": "record-1", "last_modified": 5000, "deleted": True}
    kinto.add("a.txt", b"a new one")["last_modified"] = 6000
    assert actions(get("--delete")) == {"downloaded": {"a.txt"}}
    assert (folder / "a.txt").read_bytes() == b"a new one"


def test_delete_finds_what_is_gone_when_all_records_are_asked_for(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    kinto.records.clear()
    assert actions(get("--full", "--delete")) == {"deleted": {"a.txt"}}


def test_delete_spares_a_file_that_was_there_before(kinto, get, folder):
    kinto.add("same.txt", STORY)
    kinto.add("lost.txt", STORY, served=STORY.upper())
    make_folder(folder, 0)
    (folder / "same.txt").write_bytes(STORY)
    (folder / "lost.txt").write_bytes(b"not the script's")
    before = tree(folder)
    assert actions(get(code=1)) == {"unchanged": {"same.txt"}, "failed": {"lost.txt"}}
    kinto.records.clear()
    assert actions(get("--full", "--delete")) == {}
    assert tree(folder) == before


def test_delete_spares_a_file_that_was_changed(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    (folder / "a.txt").write_bytes(b"my own words")
    kinto.records.clear()
    told = get("--full", "--delete")
    assert actions(told) == {"warning": {"a.txt"}}
    assert "changed" in told[0]["message"]
    assert (folder / "a.txt").read_bytes() == b"my own words"
    assert actions(get("--full", "--delete")) == {}


def test_previous_file_of_a_record_stays_until_its_new_one_is_here(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    attachment = kinto.records[0]["attachment"]
    kinto.records[0]["attachment"] = attachment | described("b.txt", b"b")
    kinto.records[0]["last_modified"] = 5000
    for _ in range(2):
        assert actions(get("--delete", code=1)) == {"failed": {"b.txt"}}
        assert tree(folder).keys() == {"a.txt"}
    kinto.files["stored-1"] = b"b"
    assert actions(get("--delete")) == {"downloaded": {"b.txt"}, "deleted": {"a.txt"}}


def journal(folder, *lines):
    """Have a journal as a run leaves it that does not come to its end."""
    (folder / ".partial").mkdir()
    (folder / ".partial" / "journal").write_text("\n" + "\n".join(lines))


def test_delete_knows_what_a_run_downloaded_that_failed(kinto, get, folder, monkeypatch):
    listing = kinto.RequestHandlerClass._list

    def fail_when_the_file_is_here(handler, query):
        if "page" not in query:
            listing(handler, query)
        elif eventually((folder / "a.txt").exists):
            handler.answer(400, {"message": "No more."})

    monkeypatch.setattr(kinto.RequestHandlerClass, "_list", fail_when_the_file_is_here)
    kinto.add("a.txt", b"a")
    kinto.next_page = f"{kinto.url}/?page=2"
    assert failures(get(code=1)) == {None: "400 Bad Request: No more."}
    assert tree(folder)["a.txt"]
    assert actions(get()) == {"unchanged": {"a.txt"}}
    kinto.records.clear()
    assert actions(get("--full", "--delete")) == {"deleted": {"a.txt"}}


def test_file_is_as_before_where_a_run_was_killed_before_the_new_one_was_here(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    journal(folder, json.dumps(["record-1", "a.txt", "0" * 64]))
    kinto.records.clear()
    assert actions(get("--full", "--delete")) == {"deleted": {"a.txt"}}


@pytest.mark.parametrize("line", ["5", "[1]", '["a", "b"]', '["a", 5, "c"]', "[" * 100_000])
def test_journal_that_is_not_the_scripts_is_ignored(kinto, get, folder, line):
    kinto.add("a.txt", b"a")
    get()
    journal(folder, line)
    assert actions(get("--full")) == {"unchanged": {"a.txt"}}


def test_journal_of_nobody_is_forgotten(kinto, get, folder):
    kinto.add("a.txt", b"a")
    make_folder(folder, 0)
    (folder / "mine.txt").write_bytes(b"mine")
    journal(folder, json.dumps(["record-9", "mine.txt", tree(folder)["mine.txt"]]))
    assert actions(get("--delete")) == {"downloaded": {"a.txt"}}
    assert tree(folder).keys() == {"a.txt", "mine.txt"}


def test_delete_knows_a_file_that_somebody_else_brought_up_to_date(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    kinto.records[0]["attachment"] |= described("a.txt", b"new")
    kinto.records[0]["last_modified"] = 5000
    (folder / "a.txt").write_bytes(b"new")
    assert actions(get()) == {"unchanged": {"a.txt"}}
    kinto.records.clear()
    assert actions(get("--full", "--delete")) == {"deleted": {"a.txt"}}


def test_folder_in_the_place_of_a_gone_file_stays(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    (folder / "a.txt").unlink()
    (folder / "a.txt").mkdir()
    kinto.records.clear()
    assert actions(get("--full", "--delete")) == {"warning": {"a.txt"}}
    assert actions(get("--full", "--delete")) == {}
    assert everything_in(folder) == {"a.txt", ".last_sync"}


def test_delete_knows_what_a_run_downloaded_that_was_killed(kinto, get, folder):
    kinto.add("a.txt", b"a")
    kinto.add("b.txt", b"b")
    get()
    # As it is when the state was not saved any more, and two lines not as a whole.
    (folder / ".last_sync").write_text(state_of(kinto))
    hashes = tree(folder)
    journal(
        folder,
        json.dumps(["record-1", "a.txt", hashes["a.txt"]]),
        '["record-1", "a.t',
        json.dumps(["record-2", "b.txt", hashes["b.txt"]]),
        '["record-3", "c',
    )
    assert actions(get()) == {"unchanged": {"a.txt", "b.txt"}}
    assert everything_in(folder) == {"a.txt", "b.txt", ".last_sync"}
    kinto.records.clear()
    assert actions(get("--full", "--delete")) == {"deleted": {"a.txt", "b.txt"}}


def test_folders_that_are_empty_go_with_their_files(kinto, get, folder):
    kinto.add("a.txt", b"a")
    kinto.records[0]["path"] = "x/y/a.txt"
    get()
    assert tree(folder).keys() == {"x/y/a.txt"}
    kinto.records[0] = {"id": "record-1", "last_modified": 5000, "deleted": True}
    get("--delete")
    assert everything_in(folder) == {".last_sync"}


# Names


def test_two_records_of_one_name_have_a_file_each(kinto, get, folder):
    kinto.add("story.txt", b"first")
    kinto.add("story.txt", b"second")
    lines = get()
    assert lines[0] == {
        "action": "warning",
        "name": "story.txt",
        "message": "belongs to another record; this one is written to story-record-2.txt",
    }
    assert (folder / "story.txt").read_bytes() == b"first"
    assert (folder / "story-record-2.txt").read_bytes() == b"second"
    kinto.files["stored-2"] = b"second, again"
    kinto.records[1]["attachment"].update(described("story.txt", b"second, again"))
    kinto.records[1]["last_modified"] = 5000
    get()
    assert (folder / "story.txt").read_bytes() == b"first"
    assert (folder / "story-record-2.txt").read_bytes() == b"second, again"


def test_file_gets_its_name_when_the_other_record_of_the_name_is_gone(kinto, get, folder):
    kinto.add("story.txt", b"first")
    kinto.add("story.txt", b"second")
    get()
    assert actions(get("--full")).keys() == {"warning", "unchanged"}
    kinto.records[0] = {"id": "record-1", "last_modified": 5000, "deleted": True}
    get()
    assert actions(get("--full", "--delete")) == {
        "downloaded": {"story.txt"},
        "deleted": {"story-record-2.txt"},
    }
    assert (folder / "story.txt").read_bytes() == b"second"


def test_two_records_that_change_names_have_them_in_the_end(kinto, get, folder):
    kinto.add("a.txt", b"first")
    kinto.add("b.txt", b"second")
    get()
    for record, name in zip(kinto.records, ("b.txt", "a.txt"), strict=True):
        record["attachment"]["filename"] = name
        record["last_modified"] += 5000
    get("--delete")
    get("--full", "--delete")
    assert {path.name: path.read_bytes() for path in folder.glob("*.txt")} == {
        "a.txt": b"second",
        "b.txt": b"first",
    }


def test_names_that_differ_in_case_are_one_where_the_folder_says_so(kinto, get, folder):
    kinto.add("story.txt", b"first")
    kinto.add("STORY.txt", b"second")
    # What a file system without case would make of the script's folder.
    make_folder(folder / ".PARTIAL", 0)
    get()
    assert (folder / "STORY-record-2.txt").read_bytes() == b"second"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "..",
        ".",
        "",
        "/tmp/evil.txt",
        "a/../../evil.txt",
        "..\\evil.txt",
        "C:\\evil.txt",
        "evil\0.txt",
        "evil\n.txt",
        "\x1b[2Jevil.txt",
        "evil\ud800.txt",
        "e" * 300,
        ".last_sync",
        ".LAST_SYNC",
        ".partial",
        f".partial-{'0a' * 32}",
    ],
)
def test_no_name_leads_out_of_the_folder(kinto, get, folder, tmp_path, name):
    kinto.add("good.txt", b"good")
    kinto.add(name, b"evil")
    lines = get(code=1)
    assert len(failures(lines)) == 1
    assert actions(lines)["downloaded"] == {"good.txt"}
    assert json.loads((folder / ".last_sync").read_text())["timestamp"] == "1999"
    assert tree(tmp_path).keys() == {"copy/good.txt"}


@pytest.mark.parametrize(
    "path",
    [
        "../evil.txt",
        "/tmp/evil.txt",
        "a/../../evil.txt",
        "a//evil.txt",
        ".partial/evil.txt",
        "a/" * 1500 + "evil.txt",
        "a/" * 5000 + "evil.txt",
    ],
)
def test_no_path_leads_out_of_the_folder(kinto, get, tmp_path, path):
    kinto.add("evil.txt", b"evil")
    kinto.records[0]["path"] = path
    assert len(failures(get(code=1))) == 1
    assert tree(tmp_path) == {}


def test_path_of_another_file_is_ignored(kinto, get, folder):
    kinto.add("b.txt", b"b")
    kinto.records[0]["path"] = "x/a.txt"
    get()
    assert tree(folder).keys() == {"b.txt"}


def test_links_in_the_folder_are_not_followed(kinto, get, folder, tmp_path):
    outside = make_folder(tmp_path / "outside", 0)
    (outside / "secret.txt").write_bytes(b"secret")
    make_folder(folder, 0)
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "dangling.txt").symlink_to(outside / "new.txt")
    (folder / "link").symlink_to(outside)
    kinto.add("link.txt", b"evil")
    kinto.add("dangling.txt", b"evil")
    kinto.add("secret.txt", b"evil")
    kinto.records[2]["path"] = "link/secret.txt"
    assert failures(get(code=1)) == {
        "link.txt": "a folder or a link has its name",
        "dangling.txt": "a folder or a link has its name",
        "secret.txt": "link is not a folder but a file or a link",
    }
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"secret.txt": b"secret"}


def test_link_that_appears_meanwhile_is_not_followed(kinto, get, folder, tmp_path):
    outside = make_folder(tmp_path / "outside", 0)

    def serve(handler):
        (folder / "sub").symlink_to(outside)
        serve_range(handler, b"evil")

    kinto.add("a.txt", b"evil", served=serve)
    kinto.records[0]["path"] = "sub/a.txt"
    assert failures(get(code=1)) == {"sub/a.txt": "sub is not a folder but a file or a link"}
    assert list(outside.iterdir()) == []


def test_links_among_the_partial_files_are_not_followed(kinto, get, folder, tmp_path):
    (tmp_path / "outside").mkdir()
    folder.mkdir()
    (folder / ".partial").symlink_to(tmp_path / "outside")
    with pytest.raises(SystemExit) as exit:
        get()
    assert exit.value.code == 2


def test_record_ids_never_are_paths(kinto, get, tmp_path):
    kinto.add("a.txt", b"first")
    kinto.add("a.txt", b"second")
    kinto.records[1]["id"] = "/../../../evil"
    assert len(failures(get(code=1))) == 1
    assert tree(tmp_path).keys() == {"copy/a.txt"}


# What the server sends


def test_wrong_hash_is_refused_and_nothing_stays(kinto, get, folder):
    kinto.add("story.txt", STORY, served=STORY.upper())
    make_folder(folder, 0)
    (folder / "story.txt").write_bytes(b"the previous one")
    message = failures(get(code=1))["story.txt"]
    digests = [hashlib.sha256(content).hexdigest() for content in (STORY.upper(), STORY)]
    assert message == f"its hash is {digests[0]} instead of {digests[1]}"
    assert (folder / "story.txt").read_bytes() == b"the previous one"
    assert everything_in(folder) == {"story.txt", ".last_sync"}


def endless(status):
    """Return a file of :class:`FakeKinto` that ends when the client leaves (or after 64 MiB)."""

    def serve(handler):
        handler.send_response(status)
        handler.end_headers()
        for _ in range(1024):
            handler.wfile.write(b"x" * 65536)
        handler.close_connection = True
        handler.server.files.clear()

    return serve


def test_endless_body_is_left(kinto, get, folder):
    kinto.add("story.txt", STORY, served=endless(200))
    message = failures(get(code=1))["story.txt"]
    assert message == "the server sends more than the 1700 bytes of the file"
    assert sum(path.stat().st_size for path in (folder / ".partial").iterdir()) == 0
    assert kinto.files


def test_endless_error_is_left(kinto, get):
    kinto.add("story.txt", STORY, served=endless(500))
    assert failures(get(code=1)) == {"story.txt": "500 Internal Server Error"}
    assert kinto.files


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://host/file", "data:,story"])
def test_only_web_addresses_are_downloaded(kinto, get, location):
    kinto.add("story.txt", STORY, location=location)
    message = failures(get(code=1))["story.txt"]
    assert message == f"its location is not a web URL: {location}"


@pytest.mark.parametrize(
    "location",
    ["http://", "http://[bad/", "http://\ud800/", "http://host:port/", "http://127.0.0.1/\ud800"],
)
def test_location_that_is_no_url_fails_for_its_file_only(kinto, get, location):
    kinto.add("story.txt", STORY, location=location)
    kinto.add("good.txt", STORY)
    lines = get("--retry", 0, code=1)
    assert failures(lines).keys() == {"story.txt"}
    assert actions(lines)["downloaded"] == {"good.txt"}


def test_redirect_to_a_file_is_refused(kinto, get):
    redirect = {"Location": "file:///etc/passwd"}
    kinto.add("story.txt", STORY, served=lambda handler: handler.answer(302, **redirect))
    assert "file:///etc/passwd" in failures(get(code=1))["story.txt"]


def test_redirects_are_followed(kinto, get, folder):
    redirect = {"Location": f"{kinto.origin}/elsewhere/stored-2"}
    kinto.add("story.txt", STORY, served=lambda handler: handler.answer(302, **redirect))
    kinto.files["stored-2"] = STORY
    get()
    assert (folder / "story.txt").read_bytes() == STORY


@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1},
        {"size": "17"},
        {"size": None},
        {"hash": "../evil"},
        {"hash": "abc"},
        {"hash": None},
        {"filename": 1},
        {"location": None},
        {"original": "yes"},
        {"original": {}, "filename": None},
    ],
)
def test_record_that_does_not_describe_its_file_fails(kinto, get, changes):
    kinto.add("story.txt", STORY)["attachment"].update(changes)
    kinto.add("good.txt", STORY)
    lines = get(code=1)
    assert len(failures(lines)) == 1
    assert actions(lines)["downloaded"] == {"good.txt"}


def test_attachment_that_is_no_object_fails(kinto, get):
    kinto.add("story.txt", STORY)
    kinto.records[0]["attachment"] = "story.txt"
    assert failures(get(code=1)).keys() == {"record-1"}


def test_file_that_the_server_lost_fails(kinto, get):
    kinto.add("story.txt", STORY)
    kinto.files.clear()
    assert failures(get(code=1)) == {"story.txt": "404 Not Found: No such file."}


@pytest.mark.parametrize("answer", [[], {}, {"data": {}}, {"data": [1]}, b"<html>", b"[" * 100_000])
def test_server_that_is_no_kinto_is_told(kinto, get, monkeypatch, answer):
    etag = {"ETag": '"1"'}
    listing = "tests.support.scripts._KintoHandler._list"
    monkeypatch.setattr(listing, lambda handler, query: handler.answer(200, answer, **etag))
    assert "is not" in failures(get(code=1))[None]


@pytest.mark.parametrize("base_url", [1, {"a": 1}, "http://[::1/"])
def test_base_url_that_is_none_is_told(kinto, get, base_url):
    kinto.base_url = base_url
    kinto.add("story.txt", STORY)
    assert "is not one of Kinto" in failures(get(code=1))[None]


@pytest.mark.parametrize("capabilities", [[1], {"attachments": [1]}])
def test_server_without_a_base_url_is_one_itself(kinto, get, monkeypatch, capabilities):
    answer = {"capabilities": capabilities}
    replaced = "tests.support.scripts._KintoHandler.answer_capabilities"
    monkeypatch.setattr(replaced, lambda handler: handler.answer(200, answer))
    kinto.add("story.txt", STORY)
    assert actions(get()) == {"downloaded": {"story.txt"}}


def test_next_page_that_is_no_url_is_told(kinto, get):
    kinto.add("story.txt", STORY)
    kinto.next_page = "http://[::1/"
    assert "is not one of Kinto" in failures(get(code=1))[None]


def test_state_that_cannot_be_saved_is_told(kinto, get, folder):
    kinto.add("story.txt", STORY)
    (folder / ".partial" / "state").mkdir(parents=True)
    assert "state" in failures(get(code=1))[None]
    assert everything_in(folder) == {".partial", ".partial/state"}


def test_server_without_timestamps_is_told(kinto, get, monkeypatch):
    monkeypatch.setattr(FakeKinto, "timestamp", "yesterday")
    assert "has no timestamp" in failures(get(code=1))[None]


# Broken downloads


def test_download_that_breaks_off_goes_on_where_it_was(kinto, get, folder):
    kinto.add("story.txt", STORY, served=cut_off(STORY, after=700))
    get()
    assert downloads(kinto) == [None, "bytes=700-"]
    assert (folder / "story.txt").read_bytes() == STORY


def test_download_that_broke_off_goes_on_in_the_next_run(kinto, get, folder):
    kinto.add("story.txt", STORY, served=cut_off(STORY, after=700))
    get("--retry", 0, code=1)
    assert "story.txt" not in everything_in(folder)
    get()
    assert downloads(kinto) == [None, "bytes=700-"]
    assert (folder / "story.txt").read_bytes() == STORY
    assert everything_in(folder) == {"story.txt", ".last_sync"}


def test_server_without_ranges_sends_all_again(kinto, get, folder):
    first = cut_off(STORY, after=700)

    def serve(handler):
        del handler.headers["Range"]
        first(handler)

    kinto.add("story.txt", STORY, served=serve)
    get()
    assert len(kinto.seen) == 4
    assert (folder / "story.txt").read_bytes() == STORY


def test_another_range_than_was_asked_for_is_refused(kinto, get):
    first = cut_off(STORY, after=700)

    def serve(handler):
        if "Range" in handler.headers:
            handler.headers.replace_header("Range", "bytes=10-")
        first(handler)

    kinto.add("story.txt", STORY, served=serve)
    message = failures(get(code=1))["story.txt"]
    assert message == "the server sent another range than requested"


def test_partial_file_that_is_wrong_is_downloaded_anew(kinto, get, folder):
    kinto.add("story.txt", STORY, served=cut_off(STORY, after=700))
    get("--retry", 0, code=1)
    [partial] = (folder / ".partial").iterdir()
    partial.write_bytes(b"x" * 700)
    get()
    assert downloads(kinto) == [None, "bytes=700-", None]
    assert (folder / "story.txt").read_bytes() == STORY


@pytest.mark.parametrize("size", [1700, 5000])
def test_partial_file_of_a_wrong_size_is_downloaded_anew(kinto, get, folder, size):
    kinto.add("story.txt", STORY, served=cut_off(STORY, after=700))
    get("--retry", 0, code=1)
    [partial] = (folder / ".partial").iterdir()
    partial.write_bytes(b"x" * size)
    get()
    assert (folder / "story.txt").read_bytes() == STORY


def test_file_that_became_shorter_than_what_is_here_is_asked_for_anew(kinto, get):
    kinto.add("story.txt", STORY, served=cut_off(STORY, after=700))
    get("--retry", 0, code=1)
    kinto.files["stored-1"] = b"short"
    message = failures(get("--retry", 1, code=1))["story.txt"]
    assert message == "the server sent less than the whole file"
    assert downloads(kinto) == [None, "bytes=700-", None]


def largest_in(folder):
    """Return the size of the largest file in a folder, where others come and go."""
    sizes = [0]
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return max(sizes)


@pytest.mark.external
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_download_that_ended_in_the_middle_goes_on_in_the_next_run(kinto, folder, how):
    story = STORY * 5000
    stalled = Stalled(story, after=len(story) // 2)
    kinto.add("a.txt", b"a")
    kinto.add("story.txt", story, served=stalled)
    scripts = Scripts(kinto.url)
    process = scripts.start("download", "--json", "--folder", folder)
    assert stalled.reached.wait(60)
    partials = folder / ".partial"
    while largest_in(partials) < len(story) // 4:
        assert process.poll() is None
    output, errors, code = kill(process, how)
    stalled.released.set()
    assert not (folder / "story.txt").exists()
    if how == signal.SIGINT:
        assert code == 130
        assert json.loads(output.splitlines()[-2])["action"] == "interrupted"
    scripts.download(folder)
    assert (folder / "story.txt").read_bytes() == story
    assert everything_in(folder) == {"a.txt", "story.txt", ".last_sync"}
    assert int(downloads(kinto)[-1].strip("bytes=-")) > len(story) // 4
    # Whoever was ended knew whose the files are.
    kinto.records.clear()
    scripts.download(folder, "--full", "--delete")
    assert everything_in(folder) == {".last_sync"}


# Compression


def compressed(kinto, where, content=STORY, **changes):
    """Add a record whose file is compressed, as its attachment or the record itself tells."""
    original = {**described("story.txt", content), **changes}
    record = kinto.add("story.txt.gz", gzip.compress(content))
    (record["attachment"] if where == "attachment" else record)["original"] = original
    return record


@pytest.mark.parametrize("where", ["attachment", "record"])
def test_compressed_file_comes_as_its_original(kinto, get, folder, where):
    compressed(kinto, where)
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert (folder / "story.txt").read_bytes() == STORY
    assert actions(get("--full")) == {"unchanged": {"story.txt"}}
    assert everything_in(folder) == {"story.txt", ".last_sync"}


def test_broken_download_of_a_compressed_file_goes_on(kinto, get, folder):
    compressed(kinto, "record")
    kinto.files["stored-1"] = cut_off(kinto.files["stored-1"], after=20)
    get("--retry", 0, code=1)
    get()
    assert downloads(kinto) == [None, "bytes=20-"]
    assert (folder / "story.txt").read_bytes() == STORY


@pytest.mark.parametrize("where", ["attachment", "record"])
def test_decompression_ends_at_the_size_of_the_original(kinto, get, folder, where):
    bomb = b"\0" * (64 << 20)
    compressed(kinto, where, bomb, size=1000)
    message = failures(get(code=1))["story.txt"]
    assert message == "decompressed, it has more than its 1000 bytes"
    assert "story.txt" not in everything_in(folder)
    assert sum(p.stat().st_size for p in (folder / ".partial").iterdir()) < 1 << 20


def test_wrong_original_is_refused(kinto, get, folder):
    compressed(kinto, "record", hash="0" * 64)
    compressed(kinto, "record")
    kinto.records[1]["original"]["filename"] = "right.txt"
    assert "decompressed, its hash is" in failures(get(code=1))["story.txt"]
    # What was downloaded for it; nothing is left of what was decompressed, or of the other.
    [partial] = tree(folder / ".partial").values()
    assert partial == hashlib.sha256(kinto.files["stored-1"]).hexdigest()
    assert "story.txt" not in everything_in(folder)
    assert (folder / "right.txt").read_bytes() == STORY


@pytest.mark.parametrize(
    "content", [b"not gzip", gzip.compress(STORY)[:-10]], ids=["not gzip", "cut off"]
)
def test_what_cannot_be_decompressed_fails(kinto, get, content):
    kinto.add("story.txt.gz", content, original=described("story.txt", STORY))
    assert "cannot be decompressed" in failures(get(code=1))["story.txt"]


def test_original_of_a_previous_file_is_ignored(kinto, get, folder):
    kinto.add("photo.jpg", b"a photo")
    kinto.records[0]["original"] = described("story.txt", STORY)
    get()
    assert tree(folder).keys() == {"photo.jpg"}


def test_content_encoding_of_the_transfer_does_not_matter(kinto, get, folder):
    content = gzip.compress(STORY)
    headers = {"Content_Encoding": "gzip"}
    kinto.add("a.gz", content, served=lambda handler: handler.answer(200, content, **headers))
    get()
    assert (folder / "a.gz").read_bytes() == content


# With a real server


def test_who_is_not_allowed_is_told_so(server, folder, tmp_path):
    scripts = Scripts(server.url, bucket=uuid.uuid4().hex)
    scripts.upload(make_folder(tmp_path / "source", 2), "-r")
    lines = scripts.but(auth="bob:secret").download(folder, code=3)
    assert failures(lines) == {None: "403 Forbidden: This user cannot access this resource."}


def test_collection_in_pages_is_downloaded_whole(server, folder, tmp_path, monkeypatch, capsys):
    scripts = Scripts(server.url, bucket=uuid.uuid4().hex)
    source = make_folder(tmp_path / "source", 7)
    scripts.upload(source, "-r")
    monkeypatch.setattr("kinto_attachment.scripts.collection.PAGE_RECORDS", 2)
    assert download.main([*scripts.options, "--folder", str(folder)]) == 0
    assert tree(folder) == tree(source)
