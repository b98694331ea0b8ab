"""Downloads with ``--delete``, and the journal that it relies on."""

import json

import pytest

from tests.support.fake_kinto import (
    described,
)
from tests.support.s3 import eventually
from tests.support.scripts import (
    STORY,
    actions,
    everything_in,
    failures,
    make_folder,
    saved_state,
    tree,
    write_journal,
)


def test_delete_removes_files_of_deleted_records(kinto, get, folder):
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


def test_delete_keeps_a_file_that_another_record_has_now(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    kinto.records[0] = {"id": "record-1", "last_modified": 5000, "deleted": True}
    kinto.add("a.txt", b"a new one")["last_modified"] = 6000
    assert actions(get("--delete")) == {"downloaded": {"a.txt"}}
    assert (folder / "a.txt").read_bytes() == b"a new one"


def test_delete_removes_obsolete_files_when_all_records_are_listed(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    kinto.records.clear()
    assert actions(get("--full", "--delete")) == {"deleted": {"a.txt"}}


def test_delete_keeps_a_file_that_was_there_before(kinto, get, folder):
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


def test_delete_keeps_a_file_that_was_changed(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    (folder / "a.txt").write_bytes(b"my own words")
    kinto.records.clear()
    lines = get("--full", "--delete")
    assert actions(lines) == {"warning": {"a.txt"}}
    assert "changed" in lines[0]["message"]
    assert (folder / "a.txt").read_bytes() == b"my own words"
    assert actions(get("--full", "--delete")) == {}


def test_previous_file_of_a_record_is_kept_until_the_new_one_is_complete(kinto, get, folder):
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


def test_delete_removes_the_downloads_of_a_failed_run(kinto, get, folder, monkeypatch):
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


def test_previous_file_is_known_if_a_run_was_killed_before_it_was_replaced(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    write_journal(folder, json.dumps(["record-1", "a.txt", "0" * 64]))
    kinto.records.clear()
    assert actions(get("--full", "--delete")) == {"deleted": {"a.txt"}}


@pytest.mark.parametrize("line", ["5", "[1]", '["a", "b"]', '["a", 5, "c"]', "[" * 100_000])
def test_invalid_journal_is_ignored(kinto, get, folder, line):
    kinto.add("a.txt", b"a")
    get()
    write_journal(folder, line)
    assert actions(get("--full")) == {"unchanged": {"a.txt"}}


def test_journal_without_a_state_is_removed(kinto, get, folder):
    kinto.add("a.txt", b"a")
    make_folder(folder, 0)
    (folder / "mine.txt").write_bytes(b"mine")
    write_journal(folder, json.dumps(["record-9", "mine.txt", tree(folder)["mine.txt"]]))
    assert actions(get("--delete")) == {"downloaded": {"a.txt"}}
    assert tree(folder).keys() == {"a.txt", "mine.txt"}


def test_delete_removes_a_downloaded_file_that_the_user_updated(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    kinto.records[0]["attachment"] |= described("a.txt", b"new")
    kinto.records[0]["last_modified"] = 5000
    (folder / "a.txt").write_bytes(b"new")
    assert actions(get()) == {"unchanged": {"a.txt"}}
    kinto.records.clear()
    assert actions(get("--full", "--delete")) == {"deleted": {"a.txt"}}


def test_folder_in_the_place_of_an_obsolete_file_is_kept(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    (folder / "a.txt").unlink()
    (folder / "a.txt").mkdir()
    kinto.records.clear()
    assert actions(get("--full", "--delete")) == {"warning": {"a.txt"}}
    assert actions(get("--full", "--delete")) == {}
    assert everything_in(folder) == {"a.txt", ".last_sync"}


def test_delete_removes_the_downloads_of_a_killed_run(kinto, get, folder):
    kinto.add("a.txt", b"a")
    kinto.add("b.txt", b"b")
    get()
    # The state was not saved any more, and two lines are incomplete.
    (folder / ".last_sync").write_text(saved_state(kinto))
    hashes = tree(folder)
    write_journal(
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


def test_folders_that_become_empty_are_deleted(kinto, get, folder):
    kinto.add("a.txt", b"a")
    kinto.records[0]["path"] = "x/y/a.txt"
    get()
    assert tree(folder).keys() == {"x/y/a.txt"}
    kinto.records[0] = {"id": "record-1", "last_modified": 5000, "deleted": True}
    get("--delete")
    assert everything_in(folder) == {".last_sync"}
