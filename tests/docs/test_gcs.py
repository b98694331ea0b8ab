"""The guide to Google Cloud Storage, as it is printed."""

import json
import subprocess

import pytest
import requests
from google.cloud.storage.bucket import LifecycleRuleDelete

from tests.support.clients import ALICE, attachment_url, create_collection
from tests.support.documentation import ENVIRONMENT, only, replaced
from tests.support.servers import eventually_answers, free_port


GUIDE = "docs/how-to/gcs"


@pytest.fixture
def emulator(external):
    """The URL of the emulator that the guide starts, on another port."""
    port = str(free_port())
    commands = replaced(
        only(GUIDE, "shell", "gcp-storage-emulator start"),
        {"pip install gcp-storage-emulator\n": "", "9023": port, "gcp-storage": "exec gcp-storage"},
    )
    process = subprocess.Popen(
        ["bash", "-e", "-c", commands], env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    try:
        eventually_answers(f"http://localhost:{port}/")
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait(20)


def test_a_server_tries_the_emulator_with_the_printed_settings(emulator, serve):
    printed = only(GUIDE, "ini", "gcloud.endpoint_url").replace("http://localhost:9023", emulator)
    settings = dict(line.removeprefix("kinto.").split(" = ") for line in printed.splitlines())
    server = serve("waitress", attachment__base_path="", **settings)
    create_collection(server)
    answer = requests.post(
        attachment_url(server, "first"),
        files={"attachment": ("a.txt", b"once upon a time", "text/plain")},
        auth=ALICE,
        timeout=30,
    )
    location = answer.json()["location"]
    assert location.startswith(f"{emulator}/attachments/")
    assert requests.get(location, timeout=30).content == b"once upon a time"
    assert requests.get(f"{server.url}/__heartbeat__", timeout=30).json()["attachments"] is True


def test_a_bucket_accepts_the_printed_documents(emulated_bucket):
    (rule,) = json.loads(only(GUIDE, "json", "matchesPrefix"))["rule"]
    assert rule == dict(LifecycleRuleDelete(age=2, matches_prefix=[".staging/"]))
    cors = json.loads(only(GUIDE, "json", "maxAgeSeconds"))
    emulated_bucket.bucket.cors = cors
    emulated_bucket.bucket.lifecycle_rules = [rule]
    emulated_bucket.bucket.patch()
    assert emulated_bucket.client.get_bucket(emulated_bucket.name).cors == cors
