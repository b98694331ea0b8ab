"""The names of downloaded files, none of which escapes the folder."""

import json

import pytest

from tests.support.fake_kinto import (
    described,
    serve_range,
)
from tests.support.scripts import (
    actions,
    failures,
    make_folder,
    tree,
)


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


def test_two_records_can_swap_names(kinto, get, folder):
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


def test_names_that_differ_in_case_are_one_if_the_file_system_ignores_case(kinto, get, folder):
    kinto.add("story.txt", b"first")
    kinto.add("STORY.txt", b"second")
    # As if the file system ignored the case of the script's folder.
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
def test_no_name_escapes_the_folder(kinto, get, folder, tmp_path, name):
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
def test_no_path_escapes_the_folder(kinto, get, tmp_path, path):
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


def test_record_ids_are_never_paths(kinto, get, tmp_path):
    kinto.add("a.txt", b"first")
    kinto.add("a.txt", b"second")
    kinto.records[1]["id"] = "/../../../evil"
    assert len(failures(get(code=1))) == 1
    assert tree(tmp_path).keys() == {"copy/a.txt"}
