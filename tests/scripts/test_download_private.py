"""Downloads of private files: Kinto has them at ``{record}/attachment``, for who may read a record.

The credentials are sent there, and nowhere else.
"""

import base64
import uuid

import pytest
import requests

from kinto_attachment.scripts.downloads import absolute_location, is_private_location
from tests.support.fake_kinto import FakeKinto, cut_off
from tests.support.scripts import (
    MIB,
    STORY,
    Scripts,
    actions,
    failures,
    make_folder,
    make_large_file,
    script_storage,
    start_server,
    tree,
)


PATH = "/v1/buckets/blog/collections/photos/records/record-1/attachment"
BASIC = "Basic " + base64.b64encode(b"alice:secret").decode()


@pytest.fixture
def other():
    """A server on another port, which is another host for credentials."""
    with FakeKinto() as server:
        yield server


def authorizations(server):
    """Return the ``Authorization`` of all requests for files, by their paths."""
    requests = zip(server.seen, server.headers, strict=True)
    return {
        path: headers["Authorization"]
        for (_, path), headers in requests
        if path.endswith("/attachment") or "stored-" in path
    }


def add_private(kinto, location, served=STORY):
    kinto.add("story.txt", STORY, location=location)
    kinto.files["attachment"] = served


@pytest.mark.parametrize("is_absolute", [True, False], ids=["absolute", "relative"])
@pytest.mark.parametrize("auth", ["alice:secret", "Bearer token"])
def test_private_file_is_requested_with_the_credentials(kinto, get, folder, is_absolute, auth):
    add_private(kinto, kinto.origin + PATH if is_absolute else PATH)
    assert actions(get(auth=auth)) == {"downloaded": {"story.txt"}}
    assert (folder / "story.txt").read_bytes() == STORY
    assert authorizations(kinto) == {PATH: BASIC if auth == "alice:secret" else auth}


def test_public_file_beside_it_is_requested_without(kinto, get, folder):
    add_private(kinto, kinto.origin + PATH)
    kinto.add("public.txt", STORY)
    assert actions(get()) == {"downloaded": {"story.txt", "public.txt"}}
    assert authorizations(kinto) == {PATH: BASIC, "/files/stored-2": None}


def test_relative_location_is_not_one_below_the_base_url_of_public_files(kinto, get):
    kinto.base_url = "https://cdn.example.org/files/"
    add_private(kinto, PATH)
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert authorizations(kinto) == {PATH: BASIC}


def test_download_that_broke_off_is_resumed_with_the_credentials(kinto, get, folder):
    add_private(kinto, kinto.origin + PATH, cut_off(STORY, after=1000))
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert (folder / "story.txt").read_bytes() == STORY
    private = [headers for (_, path), headers in _requests(kinto) if path == PATH]
    assert [one["Authorization"] for one in private] == [BASIC, BASIC]
    assert [one["Range"] for one in private] == [None, "bytes=1000-"]


def _requests(kinto):
    return zip(kinto.seen, kinto.headers, strict=True)


@pytest.mark.parametrize("same_host", [True, False])
def test_redirect_is_followed_without_the_credentials(kinto, other, get, folder, same_host):
    # A storage takes one kind of credentials: what is signed into the URL.
    storage = kinto if same_host else other
    storage.files["stored-9"] = STORY
    target = f"{storage.origin}/files/stored-9?signature=1"
    add_private(kinto, kinto.origin + PATH, lambda h: h.answer(307, Location=target))
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert (folder / "story.txt").read_bytes() == STORY
    assert authorizations(kinto)[PATH] == BASIC
    assert authorizations(storage)["/files/stored-9"] is None


def test_resumed_download_asks_kinto_for_another_redirect(kinto, other, get, folder):
    signed = iter(["stored-8", "stored-9"])
    other.files |= {"stored-8": cut_off(STORY, after=1000), "stored-9": STORY}
    target = f"{other.origin}/files/"
    add_private(kinto, PATH, lambda h: h.answer(307, Location=target + next(signed)))
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert (folder / "story.txt").read_bytes() == STORY
    assert authorizations(other) == {"/files/stored-8": None, "/files/stored-9": None}


def test_location_on_another_host_gets_no_credentials(kinto, other, get):
    other.files["attachment"] = STORY
    add_private(kinto, other.origin + PATH)
    assert actions(get()) == {"downloaded": {"story.txt"}}
    assert authorizations(other) == {PATH: None}
    assert authorizations(kinto) == {}


