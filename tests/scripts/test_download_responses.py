"""Responses that a download script cannot trust."""

import hashlib

import pytest

from tests.support.fake_kinto import (
    FakeKinto,
)
from tests.support.scripts import (
    STORY,
    actions,
    everything_in,
    failures,
    make_folder,
)


def test_wrong_hash_is_refused_and_its_partial_file_removed(kinto, get, folder):
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


def test_endless_body_is_not_read_to_its_end(kinto, get, folder):
    kinto.add("story.txt", STORY, served=endless(200))
    message = failures(get(code=1))["story.txt"]
    assert message == "the server sends more than the 1700 bytes of the file"
    assert sum(path.stat().st_size for path in (folder / ".partial").iterdir()) == 0
    assert kinto.files


def test_endless_error_is_not_read_to_its_end(kinto, get):
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
def test_invalid_location_fails_for_its_file_only(kinto, get, location):
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


def test_attachment_that_is_not_an_object_fails(kinto, get):
    kinto.add("story.txt", STORY)
    kinto.records[0]["attachment"] = "story.txt"
    assert failures(get(code=1)).keys() == {"record-1"}


def test_file_that_the_server_lost_fails(kinto, get):
    kinto.add("story.txt", STORY)
    kinto.files.clear()
    assert failures(get(code=1)) == {"story.txt": "404 Not Found: No such file."}


@pytest.mark.parametrize("answer", [[], {}, {"data": {}}, {"data": [1]}, b"<html>", b"[" * 100_000])
def test_server_that_is_not_kinto_is_reported(kinto, get, monkeypatch, answer):
    etag = {"ETag": '"1"'}
    listing = "tests.support.fake_kinto._KintoHandler._list"
    monkeypatch.setattr(listing, lambda handler, query: handler.answer(200, answer, **etag))
    assert "is not" in failures(get(code=1))[None]


@pytest.mark.parametrize("base_url", [1, {"a": 1}, "http://[::1/"])
def test_invalid_base_url_is_reported(kinto, get, base_url):
    kinto.base_url = base_url
    kinto.add("story.txt", STORY)
    assert "is not one of Kinto" in failures(get(code=1))[None]


@pytest.mark.parametrize("capabilities", [[1], {"attachments": [1]}])
def test_url_of_a_server_without_a_base_url_is_the_base(kinto, get, monkeypatch, capabilities):
    answer = {"capabilities": capabilities}
    replaced = "tests.support.fake_kinto._KintoHandler.answer_capabilities"
    monkeypatch.setattr(replaced, lambda handler: handler.answer(200, answer))
    kinto.add("story.txt", STORY)
    assert actions(get()) == {"downloaded": {"story.txt"}}


def test_invalid_next_page_is_reported(kinto, get):
    kinto.add("story.txt", STORY)
    kinto.next_page = "http://[::1/"
    assert "is not one of Kinto" in failures(get(code=1))[None]


def test_state_that_cannot_be_saved_is_reported(kinto, get, folder):
    kinto.add("story.txt", STORY)
    (folder / ".partial" / "state").mkdir(parents=True)
    assert "state" in failures(get(code=1))[None]
    assert everything_in(folder) == {".partial", ".partial/state"}


def test_server_without_timestamps_is_reported(kinto, get, monkeypatch):
    monkeypatch.setattr(FakeKinto, "timestamp", "yesterday")
    assert "has no timestamp" in failures(get(code=1))[None]
