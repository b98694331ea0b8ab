"""The page to try attachments, with large files over a line that breaks."""

import hashlib
import json
import os
import re
from functools import partial

import pytest
import requests
from playwright.sync_api import expect

from tests.support.lines import Line
from tests.support.playground import RECORD_PROGRESS, Playground
from tests.support.s3 import eventually
from tests.support.servers import TryOutServer, assert_eventually, files_in
from tests.support.users import basic_auth


INCLUDES = "kinto.plugins.default_bucket kinto_attachment kinto_attachment.playground"
CHUNK = 8 << 20
SIZE = 25_000_000
PERCENT = re.compile(r"^\d+ %$")


@pytest.fixture
def line(try_out):
    with Line(try_out.url) as line:
        yield line


@pytest.fixture
def film(tmp_path):
    film = tmp_path / "film.mp4"
    film.write_bytes(os.urandom(SIZE))
    return film


@pytest.fixture
def start(tmp_path):
    """Start a server of its own with these settings."""
    servers = []

    def start(**settings):
        servers.append(TryOutServer(tmp_path / "server", **settings))
        return servers[-1].wait_until_ready()

    yield start
    for server in servers:
        server.stop()


class Uploading:
    """A large file that is uploaded on the page.

    :ivar requests: those on resumable uploads, as ``(method, offset)``.
    """

    def __init__(self, page, server, line, film):
        self.requests = []
        page.on("request", self._note)
        self.playground = Playground(page, server, line.url)
        self.page = page
        self.server = server
        self.film = film
        self.state = page.locator("#uploads .state")

    def _note(self, request):
        if "/attachment/uploads" in request.url:
            offset = request.headers.get("upload-offset")
            self.requests.append((request.method, offset and int(offset)))

    def wait_for_requests(self, expected, begin=0):
        """Wait until these were the next ones."""
        end = begin + len(expected)

        def requests_by_now():
            # The page's events arrive while Playwright waits.
            self.page.wait_for_timeout(20)
            return self.requests[begin:end]

        assert_eventually(requests_by_now, expected)

    def choose(self):
        self.page.locator("#files").set_input_files(self.film)

    def press(self, verb):
        self.page.get_by_role("button", name=f"{verb} the upload of film.mp4").click()

    def assert_attached(self, *others):
        """Check that the file has arrived as it is, once, and that nothing else is left."""
        content = self.film.read_bytes()
        card = self.playground.card("film.mp4")
        expect(card.locator(".hash")).to_have_text(hashlib.sha256(content).hexdigest())
        expect(self.page.locator("#uploads li")).to_have_count(0)
        self.playground.assert_stored(sorted([content, *others]))
        self.assert_nothing_left()

    def assert_nothing_left(self):
        assert_eventually(partial(files_in, self.server.files / ".uploads"), [])
        assert files_in(self.server.files / ".staging") == []
        assert self.page.evaluate("Object.keys(localStorage)") == []


@pytest.fixture
def uploading(page, try_out, line, film):
    return Uploading(page, try_out, line, film)


def test_a_large_file_survives_a_broken_line_a_pause_and_a_reload(uploading, line, screenshot):
    page = uploading.page
    line.hold_after(CHUNK + 1_000_000)
    uploading.choose()
    line.wait_until_held()
    line.cut()
    expect(uploading.state).to_have_text(re.compile("^no connection: next try in 1 s$"))
    screenshot("playground-no-connection")
    line.mend()
    line.hold_after(2_000_000)
    expect(uploading.state).to_have_text(PERCENT)
    uploading.wait_for_requests([("POST", None), ("PATCH", 0), ("PATCH", CHUNK)])
    line.wait_until_held()

    uploading.press("Pause")
    expect(uploading.state).to_have_text(re.compile(r"^paused at \d+ %$"))
    screenshot("playground-paused")
    before = len(uploading.requests)
    page.evaluate(RECORD_PROGRESS)
    line.hold_after(CHUNK + 1_000_000)
    uploading.press("Resume")
    line.wait_until_held()
    uploading.wait_for_requests([("HEAD", None), ("PATCH", CHUNK)], before)
    assert min(page.evaluate("window.progress")) >= CHUNK / SIZE

    page.reload()
    uploading.playground.open(uploading.playground.collection)
    expect(uploading.state).to_have_text(
        "interrupted at 67 %: choose the same file again to continue"
    )
    screenshot("playground-interrupted")
    before = len(uploading.requests)
    uploading.choose()
    uploading.assert_attached()
    assert uploading.requests[before:] == [("HEAD", None), ("PATCH", 2 * CHUNK)]
    assert uploading.requests.count(("POST", None)) == 1


