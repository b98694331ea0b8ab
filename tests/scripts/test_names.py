"""The names of files, on a round trip to a server."""

import os

import pytest
import requests

from kinto_attachment.scripts import names
from tests.support.scripts import (
    actions,
    failures,
    tree,
)


NAMES = [
    " leading space",
    "trailing space ",
    " ",
    "  two spaces  ",
    "\u00a0no-break space\u00a0",
    "\u3000ideographic space",
    "line separator\u2028",
    "back\\slash",
    "back\\",
    "..\\up",
    "C:\\Windows\\notes.txt",
    "\\\\server\\share.txt",
    "C:notes.txt",
    "literal %22.txt",
    "literal %0A.txt",
    "literal %0D%0A.txt",
    "literal %0a %5C %2F %00.txt",
    "100%",
    "%%",
    "tab\tin.txt",
    "\ttab at the start",
    "line\nfeed.txt",
    "feed at the end\n",
    "carriage\rreturn.txt",
    "both\r\n\r\nof them.txt",
    "bell\a.txt",
    "\x1b[2Jescape.txt",
    "\x7f",
    "c1 \x85 \x9b31m.txt",
    "override \u202egnp.exe",
    "embed \u202a\u202b\u202c.txt",
    "isolate \u2066\u2067\u2068\u2069.txt",
    "marks \u200e\u200f\u061c.txt",
    "zero\u200bwidth\u200d\u2060.txt",
    "\ufeffbyte order mark",
    "👩\u200d👩\u200d👧.txt",
    "caf\u00e9.txt",
    "cafe\u0301.txt",
    "ﬁ Å ſ.txt",
    "שלום.txt",
    "\ufffd\ufffe.txt",
    'double "quotes".txt',
    "single 'quotes'.txt",
    "a;b=c; filename=d",
    "a=?utf-8?q?b?=",
    "a&b+c#d?e",
    "<*|:>.txt",
    "$HOME `id` !x",
    "-rf",
    "--delete",
    "...",
    "..a",
    ".hidden",
    "a.",
    "a..",
    "a.tar.gz",
    "CON",
    "x" * 255,
    "é" * 127,
    "null",
    "a_b",
    "a\tb",
    "__proto__",
]
FOLDERS = ["odd\tfolder ", " \u202e", "%22", "a\\b", "....", "x\ny"]


@pytest.fixture
def source(tmp_path):
    """A folder with a file of each name, and folders of some of them."""
    folder = tmp_path / "source"
    for parent in ("", *FOLDERS, "/".join(FOLDERS)):
        (folder / parent).mkdir(parents=True, exist_ok=True)
        (folder / parent / f"in{parent[:1]}side").write_bytes(os.fsencode(parent))
    for name in NAMES:
        (folder / name).write_bytes(os.fsencode(name))
    for name in NAMES[::6]:
        (folder / "odd\tfolder " / name).write_bytes(b"odd " + os.fsencode(name))
    return folder


@pytest.mark.parametrize("options", [[], ["--gzip"]], ids=["plain", "compressed"])
def test_names_of_all_kinds_survive_a_round_trip(scripts, source, folder, options):
    before = tree(source)
    assert len(before) == len(NAMES) + len(NAMES[::6]) + len(FOLDERS) + 2
    assert actions(scripts.upload(source, "-r", *options)) == {"uploaded": set(before)}
    assert actions(scripts.download(folder)) == {"downloaded": set(before)}
    assert tree(folder) == before

    # The scripts recognise the same files.
    assert actions(scripts.upload(source, "-r", *options)) == {"unchanged": set(before)}
    assert actions(scripts.download(folder, "--full")) == {"unchanged": set(before)}

    odd = set(NAMES) | {f"odd\tfolder /{name}" for name in NAMES[::6]}
    for name in odd:
        (source / name).unlink()
    assert actions(scripts.upload(source, "-r", "--delete", *options))["deleted"] == odd
    assert actions(scripts.download(folder, "--delete")) == {"deleted": odd}
    assert tree(folder) == tree(source)


