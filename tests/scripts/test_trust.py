"""Which responses of a server the scripts accept, and which servers get the credentials."""

import base64
import gzip
import json
import tracemalloc
import uuid

import pytest
import requests

from kinto_attachment.scripts import collection, download, names, upload
from tests.support.fake_kinto import (
    FakeKinto,
    cut_off,
    described,
)
from tests.support.scripts import (
    MIB,
    STORY,
    Scripts,
    actions,
    failures,
    make_folder,
    tree,
)


@pytest.fixture
def other():
    """A server on another port, which is another host for credentials."""
    with FakeKinto() as server:
        yield server


@pytest.fixture
def listing(monkeypatch):
    """Return a function that replaces the response to a request for records."""

    def replace(answer):
        monkeypatch.setattr("tests.support.fake_kinto._KintoHandler._list", answer)

    return replace


def traced(work):
    """Return what work returns, and the peak of the memory that Python took for it."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Answers


def test_compressed_response_is_read(kinto, get, listing, folder):
    kinto.add("story.txt", STORY)
    body = json.dumps({"data": kinto.records}).encode()
    # In several members, as from some proxies.
    encoded = gzip.compress(body[:50]) + gzip.compress(body[50:])
    headers = {"ETag": '"1000"', "Content_Encoding": "gzip"}
    listing(lambda handler, query: handler.answer(200, encoded, **headers))
    assert actions(get()) == {"downloaded": {"story.txt"}}
    encodings = {path: headers["Accept-Encoding"] for (_, path), headers in requested(kinto)}
    assert encodings == {
        "/v1/": "gzip",
        "/v1/buckets/blog/collections/photos/records": "gzip",
        "/files/stored-1": "identity",
    }


def requested(kinto):
    return zip(kinto.seen, kinto.headers, strict=True)


def test_compressed_response_takes_no_more_memory_than_others(kinto, get, listing):
    bomb = gzip.compress(b"[" + b" " * (100 * MIB) + b"]")
    assert len(bomb) < MIB
    headers = {"ETag": '"1000"', "Content_Encoding": "gzip"}
    listing(lambda handler, query: handler.answer(200, bomb, **headers))
    lines, peak = traced(lambda: get(code=1))
    url = f"{kinto.url}/buckets/blog/collections/photos/records"
    message = failures(lines)[None]
    assert message.startswith(f"the response of {url}")
    assert message.endswith("has more than 16 MiB")
    assert peak < 64 * MIB


def test_compressed_error_takes_no_more_memory_than_a_message(kinto, get, listing):
    bomb = gzip.compress(b" " * (100 * MIB))
    headers = {"Content_Encoding": "gzip"}
    listing(lambda handler, query: handler.answer(400, bomb, **headers))
    lines, peak = traced(lambda: get(code=1))
    assert failures(lines) == {None: "400 Bad Request"}
    assert peak < 16 * MIB


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("br", b"{}", "is encoded as br, which was not accepted"),
        ("gzip", b"{}", "cannot be decompressed: Error -3"),
        ("gzip", gzip.compress(b'{"data": []}')[:-9], "cannot be decompressed: it is cut off"),
    ],
    ids=["another", "not gzip", "cut off"],
)
def test_response_that_cannot_be_decoded_is_reported(kinto, get, listing, encoding, body, message):
    headers = {"ETag": '"1000"', "Content_Encoding": encoding}
    listing(lambda handler, query: handler.answer(200, body, **headers))
    assert message in failures(get(code=1))[None]


def endless(handler, start=b"", status=200, **headers):
    """Send an endless response (up to 1 GiB), and record whether the client read all of it."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.close_connection = True
    handler.wfile.write(start)
    for _ in range(1024):
        handler.wfile.write(b" " * MIB)
    handler.server.waited = True


def test_endless_response_is_not_read_to_its_end(kinto, get, listing):
    listing(lambda handler, query: endless(handler, b"{", ETag='"1000"'))
    assert "has more than 16 MiB" in failures(get(code=1))[None]
    assert not hasattr(kinto, "waited")


def test_endless_redirect_is_followed(kinto, get, folder):
    target = f"{kinto.origin}/files/stored-2"
    kinto.add("story.txt", STORY, served=lambda h: endless(h, status=302, Location=target))
    kinto.files["stored-2"] = STORY
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert not hasattr(kinto, "waited")


def test_redirects_in_a_circle_are_reported(kinto, get):
    redirect = {"Location": "stored-1"}
    kinto.add("story.txt", STORY, served=lambda handler: handler.answer(302, **redirect))
    message = failures(get(code=1))["story.txt"]
    assert message == f"more than 20 redirects, the last one to {kinto.origin}/files/stored-1"


def test_response_that_breaks_off_is_requested_again(kinto, get, listing):
    kinto.add("story.txt", STORY)
    whole = kinto.RequestHandlerClass._list
    broken = cut_off(b'{"data": []}', after=5)
    answers = iter([lambda handler, query: broken(handler)])
    listing(lambda handler, query: next(answers, whole)(handler, query))
    assert actions(get()) == {"downloaded": {"story.txt"}}