def test_a_large_file_reaches_a_bucket_over_a_broken_line(page, serve, bucket, film):
    # granian passes on what has arrived before the line breaks.
    server = serve("granian", includes=INCLUDES, **bucket.settings(extensions="any"))
    with Line(server.url) as line:
        uploading = Uploading(page, server, line, film)
        line.hold_after(6_000_000)
        uploading.choose()
        for more in (5_000_000, 5_000_000, 2 * SIZE):
            line.wait_until_held()
            line.cut()
            line.hold_after(more)
            line.mend()
        card = uploading.playground.card("film.mp4")
        expect(card).to_be_visible(timeout=30_000)
    content = film.read_bytes()
    expect(card.locator(".hash")).to_have_text(hashlib.sha256(content).hexdigest())
    assert eventually(lambda: list(bucket.files().values()) == [content])
    assert bucket.uploads() == []
    offsets = [offset for method, offset in uploading.requests if method == "PATCH"]
    assert offsets == sorted(offsets)
    assert any(offset % CHUNK for offset in offsets)
    uploading.playground.request("DELETE")
    assert eventually(lambda: bucket.keys() == [])


def test_a_paused_upload_lets_the_next_one_pass(uploading, line, tmp_path):
    small = tmp_path / "small.txt"
    small.write_bytes(b"small")
    line.hold_after(CHUNK + 1_000_000)
    uploading.page.locator("#files").set_input_files([uploading.film, small])
    line.wait_until_held()
    uploading.press("Pause")
    expect(uploading.playground.card("small.txt")).to_be_visible()
    uploading.press("Resume")
    uploading.assert_attached(b"small")


def choose_in_place_of_another(uploading):
    """Replace the file of a record by the large one, and return the record before that."""
    uploading.playground.choose(("one.txt", b"one"))
    card = uploading.playground.card("one.txt")
    with uploading.page.expect_file_chooser() as chooser:
        card.get_by_role("button", name="Replace… (one.txt)").click()
    chooser.value.set_files(uploading.film)
    return uploading.playground.records()[0]


def test_a_large_file_replaces_another(uploading):
    before = choose_in_place_of_another(uploading)
    uploading.assert_attached()
    (record,) = uploading.playground.records()
    assert record["id"] == before["id"]


def test_what_was_changed_during_an_upload_is_not_replaced(uploading, line):
    line.hold_after(CHUNK + 1_000_000)
    record = choose_in_place_of_another(uploading)
    line.wait_until_held()
    changes = {"data": {"title": "changed"}}
    uploading.playground.request("PATCH", f"/{record['id']}", json=changes)
    line.cut()
    line.mend()
    expect(uploading.state).to_contain_text("The record was changed meanwhile.")
    uploading.playground.assert_stored([b"one"])
    uploading.assert_nothing_left()


def test_a_cancelled_upload_is_given_up_on_the_server_too(uploading, line):
    line.hold_after(CHUNK + 1_000_000)
    uploading.choose()
    line.wait_until_held()
    assert files_in(uploading.server.files / ".uploads") != []
    uploading.press("Cancel")
    expect(uploading.page.get_by_role("status")).to_have_text("The upload was cancelled.")
    expect(uploading.page.locator("#uploads li")).to_have_count(0)
    uploading.playground.assert_stored([])
    uploading.assert_nothing_left()
    assert uploading.playground.records() == []


