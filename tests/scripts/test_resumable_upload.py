"""Uploads of large files over connections that break."""

import base64
import contextlib
import hashlib
import json
import os
import signal
import threading
import time

import pytest
import requests

from kinto_attachment.console import Console
from kinto_attachment.scripts import upload
from tests.support.fake_kinto import FakeUploads, FlakyProxy
from tests.support.scripts import MIB, STORY, Scripts, failures, kill, make_large_file, tree


SIZE = 8 * MIB
ACKNOWLEDGED = 6 * MIB
"""More than a part on S3."""
NEXT = ACKNOWLEDGED // MIB + 1
"""The number of the request after the one that does not end."""
OPTIONS = ("--resume-above", 1, "--retry-after", 0, "--json")

IN_MEBIBYTES = """
import runpy, sys
from kinto_attachment.scripts import resumable
resumable.BODY_BYTES = 1 << 20
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Code that runs the script, and sends requests of one MiB each."""


everywhere = pytest.mark.parametrize(
    "server", ["local", "s3", "gcs"], indirect=True, scope="session"
)


class Line(FlakyProxy):
    """A line to a server, on which something happens once, when 6.5 of 8 MiB have passed."""

    def __init__(self, url, happen):
        super().__init__(url, self._close)
        self._happen = happen

    def _close(self, handler, number):
        handler.close_connection = True
        return False

    def passed(self, size):
        """Called with the number of bytes of a body that the server has."""
        if self._happen and size >= MIB // 2 and ACKNOWLEDGED in self.offsets():
            happen, self._happen = self._happen, None
            happen()

    def uploads(self, method):
        """Return the headers of the requests on uploads with this method."""
        return [
            headers
            for (seen, path), headers in zip(self.seen, self.headers, strict=True)
            if seen == method and "/attachment/uploads" in path
        ]

    def offsets(self):
        return [int(headers["Upload-Offset"]) for headers in self.uploads("PATCH")]


def cut():
    raise ConnectionAbortedError


class Stall:
    """What stops a body until it is released."""

    def __init__(self):
        self.reached = threading.Event()
        self.released = threading.Event()

    def __call__(self):
        self.reached.set()
        self.released.wait(60)


@pytest.fixture
def large(tmp_path):
    return make_large_file(tmp_path / "large.bin", SIZE)


def start(scripts, *args):
    return scripts.start("upload", *args, *OPTIONS, code=IN_MEBIBYTES)


def run(scripts, *args, code=0):
    """Return the lines of a run that ended with this code."""
    process = start(scripts, *args)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, output + errors
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def begin(server, scripts, large):
    """Begin an upload, kill the run in the middle, and return the line that it used."""
    with contextlib.ExitStack() as stack:

        def begin():
            stall = Stall()
            line = stack.enter_context(Line(server.url, stall))
            process = start(scripts.but(url=line.url), large)
            assert stall.reached.wait(60)
            kill(process)
            stall.released.set()
            return line

        yield begin


def attached(scripts):
    """Return the file of the record, as the server has it."""
    (record,) = scripts.records().values()
    return requests.get(record["attachment"]["location"], timeout=30).content


@everywhere
def test_a_large_file_goes_on_where_the_connection_broke(scripts, server, large):
    with Line(server.url, cut) as line:
        remote = scripts.but(url=line.url)
        run(remote, large)
        assert attached(remote) == large.read_bytes()
    assert len(line.uploads("POST")) == 1
    assert line.offsets()[NEXT] >= ACKNOWLEDGED


@everywhere
def test_the_next_run_goes_on_with_what_one_began(scripts, begin, large, state_folder):
    line = begin()
    assert len(list(state_folder.iterdir())) == 1
    run(scripts.but(url=line.url), large)
    assert len(line.uploads("POST")) == 1
    assert line.offsets()[NEXT] >= ACKNOWLEDGED
    assert attached(scripts) == large.read_bytes()
    assert list(state_folder.iterdir()) == []


def test_the_progress_continues_where_it_was(scripts, begin, large, monkeypatch):
    line = begin()
    advanced = []
    monkeypatch.setattr(Console, "advance", lambda self, count: advanced.append(count))
    upload.main([*map(str, [*scripts.but(url=line.url).options, large, *OPTIONS])])
    assert advanced[0] == line.offsets()[NEXT] >= ACKNOWLEDGED
    assert sum(advanced) == SIZE


@everywhere
def test_a_file_that_has_changed_is_sent_anew(scripts, begin, large):
    line = begin()
    make_large_file(large, SIZE, seed=2)
    run(scripts.but(url=line.url), large)
    # Of what was begun nothing is left to expire.
    assert len(line.uploads("DELETE")) == 1
    assert (len(line.uploads("POST")), line.offsets()[NEXT]) == (2, 0)
    assert attached(scripts) == large.read_bytes()