# Pages


@pytest.mark.parametrize(
    "records",
    [[], [{"id": "a"}], [{"id": "a", "last_modified": 5}], [{"id": "a", "last_modified": "5"}]],
    ids=["none", "without a time", "the same", "without a number"],
)
def test_pages_without_progress_are_reported(kinto, get, listing, records):
    def answer(handler, query):
        number = int(query.get("page", ["0"])[0])
        headers = {"ETag": '"1000"', "Next_Page": f"{kinto.url}/?page={number + 1}"}
        handler.answer(200, {"data": records}, **headers)

    listing(answer)
    assert "never end" in failures(get(code=1))[None]
    assert len(kinto.seen) <= 3


def test_endless_pages_are_not_read_to_their_end(kinto, get, listing, monkeypatch):
    def answer(handler, query):
        number = int(query.get("page", ["0"])[0])
        record = {"id": f"record-{number}", "last_modified": number}
        headers = {"ETag": '"1000"', "Next_Page": f"{kinto.url}/?page={number + 1}"}
        handler.answer(200, {"data": [record]}, **headers)

    listing(answer)
    monkeypatch.setattr(collection, "MAX_PAGES", 10)
    assert "has more than 10 pages of records" in failures(get(code=1))[None]
    assert [path for _, path in kinto.seen].count(kinto.seen[-1][1]) == 10