def test_an_upload_that_cannot_continue_says_so_and_is_resumed_by_hand(page, try_out, line, film):
    page.clock.install()
    uploading = Uploading(page, try_out, line, film)
    line.hold_after(CHUNK + 1_000_000)
    uploading.choose()
    line.wait_until_held()
    line.cut()
    for seconds in (1, 1, 2, 4, 8, 15, 30):
        expect(uploading.state).to_have_text(f"no connection: next try in {seconds} s")
        page.clock.run_for(seconds * 1000)
    expect(uploading.state).to_contain_text("The server cannot be reached.")
    expect(uploading.state).to_have_attribute("role", "alert")
    line.mend()
    uploading.press("Resume")
    uploading.assert_attached()
    assert uploading.requests.count(("POST", None)) == 1


def test_a_connection_that_is_stalled_counts_as_broken(page, try_out, line, film):
    page.clock.install()
    uploading = Uploading(page, try_out, line, film)
    line.hold_after(CHUNK + 1_000_000)
    uploading.choose()
    line.wait_until_held()
    page.wait_for_timeout(500)
    page.clock.run_for(30_000)
    uploading.assert_attached()
    expected = ["POST", "PATCH", "PATCH", "HEAD", "PATCH", "PATCH"]
    assert [method for method, _ in uploading.requests] == expected


def interrupt(uploading, line):
    """Reload the page in the middle of the upload."""
    line.hold_after(CHUNK + 1_000_000)
    uploading.choose()
    line.wait_until_held()
    uploading.page.reload()
    uploading.playground.open(uploading.playground.collection)
    expect(uploading.state).to_contain_text("interrupted at 33 %")


def end_on_server(uploading):
    (remembered,) = uploading.page.evaluate("Object.values(localStorage)")
    headers = {"Authorization": basic_auth("alice"), "Tus-Resumable": "1.0.0"}
    url = json.loads(remembered)["url"]
    requests.delete(url, headers=headers, timeout=30).raise_for_status()


def test_the_file_is_begun_anew_if_the_server_has_forgotten_the_upload(uploading, line):
    interrupt(uploading, line)
    end_on_server(uploading)
    before = len(uploading.requests)
    uploading.choose()
    uploading.assert_attached()
    assert uploading.requests[before:][:3] == [("HEAD", None), ("POST", None), ("PATCH", 0)]


def test_an_interrupted_upload_is_cancelled(uploading, line):
    interrupt(uploading, line)
    uploading.press("Cancel")
    expect(uploading.page.get_by_role("status")).to_have_text("The upload was cancelled.")
    uploading.assert_nothing_left()


def test_interrupted_uploads_are_shown_in_their_collection_only(uploading, line):
    interrupt(uploading, line)
    items = uploading.page.locator("#uploads li")
    uploading.playground.open("elsewhere")
    expect(items).to_have_count(0)
    uploading.playground.open(uploading.playground.collection)
    expect(items).to_have_count(1)
    end_on_server(uploading)
    uploading.playground.open(uploading.playground.collection)
    expect(items).to_have_count(0)
    uploading.assert_nothing_left()


def test_a_server_without_resumable_uploads_gets_a_form(page, film, start):
    server = start(resumable="false")
    uploading = Uploading(page, server, server, film)
    uploading.choose()
    uploading.assert_attached()
    assert uploading.requests == []


def test_a_collection_without_resumable_uploads_gets_a_form(page, film, start):
    server = start(resumable="false")
    # As if other collections had them.
    capabilities = {"capabilities": {"attachments": {"resumable": ["tus-1.0.0"]}}}
    page.route("**/v1/", lambda route: route.fulfill(json=capabilities))
    uploading = Uploading(page, server, server, film)
    uploading.choose()
    uploading.assert_attached()
    assert uploading.requests == [("POST", None)]


def test_a_file_that_was_changed_meanwhile_is_not_continued(uploading, line):
    line.hold_after(CHUNK + 1_000_000)
    uploading.choose()
    line.wait_until_held()
    uploading.film.write_bytes(os.urandom(SIZE))
    line.cut()
    expect(uploading.state).to_have_text("The file was changed or removed: choose it again.")
