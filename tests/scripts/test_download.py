"""Downloads: which files are requested, and from where."""

import time
import uuid

import pytest

from kinto_attachment.scripts import download
from kinto_attachment.scripts.downloads import absolute_location
from tests.support.fake_kinto import (
    serve_range,
)
from tests.support.scripts import (
    STORY,
    Scripts,
    actions,
    download_ranges,
    everything_in,
    failures,
    make_folder,
    tree,
)


def test_file_that_is_up_to_date_is_not_downloaded(kinto, get, folder):
    kinto.add("story.txt", STORY)
    make_folder(folder, 0)
    (folder / "story.txt").write_bytes(STORY)
    assert actions(get()) == {"unchanged": {"story.txt"}}
    assert download_ranges(kinto) == []


def test_file_of_the_same_size_that_is_wrong_is_replaced(kinto, get, folder):
    kinto.add("story.txt", STORY)
    make_folder(folder, 0)
    (folder / "story.txt").write_bytes(STORY.upper())
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert (folder / "story.txt").read_bytes() == STORY


def test_only_changed_records_are_requested(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    kinto.add("b.txt", b"b")
    assert actions(get()) == {"downloaded": {"b.txt"}}
    assert get() == [{"action": "summary"}]
    assert everything_in(folder) == {"a.txt", "b.txt", ".last_sync"}


def test_failed_file_is_requested_again_and_earlier_ones_are_not(kinto, get, folder):
    kinto.add("a.txt", b"a")
    kinto.add("b.txt", b"b", served=b"B")
    kinto.add("c.txt", b"c")
    assert actions(get(code=1)) == {"downloaded": {"a.txt", "c.txt"}, "failed": {"b.txt"}}
    kinto.files["stored-2"] = b"b"
    assert actions(get()) == {"downloaded": {"b.txt"}, "unchanged": {"c.txt"}}
    assert tree(folder).keys() == {"a.txt", "b.txt", "c.txt"}


def test_full_restores_missing_files(kinto, get, folder):
    kinto.add("a.txt", b"a")
    get()
    (folder / "a.txt").unlink()
    assert actions(get()) == {}
    assert actions(get("--full")) == {"downloaded": {"a.txt"}}


def test_relative_locations_are_appended_to_the_base_url(kinto, get, folder):
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


def test_locations_with_the_path_of_the_base_url_are_relative_to_the_host(kinto, get):
    kinto.base_url = "/files/"
    kinto.add("a.txt", b"a", location="/files/stored-1")
    get()
    assert ("GET", "/files/stored-1") in kinto.seen


def test_credentials_are_for_kinto_only(kinto, get):
    kinto.add("a.txt", b"a")
    get()
    for (_, path), headers in zip(kinto.seen, kinto.headers, strict=True):
        assert ("Authorization" in headers) == path.startswith("/v1/")


def test_files_are_requested_without_an_encoding(kinto, get):
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
    assert len(download_ranges(kinto)) == 1


def test_refusal_of_the_server_has_an_exit_code_of_its_own(server, folder, tmp_path):
    scripts = Scripts(server.url, bucket=uuid.uuid4().hex)
    scripts.upload(make_folder(tmp_path / "source", 2), "-r")
    lines = scripts.but(auth="bob:secret").download(folder, code=3)
    assert failures(lines) == {None: "403 Forbidden: This user cannot access this resource."}


def test_all_pages_of_a_collection_are_downloaded(server, folder, tmp_path, monkeypatch, capsys):
    scripts = Scripts(server.url, bucket=uuid.uuid4().hex)
    source = make_folder(tmp_path / "source", 7)
    scripts.upload(source, "-r")
    monkeypatch.setattr("kinto_attachment.scripts.collection.PAGE_RECORDS", 2)
    assert download.main([*scripts.options, "--folder", str(folder)]) == 0
    assert tree(folder) == tree(source)