def test_only_the_needed_fields_are_requested(server, tmp_path, capsys):
    scripts = Scripts(server.url, bucket=uuid.uuid4().hex)
    source = make_folder(tmp_path / "source", 10)
    scripts.upload(source, "-r", "--gzip")
    large = "x" * 300_000
    for record in scripts.records().values():
        changes = {"notes": large, "original": record["original"] | {"notes": large}}
        url = f"{scripts.collection}/records/{record['id']}"
        assert requests.patch(url, json={"data": changes}, auth=scripts.auth).ok
    folder = tmp_path / "copy"
    code, peak = traced(lambda: download.main([*scripts.options, "--folder", str(folder)]))
    assert code == 0
    assert tree(folder) == tree(source)
    assert peak < 5 * MIB
    (source / "file 1.bin").unlink()
    options = [*scripts.options, "--recursive", "--delete", str(source)]
    code, peak = traced(lambda: upload.main(options))
    assert code == 0
    assert peak < 5 * MIB
    # Deletions are reported, although only some fields are requested.
    capsys.readouterr()
    assert download.main([*scripts.options, "--json", "--folder", str(folder), "--delete"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert actions(lines) == {"deleted": {"file 1.bin"}}


# Credentials


def authorizations(server):
    """Return the ``Authorization`` of all requests, by their paths."""
    return {path: headers["Authorization"] for (_, path), headers in requested(server)}


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    """A ~/.netrc with credentials for this machine."""
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login bob password h\u00fcsker")
    monkeypatch.setenv("NETRC", str(path))
    monkeypatch.setenv("no_proxy", "*")


def test_netrc_is_for_kinto_only(kinto, other, get, netrc):
    redirect = {"Location": f"{other.origin}/files/stored-1"}
    kinto.add("story.txt", STORY, served=lambda handler: handler.answer(307, **redirect))
    other.add("story.txt", STORY)
    assert actions(get(auth=None)) == {"downloaded": {"story.txt"}}
    assert authorizations(kinto) == {
        "/v1/": basic("bob", "h\u00fcsker"),
        "/v1/buckets/blog/collections/photos/records": basic("bob", "h\u00fcsker"),
        "/files/stored-1": None,
    }
    assert authorizations(other) == {"/files/stored-1": None}


def test_options_override_netrc(kinto, get, netrc):
    get()
    assert set(authorizations(kinto).values()) == {basic("alice", "secret")}


def test_credentials_in_a_location_are_not_sent(kinto, get):
    location = f"{kinto.origin.replace('//', '//eve:secret@')}/files/stored-1"
    kinto.add("story.txt", STORY, location=location)
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert authorizations(kinto)["/files/stored-1"] is None


def test_credentials_in_the_url_of_the_server_are_sent(kinto, get):
    get(auth=None, url=kinto.url.replace("//", "//al%3Aice:secret@"))
    assert set(authorizations(kinto).values()) == {basic("al:ice", "secret")}


@pytest.mark.parametrize("auth", ["alice:secret", "Bearer token"])
def test_credentials_are_not_sent_after_a_redirect_to_another_host(
    kinto, other, get, listing, auth
):
    other.add("story.txt", STORY)
    whole = kinto.RequestHandlerClass._list
    path = "/v1/buckets/blog/collections/photos/records"

    def redirect(handler, query):
        if handler.server is other:
            whole(handler, query)
        else:
            handler.answer(302, Location=f"{other.origin}{path}")

    listing(redirect)
    get(code=1, auth=auth)
    assert authorizations(kinto)[path] is not None
    assert authorizations(other) == {path: None}


def test_redirect_on_the_same_server_keeps_the_credentials(kinto, get, listing):
    whole = kinto.RequestHandlerClass._list
    path = "/v1/buckets/blog/collections/photos/records"
    answers = iter([lambda handler, query: handler.answer(308, Location=f"/elsewhere{path}")])
    listing(lambda handler, query: next(answers, whole)(handler, query))
    get()
    assert authorizations(kinto)[f"/elsewhere{path}"] == basic("alice", "secret")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_file_is_not_sent_to_another_server(kinto, other, tmp_path, capsys, status):
    location = f"{other.url}/buckets/blog/collections/photos/records/x/attachment"
    kinto.post = lambda handler, body: handler.answer(status, Location=location)
    (tmp_path / "a.txt").write_bytes(b"a")
    options = ["-s", kinto.url, "-a", "alice:secret", "-b", "blog", "-c", "photos", "--json"]
    assert upload.main([*options, str(tmp_path / "a.txt")]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert failures(lines)["a.txt"].startswith(f"{status} ")
    assert other.seen == []


def test_file_is_sent_after_a_redirect_on_the_same_server(kinto, tmp_path, capsys):
    def post(handler, body):
        if "elsewhere" in handler.path:
            handler.answer(201, described("a.txt", b"a"))
        else:
            handler.answer(308, Location=f"/elsewhere{handler.path}")

    kinto.post = post
    (tmp_path / "a.txt").write_bytes(b"a")
    options = ["-s", kinto.url, "-a", "alice:secret", "-b", "blog", "-c", "photos"]
    assert upload.main([*options, str(tmp_path / "a.txt")]) == 0


def test_proxy_of_the_environment_is_used(kinto, get, folder, monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", kinto.origin)
    kinto.base_url = "http://files.test/"
    kinto.add("story.txt", STORY)
    assert actions(get(url="http://kinto.test/v1")) == {"downloaded": {"story.txt"}}
    assert [path for _, path in kinto.seen] == [
        "http://kinto.test/v1/",
        "http://kinto.test/v1/buckets/blog/collections/photos/records",
        "http://files.test/stored-1",
    ]


@pytest.mark.parametrize("user", ["zoë", "Пётр", "太郎"])
def test_names_and_passwords_are_in_utf8(server, tmp_path, user):
    scripts = Scripts(server.url, auth=f"{user}:pass€wörd", bucket=uuid.uuid4().hex)
    source = make_folder(tmp_path / "source", 1)
    scripts.upload(source, "-r")
    scripts.download(tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(source)
    # It is the user that others know by this name.
    authorization = {"Authorization": basic(user, "pass€wörd")}
    assert requests.get(scripts.collection, headers=authorization).ok


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--auth", "Bearer pass€word"], "--auth: a token is of ASCII characters"),
        (["--bucket", "\udce9"], "--bucket is not in the charset of the terminal"),
        (["--collection", "\udce9"], "--collection is not in the charset of the terminal"),
        (["--server", "http://\udce9/v1"], "--server is not in the charset of the terminal"),
    ],
)
def test_option_that_cannot_be_sent_is_wrong_usage(get, capsys, options, message):
    with pytest.raises(SystemExit) as exit:
        get(*options)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_password_that_is_not_utf8_is_sent_as_it_was_typed(kinto, get):
    get(auth="alice:caf\udce9")
    expected = "Basic " + base64.b64encode(b"alice:caf\xe9").decode()
    assert set(authorizations(kinto).values()) == {expected}


# Timestamps


@pytest.mark.parametrize("etag", ['W/"{}"', '"{}"', "{}"])
def test_etag_that_a_proxy_has_weakened_is_a_timestamp(kinto, get, folder, etag):
    kinto.etag = etag
    kinto.add("story.txt", STORY)
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert json.loads((folder / ".last_sync").read_text())["timestamp"] == "1000"


@pytest.mark.external
def test_upload_accepts_an_etag_that_a_proxy_has_weakened(kinto, tmp_path):
    kinto.etag = 'W/"{}"'
    kinto.add("a.txt", b"a")
    kinto.records[0]["id"] = names.record_id("a.txt")
    (tmp_path / "a.txt").write_bytes(b"a")
    scripts = Scripts(kinto.url)
    assert actions(scripts.upload(tmp_path / "a.txt", "--delete")) == {"unchanged": {"a.txt"}}


@pytest.mark.parametrize(
    "etag", ["", '"yesterday"', 'w/"5"', '"5', '5"', '"-5"', f'"{"9" * 5000}"']
)
def test_invalid_timestamp_is_reported(kinto, get, etag):
    kinto.etag = etag
    assert "has no timestamp" in failures(get(code=1))[None]