@pytest.mark.parametrize(
    "path",
    [
        "/files/buckets/blog/collections/photos/records/r/attachment",
        "/v1/buckets/blog/collections/photos/records/r/attachment/more",
        "/v1/buckets/../../other/collections/photos/records/r/attachment",
        "/v1/buckets/%2e%2e/collections/photos/records/r/attachment",
        "/v1/buckets/blog/collections/photos/records/attachment",
        "/v1/buckets/blog/collections/photos/records/r/attachment/../../stored-1",
    ],
)
def test_other_paths_of_the_host_get_no_credentials(kinto, get, path):
    assert not is_private_location(kinto.origin + path, kinto.url)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://example.org" + PATH, "https://example.org:443/v1"),
        ("https://example.org:443" + PATH, "https://EXAMPLE.org/v1/"),
        ("https://example.org" + PATH, "https://example.org"),
        ("https://example.org/kinto" + PATH, "https://example.org/kinto/v1"),
        ("https://example.org" + PATH, "https://al:ice@example.org/v1"),
    ],
)
def test_server_is_recognised(url, server):
    assert is_private_location(url, server)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org" + PATH,
        "https://example.org:8443" + PATH,
        "https://example.org.evil.test" + PATH,
        "https://example.org@evil.test" + PATH,
        "https://evil.test/https://example.org" + PATH,
        "//evil.test" + PATH,
        # Parsers differ in which of the two is the host.
        "https://evil.test\\@example.org" + PATH,
        "//evil.test\\@example.org" + PATH,
    ],
)
def test_other_servers_are_recognised(url):
    server = "https://example.org/v1"
    assert not is_private_location(absolute_location(url, "", server), server)


def test_location_whose_host_parsers_disagree_on_gets_no_credentials(kinto, other, get):
    host = kinto.origin.removeprefix("http://")
    add_private(kinto, f"{other.origin}\\@{host}{PATH}")
    assert "404 Not Found" in failures(get(code=1))["story.txt"]
    assert not any(headers.get("Authorization") for headers in other.headers)


def test_refusal_of_kinto_is_reported_as_one(kinto, get):
    add_private(kinto, PATH, lambda h: h.answer(403, {"message": "Forbidden."}))
    assert failures(get(code=3)) == {"story.txt": "403 Forbidden: Forbidden."}


def test_hash_decides_as_for_public_files(kinto, get, folder):
    add_private(kinto, PATH, STORY[::-1])
    assert "its hash is" in failures(get(code=1))["story.txt"]
    assert tree(folder).keys() <= {".partial/lock", ".partial/journal"}


# With a real server


@pytest.fixture(scope="module", params=["local", "S3"])
def private_server(request, external, tmp_path_factory):
    """A server of private files, in a folder, or in a bucket to which it redirects."""
    with script_storage(request) as storage:
        deliver = "redirect" if request.param == "S3" else "stream"
        settings = {"attachment__downloads": "private", "attachment__deliver": deliver}
        folder = tmp_path_factory.mktemp("private")
        server = start_server(folder, storage, **settings)
        yield server
        server.stop()


@pytest.fixture
def private_scripts(private_server):
    return Scripts(private_server.url, bucket=uuid.uuid4().hex)


def test_folder_comes_back_from_a_private_collection(private_scripts, source, folder):
    make_large_file(source / "large.bin", 9 * MIB)
    assert len(actions(private_scripts.upload(source, "-r"))["uploaded"]) == 6
    locations = [one["attachment"]["location"] for one in private_scripts.records().values()]
    assert all(location.endswith("/attachment") for location in locations)
    assert len(actions(private_scripts.download(folder))["downloaded"]) == 6
    assert tree(folder) == tree(source)
    assert actions(private_scripts.download(folder, "--full")).keys() == {"unchanged"}


def test_unchanged_files_are_not_sent_again_to_a_private_collection(
    private_scripts, source, folder
):
    private_scripts.upload(source, "-r")
    private_scripts.download(folder)
    assert actions(private_scripts.upload(source, "-r")).keys() == {"unchanged"}
    (source / "file 1.bin").write_bytes(b"changed")
    assert actions(private_scripts.upload(source, "-r"))["uploaded"] == {"file 1.bin"}
    # The location is the same, and the hash is not.
    assert actions(private_scripts.download(folder)) == {"downloaded": {"file 1.bin"}}
    assert tree(folder) == tree(source)


def test_compressed_files_come_back_from_a_private_collection(private_scripts, source, folder):
    private_scripts.upload(source, "-r", "--gzip")
    private_scripts.download(folder)
    assert tree(folder) == tree(source)


def test_user_without_permission_gets_no_private_file(private_scripts, tmp_path, folder):
    private_scripts.upload(make_folder(tmp_path / "source", 1), "-r")
    (record,) = private_scripts.records().values()
    location = record["attachment"]["location"]
    assert requests.get(location).status_code == 401
    assert requests.get(location, auth=("bob", "secret")).status_code == 403
    assert requests.get(location, auth=private_scripts.auth).ok
    private_scripts.but(auth="bob:secret").download(folder, code=3)
    assert not [name for name in tree(folder) if not name.startswith(".")]
