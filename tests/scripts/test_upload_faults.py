"""Uploads of large files, and to servers that fail."""

import errno
import json
import os
import signal
import threading

import pytest

from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.form import Form
from tests.support.fake_kinto import (
    FakeKinto,
    FlakyProxy,
    described,
    every_third_request,
    stored_as_sent,
)
from tests.support.scripts import (
    MIB,
    Scripts,
    failures,
    kill,
    make_large_file,
    tree,
)


def test_memory_does_not_depend_on_the_size_of_the_file(scripts, tmp_path):
    large = make_large_file(tmp_path / "large.bin", 64 * MIB)
    (tmp_path / "small.bin").write_bytes(b"small")
    for options in ([], ["--gzip", "--force"]):
        small_peak = scripts.peak_memory("upload", tmp_path / "small.bin", *options)
        large_peak = scripts.peak_memory("upload", large, *options)
        assert large_peak < small_peak + 8 * MIB
        copy = tmp_path / f"copy{len(options)}"
        assert scripts.peak_memory("download", "--folder", copy) < small_peak + 8 * MIB
        assert tree(copy)["large.bin"] == tree(tmp_path)["large.bin"]


def test_refusal_of_a_large_file_is_read(serve, tmp_path):
    scripts = Scripts(serve(attachment__extensions="images").url)
    large = make_large_file(tmp_path / "large.bin", 64 * MIB)
    lines = scripts.upload(large, "--retry", 0, code=1)
    message = "400 Bad Request: body: File extension is not allowed."
    assert failures(lines) == {"large.bin": message}


def test_all_files_reach_a_server_that_fails_every_third_request(scripts, server, source, tmp_path):
    with FlakyProxy(server.url, every_third_request) as proxy:
        scripts = scripts.but(url=proxy.url)
        make_large_file(source / "large.bin", 4 * MIB)
        options = ["--retry-after", 0]
        scripts.upload(source, "-r", *options)
        scripts.download(tmp_path / "copy", *options)
    assert tree(tmp_path / "copy") == tree(source)


@pytest.mark.parametrize(
    ("retry_after", "options", "seconds"),
    [
        (None, [], 0.5),
        ("0", [], 0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", [], 0),
        ("soon", [], 0.5),
        ("9" * 5000, [], 0.5),
        ("1000", ["--retry-after", "0"], 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_delay_before_a_retry_is_the_servers_unless_an_option_sets_it(
    upload_to, kinto, tmp_path, caplog, status, retry_after, options, seconds
):
    answers = iter([status])

    def busy_at_first(handler, body):
        if next(answers, None):
            headers = {"Retry_After": retry_after} if retry_after else {}
            handler.answer(status, {"message": "Busy."}, **headers)
        else:
            stored_as_sent(handler, body)

    kinto.post = busy_at_first
    (tmp_path / "a.txt").write_bytes(b"a")
    with caplog.at_level("INFO", "kinto_attachment.scripts"):
        upload_to(tmp_path / "a.txt", *options)
    assert caplog.messages == [f"Trying again in {seconds} s: {status}"]


def test_retries_are_limited(upload_to, kinto, tmp_path):
    kinto.post = lambda handler, body: handler.answer(503, {"message": "Busy."})
    (tmp_path / "a.txt").write_bytes(b"a")
    lines = upload_to(tmp_path / "a.txt", "--retry", 2, "--retry-after", 0, code=1)
    assert failures(lines) == {"a.txt": "503 Service Unavailable: Busy."}
    assert [method for method, _ in kinto.seen].count("POST") == 3


@pytest.mark.external
def test_missing_server_is_a_failure(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    scripts = Scripts("http://127.0.0.1:9/v1")
    lines = scripts.upload(tmp_path / "a.txt", "--retry", 0, code=1)
    assert "Connection refused" in failures(lines)[None]


def test_one_file_fails_and_the_others_are_sent(serve, tmp_path):
    scripts = Scripts(serve(attachment__extensions="txt").url)
    for name in ("a.txt", "b.exe", "c.txt"):
        (tmp_path / name).write_bytes(b"content")
    os.mkfifo(tmp_path / "pipe")
    lines = scripts.upload(
        *(tmp_path / name for name in ("a.txt", "b.exe", "pipe", "missing", "c.txt")), code=1
    )
    assert failures(lines) == {
        "b.exe": "400 Bad Request: body: File extension is not allowed.",
        "pipe": "is not a file",
        "missing": "does not exist",
    }
    assert scripts.records().keys() == {"a.txt", "c.txt"}


def test_name_that_is_not_utf8_fails(upload_to, tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9"
    with open(path, "wb"):
        pass
    lines = upload_to(os.fsdecode(path), code=1)
    assert list(failures(lines).values()) == ["its name is not UTF-8"]


def test_server_that_stores_something_else_is_reported(upload_to, kinto, tmp_path):
    kinto.post = lambda handler, body: handler.answer(201, described("a.txt", b"b"))
    (tmp_path / "a.txt").write_bytes(b"a")
    assert "something else" in failures(upload_to(tmp_path / "a.txt", code=1))["a.txt"]


@pytest.mark.parametrize("size", [10, 1000])
def test_file_that_changes_while_it_is_sent_is_not_stored(tmp_path, size):
    (tmp_path / "a.txt").write_bytes(b"a" * 100)
    with (tmp_path / "a.txt").open("rb") as source:
        form = Form(source, "a.txt", None, {}, lambda size: None)
        (tmp_path / "a.txt").write_bytes(b"a" * size)
        with pytest.raises(Failure, match="changed while it was sent"):
            list(form)


def test_disk_that_cannot_be_read_is_not_retried(tmp_path):
    class Source:
        def seek(self, *args):
            return 100

        def read(self, size):
            raise OSError(errno.EIO, "Input/output error")

    form = Form(Source(), "a.txt", None, {}, lambda size: None)
    with pytest.raises(Failure, match="Input/output error"):
        list(form)


def test_next_page_is_requested_from_the_same_server(upload_to, kinto, tmp_path):
    with FakeKinto() as other:
        kinto.add("a.txt")
        kinto.next_page = f"{other.url}/buckets/blog/collections/photos/records?_since=9999"
        (tmp_path / "a.txt").write_bytes(b"a")
        upload_to(tmp_path / "a.txt")
        assert other.seen == []
    assert [path for method, path in kinto.seen if method == "GET"] == [
        "/v1/buckets/blog/collections/photos/records"
    ] * 2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_upload_of_an_ended_run_leaves_nothing_and_can_be_repeated(
    scripts, server, source, tmp_path, how
):
    large = make_large_file(source / "large.bin", 8 * MIB)
    reached = threading.Event()
    released = threading.Event()

    def stall(size):
        if size > MIB:
            reached.set()
            released.wait(60)

    with FlakyProxy(server.url, lambda handler, number: False) as proxy:
        proxy.passed = stall
        process = scripts.but(url=proxy.url).start("upload", "--json", large)
        assert reached.wait(60)
        output, errors, code = kill(process, how)
        released.set()
    if how == signal.SIGINT:
        assert code == 130
        assert json.loads(output.splitlines()[0])["action"] == "interrupted"
    assert scripts.records() == {}
    scripts.upload(source, "-r")
    scripts.download(tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(source)