def test_names_that_servers_keep_are_sent_unchanged(scripts, tmp_path):
    for name in ('double "quotes".txt', "naïve ☃ %.txt", "a_b"):
        (tmp_path / name).write_bytes(b"a")
        scripts.upload(tmp_path / name)
        record = scripts.records()[name]
        assert "path" not in record
        assert record["attachment"]["filename"] == name


def test_other_names_are_sent_in_the_record(scripts, tmp_path):
    (tmp_path / " a\t%22.txt").write_bytes(b"a")
    scripts.upload(tmp_path / " a\t%22.txt")
    record = scripts.records()[" a\t%22.txt"]
    assert record["path"] == " a\t%22.txt"
    assert record["attachment"]["filename"] == "_a__22.txt"
    assert record["attachment"]["mimetype"] == "text/plain"


def test_missing_name_of_a_file_is_added_to_its_record(scripts, tmp_path):
    (tmp_path / "a\tb").write_bytes(b"a")
    scripts.upload(tmp_path / "a\tb")
    url = f"{scripts.collection}/records/{names.record_id(chr(9).join('ab'))}"
    requests.patch(url, json={"data": {"path": None}}, auth=scripts.auth)
    assert actions(scripts.upload(tmp_path / "a\tb")) == {"uploaded": {"a\tb"}}
    assert actions(scripts.upload(tmp_path / "a\tb")) == {"unchanged": {"a\tb"}}


def test_file_that_another_client_attached_has_its_own_name(scripts, tmp_path, folder):
    (tmp_path / "a\tb").write_bytes(b"a")
    scripts.upload(tmp_path / "a\tb")
    url = f"{scripts.collection}/records/{names.record_id(chr(9).join('ab'))}/attachment"
    requests.post(url, files={"attachment": ("c", b"c")}, auth=scripts.auth)
    scripts.download(folder)
    assert tree(folder).keys() == {"c"}


@pytest.mark.parametrize(
    ("path", "filename"),
    [
        ("..", ".."),
        ("..\\..\\evil.txt", ".._.._evil.txt"),
        ("\t/../../evil\t.txt", "evil_.txt"),
        ("\\/\\..\\/..", ".."),
        ("a\t\0.txt", "a__.txt"),
        ("/\tevil.txt", "_evil.txt"),
        ("\t/", ""),
        (".partial/\tevil.txt", "_evil.txt"),
        ("\ud800\t", "\ud800_"),
    ],
)
def test_odd_path_never_escapes_the_folder(kinto, get, tmp_path, folder, path, filename):
    kinto.add(filename, b"evil")
    kinto.records[0]["path"] = path
    outside = set(tmp_path.iterdir())
    if path == "..\\..\\evil.txt":
        # A filename like any other here.
        assert actions(get()) == {"downloaded": {path}}
        assert tree(folder).keys() == {path}
    else:
        assert len(failures(get(code=1))) == 1
        assert tree(folder) == {}
    assert set(tmp_path.iterdir()) == outside | {folder}


def test_odd_folder_that_is_a_link_is_not_followed(kinto, get, tmp_path, folder):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder.mkdir()
    (folder / "odd\t").symlink_to(outside)
    kinto.add("_evil.txt", b"evil")
    kinto.records[0]["path"] = "odd\t/\tevil.txt"
    assert failures(get(code=1)) == {"_evil.txt": "odd\t is not a folder but a file or a link"}
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["a\\b", "a:b", "nul\x1f", 'a"b', "a ", "a.", "a*", "a?", "<"])
def test_names_that_are_not_plain_on_windows_are_refused_there(monkeypatch, name):
    names.check_part(name)
    monkeypatch.setattr(names.os, "name", "nt")
    with pytest.raises(names.Failure, match="a file in the folder cannot have"):
        names.check_part(name)