@everywhere
def test_an_upload_that_is_gone_begins_anew(scripts, begin, large):
    line = begin()
    (path,) = {path for method, path in line.seen if method == "PATCH"}
    headers = {"Tus-Resumable": "1.0.0"}
    requests.delete(line.origin + path, headers=headers, auth=scripts.auth, timeout=30)
    run(scripts.but(url=line.url), large)
    assert (len(line.uploads("POST")), line.offsets()[NEXT]) == (2, 0)
    assert attached(scripts) == large.read_bytes()


def test_a_file_that_changes_while_it_is_sent_is_not_attached(scripts, server, large):
    def change():
        with large.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"?")

    with Line(server.url, change) as line:
        lines = run(scripts.but(url=line.url), large, code=1)
    assert "Repr-Digest" in failures(lines)["large.bin"]
    assert scripts.records() == {}


def test_compressed_files_and_paths_resume_as_well(scripts, server, large, tmp_path):
    (tmp_path / "source" / "folder").mkdir(parents=True)
    large.rename(tmp_path / "source" / "folder" / "large.bin")
    with Line(server.url, cut) as line:
        remote = scripts.but(url=line.url)
        run(remote, tmp_path / "source", "-r", "--gzip")
        assert line.offsets()[NEXT] >= ACKNOWLEDGED
        remote.download(tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(tmp_path / "source")


# With a server that does what a test wants


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_bytes(STORY)
    return path


@pytest.fixture
def resume_to(upload_to, kinto):
    """Run the upload script in this process, and return the uploads of the fake server."""
    kinto.uploads = FakeUploads()

    def run(*args, **kwargs):
        upload_to("--resume-above", 0, "--retry-after", 0, *args, **kwargs)
        return kinto.uploads

    return run


def test_what_is_sent_describes_the_file(resume_to, kinto, story):
    assert resume_to(story).content == STORY
    (sent,) = [
        headers
        for (method, path), headers in zip(kinto.seen, kinto.headers, strict=True)
        if method == "POST" and path.endswith("/attachment/uploads")
    ]
    assert sent["Upload-Length"] == str(len(STORY))
    assert sent["Upload-Metadata"] == "filename c3RvcnkudHh0,filetype dGV4dC9wbGFpbg=="
    digest = base64.b64encode(hashlib.sha256(STORY).digest()).decode()
    assert sent["Repr-Digest"] == f"sha-256=:{digest}:"


def test_a_server_without_the_capability_gets_a_form(upload_to, kinto, story):
    upload_to(story, "--resume-above", 0)
    assert ("GET", "/v1/") in kinto.seen
    assert [path for method, path in kinto.seen if method == "POST"][0].endswith("/attachment")


def test_a_collection_without_resumable_uploads_gets_a_form(upload_to, kinto, story):
    kinto.uploads = lambda handler, body: handler.answer(404, {"message": "Not here."})
    upload_to(story, "--resume-above", 0)
    posted = [path for method, path in kinto.seen if method == "POST"]
    assert posted[0] == f"{posted[1]}/uploads"


def test_a_file_that_is_not_larger_is_sent_in_a_form(upload_to, kinto, tmp_path):
    kinto.uploads = FakeUploads()
    (tmp_path / "mebibyte.bin").write_bytes(bytes(MIB))
    upload_to(tmp_path / "mebibyte.bin", "--resume-above", 1)
    assert kinto.uploads.content is None
    assert ("GET", "/v1/") not in kinto.seen


def test_the_host_in_location_is_not_used(resume_to, kinto, story):
    kinto.uploads.location = "http://127.0.0.1:9/somewhere/else/1"
    assert resume_to(story).content == STORY


def test_large_files_are_sent_in_several_requests(resume_to, kinto, story, monkeypatch):
    monkeypatch.setattr("kinto_attachment.scripts.resumable.BODY_BYTES", 1000)
    uploads = resume_to(story)
    assert uploads.content == STORY
    assert uploads.patched == [0, 1000]


def refuse(status, times, accepted=0):
    """Return how a fake server answers so many times, having accepted some bytes."""
    left = [None] * times

    def patch(handler, body):
        if not left:
            return False
        left.pop()
        handler.server.uploads.content += body[:accepted]
        handler.answer(status, {"message": "Not now."})
        return True

    return patch


@pytest.mark.parametrize("status", [409, 423, 429, 500, 503])
def test_a_refusal_that_may_pass_is_retried_from_the_offset_of_the_server(
    resume_to, kinto, story, status
):
    kinto.uploads.patch = refuse(status, times=1, accepted=100)
    uploads = resume_to(story)
    assert uploads.content == STORY
    assert uploads.patched == [0, 100]
    assert [method for method, _ in kinto.seen].count("HEAD") == 1


def test_retries_count_from_the_last_progress(resume_to, kinto, story):
    kinto.uploads.patch = refuse(503, times=10, accepted=100)
    assert resume_to(story, "--retry", 1).content == STORY


def test_retries_end_without_progress(resume_to, kinto, story):
    kinto.uploads.patch = refuse(503, times=10)
    assert resume_to(story, "--retry", 2, code=1).patched == [0, 0, 0]


def test_another_refusal_is_not_retried(resume_to, kinto, story):
    kinto.uploads.patch = refuse(403, times=10)
    assert resume_to(story, code=3).patched == [0]


@pytest.mark.external
def test_the_next_run_goes_on_with_what_was_interrupted(resume_to, kinto, story):
    process = Scripts(kinto.url).start("upload", story, "--resume-above", 0)

    def interrupt(handler, body):
        kinto.uploads.content += body[:100]
        process.send_signal(signal.SIGINT)
        handler.answer(503, Retry_After=60)
        return True

    kinto.uploads.patch = interrupt
    assert process.wait(60) == 130
    kinto.uploads.patch = lambda handler, body: False
    assert resume_to(story).patched == [0, 100]
    assert kinto.uploads.content == STORY


def test_an_upload_that_the_server_loses_in_the_middle_begins_anew(resume_to, kinto, story):
    def lose(handler, body):
        handler.server.uploads.patch = lambda handler, body: False
        handler.server.uploads.content = None
        handler.answer(404)
        return True

    kinto.uploads.patch = lose
    uploads = resume_to(story)
    assert (uploads.content, uploads.patched) == (STORY, [0, 0])


def test_an_offset_that_no_server_can_have_is_a_failure(upload_to, kinto, story):
    def lie(handler, body):
        handler.answer(204, Upload_Offset=len(STORY) + 1)
        return True

    kinto.uploads = FakeUploads()
    kinto.uploads.patch = lie
    lines = upload_to("--resume-above", 0, story, code=1)
    assert "is not one of Kinto" in failures(lines)["story.txt"]


def test_an_upload_whose_last_answer_is_lost_is_not_sent_again(resume_to, kinto, story):
    kinto.uploads.patch = refuse(503, times=1, accepted=len(STORY))
    assert resume_to(story).patched == [0]


def test_a_folder_that_cannot_be_written_prevents_no_upload(resume_to, story, monkeypatch, caplog):
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    assert resume_to(story).content == STORY
    assert "Another run cannot go on" in caplog.text


@pytest.mark.parametrize("state", ["", "[]", "{}", "null", '{"path": 1'])
def test_a_state_that_cannot_be_read_is_ignored(resume_to, kinto, story, state_folder, state):
    kinto.uploads.patch = refuse(403, times=1)
    resume_to(story, code=3)
    (file,) = state_folder.iterdir()
    file.write_text(state)
    assert resume_to(story).content == STORY


def age(folder, name, days):
    """Have a file whose upload has expired so many days ago."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
    os.utime(folder / name, (time.time() - days * 86_400,) * 2)


def test_uploads_that_have_expired_are_forgotten(resume_to, kinto, story, state_folder):
    kinto.uploads.patch = refuse(403, times=1)
    for name, days in (("old.json", 1.1), ("killed.123", 2), ("late.json", 0.9), ("new.json", -1)):
        age(state_folder, name, days)
    resume_to(story, code=3)
    (own,) = {file.name for file in state_folder.iterdir()} - {"late.json", "new.json"}
    assert (state_folder / own).read_text() != "{}"


def test_an_upload_is_remembered_as_long_as_the_server_keeps_it(
    resume_to, kinto, story, state_folder, monkeypatch
):
    monkeypatch.setattr("kinto_attachment.scripts.resumable.BODY_BYTES", 1000)
    kinto.uploads.headers = {"Upload_Expires": "Thu, 31 Dec 2099 00:00:00 GMT"}

    def prolong(handler, body):
        kinto.uploads.headers = {"Upload_Expires": "Fri, 01 Jan 2100 00:00:00 GMT"}
        kinto.uploads.patch = refuse(403, times=1)
        return False

    kinto.uploads.patch = prolong
    resume_to(story, code=3)
    (file,) = state_folder.iterdir()
    assert file.stat().st_mtime == 4_102_444_800


@pytest.mark.parametrize("headers", [{}, {"Upload_Expires": "nonsense"}])
def test_an_upload_is_remembered_if_the_server_does_not_say_how_long(
    resume_to, kinto, story, state_folder, headers
):
    kinto.uploads.headers = headers
    kinto.uploads.patch = refuse(403, times=1)
    begun = time.time()
    resume_to(story, code=3)
    (file,) = state_folder.iterdir()
    assert begun + 29 * 86_400 < file.stat().st_mtime
