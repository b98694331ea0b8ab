"""Downloads over connections that break."""

import contextlib
import json
import signal

import pytest

from tests.support.fake_kinto import (
    Stalled,
    cut_off,
    serve_range,
)
from tests.support.scripts import (
    STORY,
    Scripts,
    download_ranges,
    everything_in,
    failures,
    kill,
)


def test_interrupted_download_resumes_at_its_offset(kinto, get, folder):
    kinto.add("story.txt", STORY, served=cut_off(STORY, after=700))
    get()
    assert download_ranges(kinto) == [None, "bytes=700-"]
    assert (folder / "story.txt").read_bytes() == STORY


def test_interrupted_download_resumes_in_the_next_run(kinto, get, folder):
    kinto.add("story.txt", STORY, served=cut_off(STORY, after=700))
    get("--retry", 0, code=1)
    assert "story.txt" not in everything_in(folder)
    get()
    assert download_ranges(kinto) == [None, "bytes=700-"]
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


def test_another_range_than_requested_is_refused(kinto, get):
    first = cut_off(STORY, after=700)

    def serve(handler):
        if "Range" in handler.headers:
            handler.headers.replace_header("Range", "bytes=10-")
        first(handler)

    kinto.add("story.txt", STORY, served=serve)
    message = failures(get(code=1))["story.txt"]
    assert message == "the server sent another range than requested"


def test_wrong_partial_file_is_downloaded_again(kinto, get, folder):
    kinto.add("story.txt", STORY, served=cut_off(STORY, after=700))
    get("--retry", 0, code=1)
    [partial] = (folder / ".partial").iterdir()
    partial.write_bytes(b"x" * 700)
    get()
    assert download_ranges(kinto) == [None, "bytes=700-", None]
    assert (folder / "story.txt").read_bytes() == STORY


@pytest.mark.parametrize("size", [1700, 5000])
def test_partial_file_of_a_wrong_size_is_downloaded_again(kinto, get, folder, size):
    kinto.add("story.txt", STORY, served=cut_off(STORY, after=700))
    get("--retry", 0, code=1)
    [partial] = (folder / ".partial").iterdir()
    partial.write_bytes(b"x" * size)
    get()
    assert (folder / "story.txt").read_bytes() == STORY


def test_file_that_became_shorter_than_its_partial_file_is_requested_again(kinto, get):
    kinto.add("story.txt", STORY, served=cut_off(STORY, after=700))
    get("--retry", 0, code=1)
    kinto.files["stored-1"] = b"short"
    message = failures(get("--retry", 1, code=1))["story.txt"]
    assert message == "the server sent less than the whole file"
    assert download_ranges(kinto) == [None, "bytes=700-", None]


def largest_in(folder):
    """Return the size of the largest file in a folder that changes meanwhile."""
    sizes = [0]
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return max(sizes)


@pytest.mark.external
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_download_of_an_ended_run_resumes_in_the_next_run(kinto, folder, how):
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
    assert int(download_ranges(kinto)[-1].strip("bytes=-")) > len(story) // 4
    # The ended run had recorded the files.
    kinto.records.clear()
    scripts.download(folder, "--full", "--delete")
    assert everything_in(folder) == {".last_sync"}


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


def test_retries_end_without_progress(kinto, get, folder):
    kinto.add("story.txt", STORY, served=breaking(STORY, 100, 0, 100, 0, 0, 0, 0))
    assert failures(get("--retry", 2, code=1)).keys() == {"story.txt"}
    # The third one makes the last progress: two retries follow.
    assert [path for _, path in kinto.seen].count("/files/stored-1") == 5


def test_bytes_that_are_sent_again_are_no_progress(kinto, get):
    kinto.add("story.txt", STORY, served=breaking(STORY, *[100] * 20, ranges=False))
    assert failures(get("--retry", 3, code=1)).keys() == {"story.txt"}
    assert [path for _, path in kinto.seen].count("/files/stored-1") == 4
