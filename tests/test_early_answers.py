"""Refused uploads of 50 MB: real clients read the answer, and not that the connection was reset."""

import contextlib
import http.client
import json
import subprocess
from urllib.parse import urlsplit

import pytest
import requests

from tests.support import BOUNDARY, basic_auth, file_part, multipart


BYTES = 50_000_000
REFUSED = {
    "too large": ("alice", {}, "photos", 413),
    "not authenticated": (None, {}, "photos", 401),
    "not allowed": ("bob", {}, "photos", 403),
    "no collection": ("alice", {}, "none", 404),
    "changed meanwhile": ("alice", {"If-Match": '"1"'}, "photos", 412),
}


@pytest.fixture(params=["granian", "waitress"])
def server(request, serve):
    server = serve(request.param, attachment__max_size_bytes="1000", attachment__extensions="any")
    for path in ("/buckets/blog", "/buckets/blog/collections/photos"):
        response = requests.put(server.url + path, auth=("alice", "secret"), timeout=10)
        response.raise_for_status()
    return server


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
    # 22: the status is one of an error. Whatever fails in the network has another code.
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
    """A client that looks for the answer only when it has sent everything."""
    body = multipart(file_part(large.read_bytes(), "large.bin"))
    address = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=60)) as connection:
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **headers}
        if user:
            headers["Authorization"] = basic_auth(user)
        connection.request("POST", address.path, body, headers)
        return json.loads(connection.getresponse().read())["code"]


def test_curl_and_requests_read_why_their_upload_is_refused(server, large, tmp_path):
    answers = {}
    for name, (user, headers, collection, expected) in REFUSED.items():
        url = f"{server.url}/buckets/blog/collections/{collection}/records/first/attachment"
        answers[name] = (
            curl(url, user, headers, large),
            # As clients that do not ask before they send.
            curl(url, user, headers, large, "--header", "Expect:"),
            curl(url, user, headers, large, "--header", "Transfer-Encoding: chunked"),
            python(url, user, headers, large),
            naive(url, user, headers, large),
        )
        assert answers[name] == (expected,) * 5, (name, answers)
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []
