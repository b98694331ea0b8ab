"""Refused uploads of 50 MB: real clients read the response instead of a connection reset."""

import contextlib
import http.client
import json
import subprocess
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.forms import BOUNDARY, file_part, multipart
from tests.support.servers import files_in
from tests.support.users import basic_auth


BYTES = 50_000_000
REFUSED = {
    "too large": ("alice", {}, "photos", 413),
    "not authenticated": (None, {}, "photos", 401),
    "not allowed": ("bob", {}, "photos", 403),
    "no collection": ("alice", {}, "none", 404),
    "changed meanwhile": ("alice", {"If-Match": '"1"'}, "photos", 412),
}


def serve_collection(serve, kind):
    server = serve(kind, attachment__max_size_bytes="1000", attachment__extensions="any")
    for path in ("/buckets/blog", "/buckets/blog/collections/photos"):
        # With a body, since wsgiref always sends a Content-Type.
        url = server.url + path
        requests.put(url, json={}, auth=("alice", "secret"), timeout=10).raise_for_status()
    return server


@pytest.fixture(params=["granian", "waitress"])
def server(request, serve):
    return serve_collection(serve, request.param)


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(b"x" * BYTES)
    return path


def curl(url, user, headers, large, *options):
    options = [*options, "--silent", "--show-error", "--fail-with-body", "--max-time", "60"]
    if user:
        options += ["--user", f"{user}:secret"]
    for name, value in headers.items():
        options += ["--header", f"{name}: {value}"]
    result = subprocess.run(
        ["curl", *options, "--form", f"attachment=@{large}", url], capture_output=True
    )
    # 22: the status is one of an error. Network failures have other codes.
    assert result.returncode == 22, result.stderr
    return json.loads(result.stdout)["code"]


def python(url, user, headers, large):
    with large.open("rb") as file:
        response = requests.post(
            url,
            files={"attachment": ("large.bin", file)},
            auth=(user, "secret") if user else None,
            headers=headers,
            timeout=60,
        )
    return response.json()["code"]


def naive(url, user, headers, large):
    """A client that reads the response only after it has sent everything."""
    body = multipart(file_part(large.read_bytes(), "large.bin"))
    address = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=60)) as connection:
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **headers}
        if user:
            headers["Authorization"] = basic_auth(user)
        connection.request("POST", address.path, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status


def test_curl_and_requests_read_why_their_upload_is_refused(server, large, tmp_path):
    answers = {}
    for name, (user, headers, collection, expected) in REFUSED.items():
        url = f"{server.url}/buckets/blog/collections/{collection}/records/first/attachment"
        answers[name] = (
            curl(url, user, headers, large),
            # Like clients that do not send Expect: 100-continue.
            curl(url, user, headers, large, "--header", "Expect:"),
            curl(url, user, headers, large, "--header", "Transfer-Encoding: chunked"),
            python(url, user, headers, large),
            naive(url, user, headers, large),
        )
        assert answers[name] == (expected,) * 5, (name, answers)
    assert files_in(tmp_path / "files") == []


OTHER_ANSWERS = {
    "slash at the end": ("/v1/buckets/blog/collections/photos/records/first/attachment/", 307),
    "no version": ("/buckets/blog/collections/photos/records/first/attachment", 307),
    "neither": ("/buckets/blog/collections/photos/records/first/attachment/", 307),
    "in the default bucket": ("/v1/buckets/default/collections/a/records/b/attachment/", 307),
}


def test_clients_see_that_their_upload_is_redirected(server, large):
    for name, (path, status) in OTHER_ANSWERS.items():
        url = server.url.removesuffix("/v1") + path
        assert (name, naive(url, "alice", {}, large)) == (name, status)


@pytest.mark.parametrize("bucket", ["blog", "default"])
def test_clients_see_that_a_server_is_read_only(serve, large, bucket):
    server = serve("granian", readonly="true")
    url = f"{server.url}/buckets/{bucket}/collections/photos/records/first/attachment"
    assert naive(url, "alice", {}, large) == 405


@pytest.mark.parametrize("kind", ["cheroot", "gunicorn", "wsgiref"])
def test_clients_of_other_servers_read_why_their_upload_is_refused(serve, large, kind):
    server = serve_collection(serve, kind)
    for user, headers, collection, status in REFUSED.values():
        url = f"{server.url}/buckets/blog/collections/{collection}/records/first/attachment"
        assert naive(url, user, headers, large) == status
