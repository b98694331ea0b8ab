"""The guide to private files, as it is printed."""

import json
import subprocess

import pytest
import requests

from kinto_attachment.storage.names import PRIVATE_FOLDER
from kinto_attachment.storage.s3.staged import STAGING_FOLDER
from tests.support.app import ATTACHMENT
from tests.support.documentation import ENVIRONMENT, blocks, only, sessions
from tests.support.servers import TryOutServer


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


def test_policy_of_a_bucket_leaves_out_what_is_private_and_what_is_being_received():
    (statement,) = json.loads(only("docs/how-to/s3", "json", "EverybodyReadsFiles"))["Statement"]
    left_out = (f"arn:aws:s3:::BUCKET/{folder}*" for folder in (PRIVATE_FOLDER, STAGING_FOLDER))
    assert set(statement["NotResource"]) == set(left_out)


def test_guide_to_production_leaves_private_files_out():
    printed = only("docs/how-to/production", "nginx", "server_name")
    (hidden,) = blocks("docs/how-to/private-files", "nginx")
    assert " ".join(hidden.split()) in " ".join(printed.split())
