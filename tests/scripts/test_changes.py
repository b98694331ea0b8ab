"""Changes on the server that a list of changed records does not show at once."""

import subprocess

import pytest
import requests

from tests.support.fake_kinto import (
    described,
)
from tests.support.paths import SCRIPTS
from tests.support.postgresql import postgresql_backends
from tests.support.scripts import (
    Scripts,
    actions,
    failures,
    make_folder,
    tree,
)


def add(kinto, name, content, time):
    """Add a record with a file of a name in a folder, changed at a time."""
    record = kinto.add(name.rpartition("/")[2], content)
    record.update(path=name, last_modified=time)


def files(folder):
    """Return what :func:`tree` returns, without incomplete files."""
    return {name: sha256 for name, sha256 in tree(folder).items() if ".partial/" not in name}


def delete(kinto, number, time):
    kinto.records[number] = {"id": f"record-{number + 1}", "last_modified": time, "deleted": True}


# Files and folders that replace one another


def write(folder, **contents):
    """Make a folder contain these files and nothing else; ``__`` in their names is a slash."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for name, content in contents.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize("options", [[], ["--gzip"]], ids=["plain", "compressed"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"x": "a", "y": "b"}, {"x__a": "a", "y": "b"}),
        ({"x__a": "a", "x__b__c": "b"}, {"x": "a"}),
        ({"x__a": "a", "y": "b"}, {"x": "a", "y__x__z": "b"}),
        ({"x__y": "a"}, {"x__y__z": "a", "x__a": "b"}),
    ],
    ids=["file", "folder", "both", "deep"],
)
def test_one_run_follows_files_and_folders_that_change_places(
    scripts, tmp_path, folder, before, after, options
):
    source = make_folder(tmp_path / "source", 0)
    write(source, **before)
    scripts.upload(source, "-r", *options)
    scripts.download(folder)
    write(source, **after)
    scripts.upload(source, "-r", "--delete", *options)
    scripts.download(folder, "--delete")
    assert tree(folder) == tree(source)
    assert scripts.download(folder, "--delete") == [{"action": "summary"}]


@pytest.mark.parametrize("deleted_at", [5000, 7000], ids=["before", "after"])
def test_order_of_the_changes_does_not_matter(kinto, get, folder, deleted_at):
    kinto.add("x", b"old")
    get()
    add(kinto, "x/a.txt", b"new", 6000)
    delete(kinto, 0, deleted_at)
    kinto.records.sort(key=lambda record: record["last_modified"])
    assert actions(get("--delete")) == {"downloaded": {"x/a.txt"}, "deleted": {"x"}}
    assert tree(folder).keys() == {"x/a.txt"}


def test_previous_file_of_a_record_may_obstruct_its_new_one(kinto, get, folder):
    kinto.add("x", b"old")
    get()
    kinto.records[0]["attachment"] |= described("x", b"new")
    kinto.records[0].update(path="x/x", last_modified=5000)
    kinto.files["stored-1"] = b"new"
    assert actions(get("--delete")) == {"downloaded": {"x/x"}, "deleted": {"x"}}


def test_obsolete_file_in_the_way_is_kept_until_the_new_one_is_complete(kinto, get, folder):
    kinto.add("x", b"old")
    get()
    add(kinto, "x/a.txt", b"new", 6000)
    kinto.files["stored-2"] = b"broken"
    kinto.records[0].update(last_modified=5000)
    kinto.records[0]["attachment"] |= described("y", b"moved")
    kinto.files["stored-1"] = b"broken as well"
    lines = get("--delete", code=1)
    assert actions(lines) == {"failed": {"y", "x/a.txt"}}
    assert (folder / "x").read_bytes() == b"old"
    kinto.files |= {"stored-1": b"moved", "stored-2": b"new"}
    assert actions(get("--delete"))["deleted"] == {"x"}
    assert tree(folder).keys() == {"x/a.txt", "y"}


def test_without_delete_no_file_is_removed_for_another_one(kinto, get, folder):
    kinto.add("x", b"old")
    get()
    add(kinto, "x/a.txt", b"new", 6000)
    delete(kinto, 0, 5000)
    assert failures(get(code=1)) == {"a.txt": "x is not a folder but a file or a link"}
    assert (folder / "x").read_bytes() == b"old"
    assert actions(get("--delete")) == {"downloaded": {"x/a.txt"}, "deleted": {"x"}}


def test_file_of_an_existing_record_is_not_removed_for_another_one(kinto, get, folder):
    kinto.add("x", b"old")
    get()
    add(kinto, "x/a.txt", b"new", 6000)
    message = "x is not a folder but a file or a link"
    assert failures(get("--delete", code=1)) == {"x/a.txt": message}
    assert (folder / "x").read_bytes() == b"old"


@pytest.mark.parametrize("what", ["changed", "another's", "linked"])
def test_file_that_the_script_did_not_download_is_not_removed_for_another_one(
    kinto, get, folder, tmp_path, what
):
    add(kinto, "x/a.txt", b"old", 1000)
    get()
    outside = make_folder(tmp_path / "outside", 0)
    if what == "changed":
        (folder / "x" / "a.txt").write_bytes(b"my words")
    elif what == "another's":
        (folder / "x" / "mine.txt").write_bytes(b"my words")
    else:
        (outside / "a.txt").write_bytes(b"old")
        (folder / "x" / "a.txt").unlink()
        (folder / "x").rmdir()
        (folder / "x").symlink_to(outside)
    delete(kinto, 0, 5000)
    kinto.add("x", b"new")["last_modified"] = 6000
    before = files(folder) | tree(outside)
    message = "a folder or a link has its name"
    assert failures(get("--delete", code=1)) == {"x": message}
    before.pop("x/a.txt" if what == "another's" else None, None)
    assert files(folder) | tree(outside) == before


# Deletions that the server does not report


def test_delete_notices_deletions_that_the_server_has_forgotten(kinto, get, folder):
    for name in ("a.txt", "b.txt", "c.txt"):
        kinto.add(name, name.encode())
    get()
    del kinto.records[0]
    kinto.records.append({"id": "record-9", "last_modified": 9000, "attachment": None})
    assert actions(get()) == {}
    assert tree(folder).keys() == {"a.txt", "b.txt", "c.txt"}
    lines = get("--delete")
    message = "the server did not report all deletions: all records are listed"
    assert lines[0]["message"] == message
    assert actions(lines)["deleted"] == {"a.txt"}
    assert tree(folder).keys() == {"b.txt", "c.txt"}
    assert get("--delete") == [{"action": "summary"}]


def test_delete_lists_only_changes_if_no_deletion_is_missing(kinto, get):
    kinto.add("a.txt", b"a")
    kinto.add("b.txt", b"b")
    get()
    delete(kinto, 0, 5000)
    kinto.add("c.txt", b"c")["last_modified"] = 6000
    assert actions(get("--delete")) == {"downloaded": {"c.txt"}, "deleted": {"a.txt"}}
    listed = [path for method, path in kinto.seen if path.endswith("/records")]
    assert len(listed) == 3  # The first run, the changes, and the count.


def test_forgotten_deletions_are_noticed_beside_files_that_fail(kinto, get, folder):
    kinto.add("a.txt", b"a")
    kinto.add("b.txt", b"b")
    kinto.add("c.txt", b"c", served=b"broken")
    kinto.add("d\n.txt", b"d")
    get(code=1)
    assert "warning" not in actions(get("--delete", code=1))
    del kinto.records[0]
    assert actions(get("--delete", code=1))["deleted"] == {"a.txt"}
    assert files(folder).keys() == {"b.txt"}


def test_obstructed_file_is_counted(kinto, get):
    kinto.add("x", b"old")
    get()
    add(kinto, "x/a.txt", b"new", 6000)
    delete(kinto, 0, 5000)
    assert "warning" not in actions(get("--delete"))


@pytest.mark.parametrize("answer", [{}, {"Total_Objects": "many"}, {"Total_Records": "1"}])
def test_server_that_does_not_report_the_count_is_accepted(kinto, get, monkeypatch, answer):
    def count(handler):
        handler.note()
        handler.answer(200 if answer else 405, **answer)

    monkeypatch.setattr(kinto.RequestHandlerClass, "do_HEAD", count)
    kinto.add("a.txt", b"a")
    get()
    assert get("--delete") == [{"action": "summary"}]
    assert kinto.seen[-1][0] == "HEAD"


def test_all_records_are_listed_if_the_collection_is_older_than_the_last_run(kinto, get, folder):
    kinto.add("a.txt", b"a")["last_modified"] = 9000
    get()
    # As from a backup.
    kinto.records.clear()
    kinto.add("b.txt", b"b")
    lines = get()
    assert "is older than it was at the last run" in lines[0]["message"]
    assert actions(lines)["downloaded"] == {"b.txt"}
    assert actions(get("--delete")) == {"deleted": {"a.txt"}}


def test_collection_that_was_deleted_and_recreated_is_followed(scripts, tmp_path, folder):
    source = make_folder(tmp_path / "source", 5)
    scripts.upload(source, "-r")
    scripts.download(folder)
    assert requests.delete(scripts.collection, auth=scripts.auth).ok
    for number in (0, 1):
        (source / f"file {number}.bin").unlink()
    make_folder(source / "new", 1)
    scripts.upload(source, "-r")
    lines = scripts.download(folder, "--delete")
    assert actions(lines)["deleted"] == {"file 0.bin", "file 1.bin"}
    assert tree(folder) == tree(source)
    # Records without files do not count, nor do those that lost theirs.
    url = f"{scripts.collection}/records"
    record = scripts.records()["file 2.bin"]
    requests.post(url, json={"data": {"no": "file"}}, auth=scripts.auth)
    assert requests.delete(f"{url}/{record['id']}/attachment", auth=scripts.auth).ok
    assert actions(scripts.download(folder, "--delete")) == {"deleted": {"file 2.bin"}}
    assert scripts.download(folder, "--delete") == [{"action": "summary"}]


def test_tombstones_that_were_purged_are_noticed(postgresql, serve, tmp_path, folder):
    settings = postgresql_backends(postgresql())
    server = serve(
        **{name.removeprefix("kinto."): value for name, value in settings.items()},
        attachment__serve_files="true",
        attachment__extensions="any",
    )
    scripts = Scripts(server.url)
    source = make_folder(tmp_path / "source", 3)
    scripts.upload(source, "-r")
    scripts.download(folder)
    (source / "file 0.bin").unlink()
    scripts.upload(source, "-r", "--delete")
    purge = [SCRIPTS / "kinto", "purge-deleted", "--ini", server.ini, "record", "0"]
    subprocess.run(purge, check=True, capture_output=True)
    assert actions(scripts.download(folder, "--delete"))["deleted"] == {"file 0.bin"}
    assert tree(folder) == tree(source)
    assert scripts.download(folder, "--delete") == [{"action": "summary"}]
