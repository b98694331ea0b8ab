"""The guide to private files, as it is printed."""

import json
import os
import subprocess

import pytest
import requests

from kinto_attachment.storage.names import PRIVATE_FOLDER
from kinto_attachment.storage.s3.staged import STAGING_FOLDER
from tests.browser.test_behind_nginx import AROUND
from tests.support.app import ATTACHMENT
from tests.support.documentation import ENVIRONMENT, blocks, only, sessions
from tests.support.servers import TryOutServer, eventually_answers, free_port


STORY = b"once upon a time\n"
ALICE = ("alice", "secret")


def start(folder, **options):
    """Return a server with a private file of alice."""
    server = TryOutServer(folder / "server", downloads="private", **options).wait_until_ready()
    for path in ("/buckets/blog", "/buckets/blog/collections/photos"):
        assert requests.put(server.url + path, auth=ALICE).ok
    files = {"attachment": ("story.txt", STORY)}
    assert requests.post(server.url + ATTACHMENT, files=files, auth=ALICE).status_code == 201
    return server


@pytest.fixture
def server(external, tmp_path):
    server = start(tmp_path)
    yield server
    server.stop()


def test_curl_fetches_the_file_as_shown(server, tmp_path):
    shown = [one for one in sessions("docs/how-to/private-files") if "kinto-att" not in one[0]]
    script = "\n".join(command for command, _ in shown)
    script = script.replace("http://localhost:8888/v1", server.url)
    finished = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    printed = "\n".join(printed for _, printed in shown if printed)
    assert finished.stdout == f"{printed}\n"
    assert printed.count("once upon a time") == 2


@pytest.fixture
def nginx(external, tmp_path):
    """The URLs of an nginx with the configuration of the page, for the API and for the files."""
    server = start(tmp_path, deliver="accel", accel_prefix="/internal/")
    hidden, internal = blocks("docs/how-to/private-files", "nginx")
    internal = internal.replace("/srv/kinto/files", str(server.files))
    api, files = free_port(), free_port()
    proxy = f"location / {{ proxy_pass http://127.0.0.1:{server.port}; }}"
    printed = (
        f"server {{ listen 127.0.0.1:{api}; {internal} {proxy} }}\n"
        f"server {{ listen 127.0.0.1:{files}; root {server.files}; {hidden} }}"
    )
    (tmp_path / "nginx").mkdir()
    configuration = tmp_path / "nginx" / "nginx.conf"
    # As the workers are another user, who cannot enter the test's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(user + AROUND.format(folder=tmp_path / "nginx", printed=printed))
    process = subprocess.Popen(["nginx", "-c", configuration], stderr=subprocess.DEVNULL)
    try:
        eventually_answers(f"http://127.0.0.1:{api}/v1/")
        yield f"http://127.0.0.1:{api}", f"http://127.0.0.1:{files}", server
    finally:
        process.terminate()
        process.wait(30)
        server.stop()


def test_nginx_sends_the_file_that_kinto_permits(nginx):
    api, _, _ = nginx
    url = f"{api}/v1{ATTACHMENT}"
    answer = requests.get(url, auth=ALICE)
    assert (answer.status_code, answer.content) == (200, STORY)
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Vary"] == "Authorization"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert "story.txt" in answer.headers["Content-Disposition"]
    part = requests.get(url, auth=ALICE, headers={"Range": "bytes=5-8"})
    assert (part.status_code, part.content) == (206, STORY[5:9])
    assert requests.get(url).status_code == 401
    assert requests.get(url, auth=("bob", "secret")).status_code == 403


def test_nginx_serves_no_private_file_by_its_name(nginx):
    api, files, server = nginx
    (path,) = (one for one in (server.files / "private").rglob("*") if one.is_file())
    key = path.relative_to(server.files)
    received = server.files / ".uploads" / "0a1b"
    received.parent.mkdir(exist_ok=True)
    received.write_bytes(STORY)
    for url in (
        f"{files}/{key}",
        f"{files}/.uploads/0a1b",
        f"{api}/internal/{key}",
        f"{files}//{key}",
        f"{files}/x/../{key}",
    ):
        session = requests.Session()
        request = requests.Request("GET", url).prepare()
        request.url = url
        assert session.send(request).status_code == 404, url


def test_policy_of_a_bucket_leaves_out_what_is_private_and_what_is_being_received():
    (statement,) = json.loads(only("docs/how-to/s3", "json", "EverybodyReadsFiles"))["Statement"]
    left_out = (f"arn:aws:s3:::BUCKET/{folder}*" for folder in (PRIVATE_FOLDER, STAGING_FOLDER))
    assert set(statement["NotResource"]) == set(left_out)


def test_guide_to_production_leaves_private_files_out():
    printed = only("docs/how-to/production", "nginx", "server_name")
    hidden, _ = blocks("docs/how-to/private-files", "nginx")
    assert " ".join(hidden.split()) in " ".join(printed.split())
