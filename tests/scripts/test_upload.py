import errno
import fcntl
import gzip
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import uuid
from importlib.metadata import entry_points

import pytest
import requests

from kinto_attachment.scripts import upload
from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.form import Form
from kinto_attachment.scripts.names import record_id
from tests.support.paths import SCRIPTS
from tests.support.scripts import (
    FakeKinto,
    FlakyProxy,
    Scripts,
    actions,
    described,
    every_third_request,
    failures,
    kill,
    make_folder,
    make_large_file,
    tree,
    without_modules,
)


MIB = 1 << 20


@pytest.fixture
def scripts(server):
    return Scripts(server.url, bucket=uuid.uuid4().hex)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "source", 5)


@pytest.fixture
def kinto():
    with FakeKinto() as server:
        server.post = stored_as_sent
        yield server


@pytest.fixture
def upload_to(kinto, capsys):
    """Run the script in this process on the fake server, and return the lines of JSON."""

    def run(*args, code=0, auth="alice:secret"):
        options = ["-s", kinto.url, "-a", auth, "-b", "blog", "-c", "photos", "--json"]
        assert upload.main([*options, *map(str, args)]) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def stored_as_sent(handler, body):
    """Answer with the attachment that a body of the upload script holds, as its last part."""
    boundary, _, rest = body.partition(b"\r\n")
    content = rest.rpartition(b"\r\n" + boundary + b"--")[0].rpartition(b"\r\n\r\n")[2]
    handler.answer(201, described("stored", content))


def names(folder):
    return {path.name for path in folder.iterdir()}


# What is sent


def test_folder_comes_back_as_it_was_and_is_not_sent_again(scripts, tmp_path):
    source = make_folder(tmp_path / "source", 200)
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "file 1.bin").write_bytes(b"another of this name")
    lines = scripts.upload(source, "--recursive")
    assert lines[-1] == {"action": "summary", "uploaded": 201}
    scripts.download(tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(source)
    assert actions(scripts.upload(source, "-r")).keys() == {"unchanged"}


def test_only_what_changed_is_sent(scripts, folder, tmp_path):
    scripts.upload(folder, "-r")
    scripts.download(tmp_path / "copy")
    # Of the same size, so that only the hash tells.
    content = (folder / "file 3.bin").read_bytes()
    (folder / "file 3.bin").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (folder / "new.txt").write_bytes(b"new")
    assert actions(scripts.upload(folder, "-r"))["uploaded"] == {"file 3.bin", "new.txt"}
    assert actions(scripts.download(tmp_path / "copy"))["downloaded"] == {"file 3.bin", "new.txt"}
    assert tree(tmp_path / "copy") == tree(folder)


def test_names_of_all_kinds_come_back(scripts, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ('a "quoted".txt', "100%25.txt", "naïve ☃.txt", ".hidden", "no extension", "a;b=c"):
        (folder / name).write_bytes(name.encode())
    (folder / "empty.txt").touch()
    scripts.upload(folder, "-r")
    scripts.download(tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(folder)


def test_record_id_is_the_uuid_of_the_md5_of_the_name(scripts, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"a photo")
    [line, _] = scripts.upload(tmp_path / "photo.jpg")
    # As md5sum tells it of the name.
    assert line["record"] == "72acded3-acd4-5e4c-8b6e-d680854b8ab1"
    record = requests.get(f"{scripts.collection}/records/{line['record']}", auth=scripts.auth)
    assert record.json()["data"]["attachment"]["filename"] == "photo.jpg"


def test_what_the_download_keeps_in_its_folder_is_not_sent(scripts, folder, tmp_path):
    scripts.upload(folder, "-r")
    scripts.download(tmp_path / "copy")
    make_folder(tmp_path / "copy" / ".partial", 2)
    assert actions(scripts.upload(tmp_path / "copy", "-r")) == {"unchanged": names(folder)}


def test_force_sends_what_did_not_change(scripts, folder):
    scripts.upload(folder, "-r")
    assert actions(scripts.upload(folder, "-r", "--force")) == {"uploaded": names(folder)}


def test_more_records_than_a_page_has_are_known(serve, folder):
    scripts = Scripts(serve(attachment__extensions="any", paginate_by=2).url)
    scripts.upload(folder, "-r")
    assert actions(scripts.upload(folder, "-r")) == {"unchanged": names(folder)}


def test_mimetype_is_that_of_the_name(scripts, tmp_path):
    for name in ("page.html", "archive.tar.gz", "what.isthis"):
        (tmp_path / name).write_bytes(b"content")
    scripts.upload(*tmp_path.glob("*.*"))
    mimetypes = {name: r["attachment"]["mimetype"] for name, r in scripts.records().items()}
    assert mimetypes == {
        "page.html": "text/html",
        "archive.tar.gz": "application/gzip",
        "what.isthis": "application/octet-stream",
    }


def test_keep_filenames_is_asked_of_the_server(upload_to, kinto, tmp_path):
    paths = []
    kinto.post = lambda handler, body: (paths.append(handler.path), stored_as_sent(handler, body))
    (tmp_path / "a.txt").write_bytes(b"a")
    upload_to(tmp_path / "a.txt")
    upload_to(tmp_path / "a.txt", "--keep-filenames")
    assert [path.partition("?")[2] for path in paths] == ["", "randomize=false"]


def test_bearer_tokens_are_sent(upload_to, kinto, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    upload_to(tmp_path / "a.txt", auth="Bearer To:ken")
    assert {headers["Authorization"] for headers in kinto.headers} == {"Bearer To:ken"}


# Compression


def test_gzip_describes_the_original_in_the_record(scripts, tmp_path):
    content = b"once upon a time " * 100_000
    (tmp_path / "story.txt").write_bytes(content)
    scripts.upload(tmp_path / "story.txt", "--gzip")
    record = scripts.records()["story.txt"]
    assert record["original"] == {**described("story.txt", content), "mimetype": "text/plain"}
    attachment = record["attachment"]
    stored = requests.get(attachment["location"]).content
    assert gzip.decompress(stored) == content
    location = {"location": attachment["location"], "mimetype": "application/x-gzip"}
    assert attachment == {**described("story.txt.gz", stored), **location}
    scripts.download(tmp_path / "copy")
    assert (tmp_path / "copy" / "story.txt").read_bytes() == content


def test_gzipped_files_are_not_sent_again(scripts, folder):
    scripts.upload(folder, "-r", "--gzip")
    assert actions(scripts.upload(folder, "-r", "--gzip")) == {"unchanged": names(folder)}
    assert actions(scripts.upload(folder, "-r")) == {"unchanged": names(folder)}


def test_equal_files_are_compressed_to_equal_bytes(scripts, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"once upon a time")
        os.utime(tmp_path / name, (ord(name), ord(name)))
    scripts.upload(tmp_path / "a", tmp_path / "b", "--gzip")
    records = scripts.records()
    assert records["a"]["attachment"]["hash"] == records["b"]["attachment"]["hash"]


def test_file_sent_as_it_is_after_a_gzipped_one_has_no_original(scripts, tmp_path):
    (tmp_path / "story.txt").write_bytes(b"once upon a time")
    scripts.upload(tmp_path / "story.txt", "--gzip")
    (tmp_path / "story.txt").write_bytes(b"the end")
    scripts.upload(tmp_path / "story.txt")
    assert scripts.records()["story.txt"]["original"] is None
    assert actions(scripts.upload(tmp_path / "story.txt")) == {"unchanged": {"story.txt"}}


def test_file_that_the_server_compressed_is_known_by_its_original(upload_to, kinto, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    record = kinto.add("a.txt.gz", gzip.compress(b"a"), original=described("a.txt", b"a"))
    record["id"] = record_id("a.txt")
    assert actions(upload_to(tmp_path / "a.txt")) == {"unchanged": {"a.txt"}}


# Deletion and dry runs


def test_delete_removes_the_records_of_files_that_are_gone(scripts, folder, tmp_path):
    scripts.upload(folder, "-r")
    scripts.download(tmp_path / "copy")
    (folder / "file 2.bin").unlink()
    assert "deleted" not in actions(scripts.upload(folder, "-r"))
    assert actions(scripts.upload(folder, "-r", "--delete"))["deleted"] == {"file 2.bin"}
    assert scripts.records().keys() == names(folder)
    assert actions(scripts.download(tmp_path / "copy", "--delete")) == {"deleted": {"file 2.bin"}}
    assert tree(tmp_path / "copy") == tree(folder)


def test_delete_leaves_the_records_of_others(scripts, folder):
    scripts.upload(folder, "-r")
    plain, other = f"{scripts.collection}/records/plain", f"{scripts.collection}/records/other"
    requests.put(plain, json={"data": {"no": "file"}}, auth=scripts.auth)
    requests.post(f"{other}/attachment", files={"attachment": ("a", b"a")}, auth=scripts.auth)
    assert actions(scripts.upload(folder, "-r", "--delete")).keys() == {"unchanged"}
    assert requests.get(plain, auth=scripts.auth).ok
    assert requests.get(other, auth=scripts.auth).ok


def test_nothing_is_deleted_when_files_cannot_be_found(scripts, folder):
    scripts.upload(folder, "-r")
    lines = scripts.upload(folder / "file 1.bin", folder / "typo.bin", "--delete", code=1)
    assert failures(lines) == {"typo.bin": "does not exist"}
    assert scripts.records().keys() == names(folder)


def test_nothing_is_deleted_when_a_file_cannot_be_sent(scripts, server, folder):
    def refuse(handler, number):
        if handler.command != "POST":
            return False
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.answer(400, {"message": "Not this one."})
        return True

    scripts.upload(folder, "-r")
    (folder / "file 1.bin").rename(folder / "file 9.bin")
    with FlakyProxy(server.url, refuse) as proxy:
        lines = scripts.but(url=proxy.url).upload(folder, "-r", "--delete", code=1)
    assert "deleted" not in actions(lines)
    assert "not all files could be sent" in lines[-2]["message"]
    assert "file 1.bin" in scripts.records()
    assert actions(scripts.upload(folder, "-r", "--delete"))["deleted"] == {"file 1.bin"}


def test_nothing_is_deleted_for_an_empty_folder(scripts, folder, tmp_path):
    scripts.upload(folder, "-r")
    (tmp_path / "not mounted").mkdir()
    lines = scripts.upload(tmp_path / "not mounted", "-r", "--delete")
    assert lines[0]["message"] == "nothing is deleted, since there are no files"
    assert scripts.records().keys() == names(folder)


def test_records_of_a_folder_that_became_a_link_stay(scripts, folder, tmp_path):
    make_folder(folder / "sub", 1, seed=2)
    scripts.upload(folder, "-r")
    (folder / "sub").rename(tmp_path / "elsewhere")
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    (folder / "file 1.bin").unlink()
    told = actions(scripts.upload(folder, "-r", "--delete"))
    assert told["deleted"] == {"file 1.bin"}
    assert told["warning"] == {"sub"}
    assert len(scripts.records()) == 5


def test_dry_run_tells_and_does_nothing(scripts, folder):
    missing = actions(scripts.upload(folder, "-r", "--dry-run"))
    assert missing == {"would upload": names(folder)}
    # Neither the bucket nor the collection was made. (So says Kinto.)
    assert requests.get(scripts.collection, auth=scripts.auth).status_code == 403
    scripts.upload(folder, "-r")
    before = scripts.records()
    (folder / "file 2.bin").write_bytes(b"changed")
    (folder / "file 3.bin").unlink()
    told = actions(scripts.upload(folder, "-r", "--delete", "--dry-run"))
    assert told["would upload"] == {"file 2.bin"}
    assert told["would delete"] == {"file 3.bin"}
    assert scripts.records() == before


# Size


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


# Faults


def test_server_that_fails_every_third_request_gets_all(scripts, server, folder, tmp_path):
    with FlakyProxy(server.url, every_third_request) as proxy:
        scripts = scripts.but(url=proxy.url)
        make_large_file(folder / "large.bin", 4 * MIB)
        options = ["--retry-after", 0]
        scripts.upload(folder, "-r", *options)
        scripts.download(tmp_path / "copy", *options)
    assert tree(tmp_path / "copy") == tree(folder)


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
def test_server_tells_when_to_try_again(
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


def test_there_are_so_many_retries_and_no_more(upload_to, kinto, tmp_path):
    kinto.post = lambda handler, body: handler.answer(503, {"message": "Busy."})
    (tmp_path / "a.txt").write_bytes(b"a")
    lines = upload_to(tmp_path / "a.txt", "--retry", 2, "--retry-after", 0, code=1)
    assert failures(lines) == {"a.txt": "503 Service Unavailable: Busy."}
    assert [method for method, _ in kinto.seen].count("POST") == 3


@pytest.mark.external
def test_no_server_is_a_failure(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    scripts = Scripts("http://127.0.0.1:9/v1")
    lines = scripts.upload(tmp_path / "a.txt", "--retry", 0, code=1)
    assert "Connection refused" in failures(lines)[None]


def test_one_file_fails_and_the_others_go_on(serve, tmp_path):
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


def test_server_that_stores_something_else_is_found_out(upload_to, kinto, tmp_path):
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


def test_disk_that_cannot_be_read_is_no_matter_of_retries(tmp_path):
    class Source:
        def seek(self, *args):
            return 100

        def read(self, size):
            raise OSError(errno.EIO, "Input/output error")

    form = Form(Source(), "a.txt", None, {}, lambda size: None)
    with pytest.raises(Failure, match="Input/output error"):
        list(form)


def test_next_page_is_asked_of_the_same_server(upload_to, kinto, tmp_path):
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
def test_upload_that_ended_in_the_middle_leaves_nothing_and_can_be_run_again(
    scripts, server, folder, tmp_path, how
):
    large = make_large_file(folder / "large.bin", 8 * MIB)
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
    scripts.upload(folder, "-r")
    scripts.download(tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(folder)


# Exit codes


def test_who_is_not_allowed_is_told_so(scripts, folder):
    scripts.upload(folder, "-r")
    bob = scripts.but(auth="bob:secret")
    lines = bob.upload(folder, "-r", code=3)
    assert failures(lines) == {None: "403 Forbidden: This user cannot access this resource."}
    lines = bob.upload(folder, "-r", "--auth", "Bearer unknown", code=3)
    message = "401 Unauthorized: Please authenticate yourself to use this endpoint."
    assert failures(lines) == {None: message}


def test_who_may_create_records_needs_no_more(scripts, folder):
    scripts.upload(folder / "file 1.bin")
    permissions = {"permissions": {"record:create": ["system.Authenticated"]}}
    requests.patch(scripts.collection, json=permissions, auth=scripts.auth)
    scripts.but(auth="bob:secret").upload(folder / "file 2.bin")
    assert scripts.records().keys() == {"file 1.bin", "file 2.bin"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-s", ""], "--server is required"),
        (["-s", "ftp://host/v1"], "--server should be a URL"),
        (["-s", "http:host/v1"], "--server should be a URL"),
        (["-s", "http://[::1/v1"], "--server should be a URL"),
        (["-b", ""], "--bucket is required"),
        (["-c", ""], "--collection is required"),
        (["--jobs", "0"], "--jobs"),
        (["--retry", "-1"], "cannot be negative"),
        (["--ignore-batch-4xx"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_told(upload_to, capsys, options, message):
    with pytest.raises(SystemExit) as exit:
        upload_to("a.txt", *options)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_who_reads_the_output_may_leave(scripts, folder):
    process = scripts.start("upload", folder, "-r")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 1


def test_output_that_cannot_be_written_is_told(scripts, folder):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            scripts.command("upload", folder, "-r"), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert {line.partition(":")[0] for line in done.stderr.splitlines()} <= {
        "the output cannot be written",
        "[Errno 28] No space left on device",
    }


def test_folder_without_recursive_is_wrong_usage(upload_to, capsys, folder):
    with pytest.raises(SystemExit) as exit:
        upload_to(folder)
    assert exit.value.code == 2
    assert "--recursive" in capsys.readouterr().err


def test_two_files_of_one_name_are_wrong_usage(upload_to, capsys, kinto, tmp_path):
    folders = [make_folder(tmp_path / name, 2) for name in ("a", "b")]
    with pytest.raises(SystemExit) as exit:
        upload_to(*folders, "-r")
    assert exit.value.code == 2
    assert "would both be the record of 'file 0.bin'" in capsys.readouterr().err
    assert kinto.seen == []


# What is printed


def test_lines_are_plain_where_there_is_no_terminal(scripts, folder):
    done = scripts.run_plain("upload", "-r", "-j", 1, folder)
    lines = [f"Uploaded {name}" for name in sorted(names(folder))]
    assert done.stdout.splitlines() == [*lines, "5 uploaded"]
    assert scripts.run_plain("upload", "-r", folder).stdout.splitlines() == ["5 unchanged"]
    verbose = scripts.run_plain("upload", "-v", "-r", "-j", 1, folder).stdout
    assert verbose.splitlines()[0] == "Unchanged file 0.bin"


def test_quiet_prints_failures_only(scripts, folder):
    done = scripts.run_plain("upload", "-q", "-r", folder, folder / "typo", code=1)
    assert (done.stdout, done.stderr) == ("", "typo: does not exist\n")


def test_names_do_nothing_to_a_terminal(scripts, tmp_path):
    (tmp_path / "\x1b[2J.txt").write_bytes(b"a")
    done = scripts.run_plain("upload", tmp_path / "\x1b[2J.txt")
    assert done.stdout.splitlines()[0] == "Uploaded \\x1b[2J.txt"


def test_names_are_printed_in_any_charset(scripts, tmp_path):
    (tmp_path / "☃.txt").write_bytes(b"a")
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = scripts.run_plain("upload", tmp_path / "☃.txt", env=env)
    assert done.stdout.splitlines()[0] == "Uploaded \\u2603.txt"


def on_terminal(scripts, *args, env=None):
    """Return what a script shows on a terminal."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    shown = []

    def show():
        try:
            while chunk := os.read(main, 1 << 16):
                shown.append(chunk)
        except OSError:  # What Linux says of a terminal that was closed.
            pass

    reader = threading.Thread(target=show)
    reader.start()
    command = scripts.command(*args)
    subprocess.run(command, stdout=terminal, stderr=terminal, env=env, check=True)
    os.close(terminal)
    reader.join()
    os.close(main)
    return b"".join(shown).decode()


def test_terminal_has_a_bar(scripts, folder):
    make_large_file(folder / "large.bin", 4 * MIB)
    shown = on_terminal(scripts, "upload", "-r", folder)
    assert "100%" in shown
    assert "4.00M/4.00M [" in shown
    assert "B/s]" in shown
    assert "Uploaded" not in shown
    assert "6 uploaded" in shown


def test_terminal_has_plain_lines_without_the_library(scripts, folder, tmp_path):
    env = without_modules(tmp_path / "site", "tqdm")
    shown = on_terminal(scripts, "upload", "-r", folder, env=env)
    assert "Uploaded file 0.bin" in shown


# Installation


@pytest.mark.external
@pytest.mark.parametrize("name", ["upload", "download"])
def test_script_runs_where_only_kinto_http_is_installed(tmp_path, name):
    env = without_modules(tmp_path, "kinto", "pyramid", "pyramid_storage", "tqdm", "multipart")
    done = Scripts("http://127.0.0.1:9/v1").run_plain(name, "--help", env=env)
    assert done.stdout.startswith(f"usage: {name}.py [-h] [-s SERVER]")


@pytest.mark.parametrize("name", ["upload", "download"])
def test_script_is_installed_as_a_command(name):
    [script] = entry_points(group="console_scripts", name=f"kinto-attachment-{name}")
    assert script.load().__module__ == f"kinto_attachment.scripts.{name}"
    assert os.access(SCRIPTS / f"kinto-attachment-{name}", os.X_OK)
