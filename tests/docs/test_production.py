"""The guides to production and S3, as they are printed."""

import json
import os
import re
import subprocess
import uuid

import boto3
import pytest
import requests
import yaml
from botocore.config import Config

from tests.support.app import ATTACHMENT
from tests.support.documentation import ENVIRONMENT, only, page, replaced
from tests.support.forms import file_part
from tests.support.paths import ROOT, SCRIPTS
from tests.support.servers import eventually_answers, free_port
from tests.support.users import ALICE, basic_auth


MIB = 1024 * 1024


def documents(bucket_name):
    """Return the JSON documents for S3 by their names."""
    names = {
        "policy": "s3:PutObject",
        "public-read": "EverybodyReadsFiles",
        "cors": "CORSRules",
        "lifecycle": "AbortIncompleteMultipartUpload",
    }
    return {
        name: json.loads(only("docs/how-to/s3", "json", text).replace("BUCKET", bucket_name))
        for name, text in names.items()
    }


def admin(server, method, path, **kwargs):
    headers = {"Authorization": basic_auth("admin")}
    answer = requests.request(method, server.url + path, headers=headers, timeout=20, **kwargs)
    assert answer.ok, answer.text
    return answer


def metrics(server):
    """Return the values of the metrics of a server by their names with labels."""
    text = requests.get(f"{server.url}/__metrics__", timeout=20).text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_the_production_server_attaches_and_has_the_documented_metrics(production):
    admin(production, "PUT", "/buckets/blog")
    admin(production, "PUT", "/buckets/blog/collections/photos")
    # Other tests use the same server.
    before = metrics(production)
    url = f"/buckets/blog/collections/photos/records/{uuid.uuid4()}/attachment"
    files = {"attachment": ("a.txt", b"x" * 1234)}
    attachment = admin(production, "POST", url, files=files).json()
    name = attachment["location"].removeprefix("https://files.example.com/")
    assert (production.files / name).read_bytes() == b"x" * 1234
    assert requests.get(f"{production.url}/__heartbeat__", timeout=20).json()["attachments"] is True

    after = metrics(production)
    added = {name: value - before.get(name, 0) for name, value in after.items()}
    assert added["kinto_attachments_uploads_total"] == 1
    assert added["kinto_attachments_bytes_total"] == 1234
    (attached,) = (
        name
        for name, number in added.items()
        if name.startswith("kinto_request_summary_total{")
        and 'endpoint="attachment"' in name
        and number
    )
    assert 'method="post"' in attached
    assert 'status="201"' in attached
    pages = page("docs/reference/metrics") + page("docs/how-to/monitoring")
    others = {f"kinto_backend_{storage}storage_seconds" for storage in ("s3", "gcs")}
    named = set(re.findall(r"kinto_[a-z0-9_]+", pages)) - others
    assert len(named) == 5
    assert [name for name in named if name not in str(after)] == []


@pytest.mark.external
def test_the_alerts_are_about_metrics_that_exist():
    (alerts,) = yaml.safe_load(only("docs/how-to/monitoring", "yaml", "groups:"))["groups"]
    named = {
        name for rule in alerts["rules"] for name in re.findall(r"kinto_[a-z_]+", rule["expr"])
    }
    assert named == {"kinto_request_summary_total"}


def test_the_readme_has_settings_of_the_production_server():
    production = only("docs/how-to/production", "ini", "kinto.plugins.prometheus").splitlines()
    settings = only("README", "ini", "kinto.storage_backend").splitlines()
    assert len(settings) == 6
    assert set(settings) <= set(production)


def test_granian_serves_as_the_guide_to_install_says(external, tmp_path):
    port = str(free_port())
    shown = replaced(
        only("docs/how-to/install", "shell", "granian"),
        {"pip install granian\n": "", "8888": port, "KINTO_INI": "exec env KINTO_INI"},
    )
    server = subprocess.Popen(
        ["bash", "-e", "-c", shown],
        cwd=ROOT,
        env={**ENVIRONMENT, "KINTO_ATTACHMENT_BASE_PATH": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        heartbeat = eventually_answers(f"http://127.0.0.1:{port}/v1/__heartbeat__")
        assert heartbeat.json()["attachments"] is True
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.parametrize("kind", [pytest.param("real", marks=pytest.mark.external), "fake"])
def test_a_bucket_accepts_the_documented_documents(kind, request):
    bucket = request.getfixturevalue("bucket" if kind == "real" else "fake_bucket")
    s3, name = bucket.client, {"Bucket": bucket.name}
    found = documents(bucket.name)

    s3.put_bucket_policy(**name, Policy=json.dumps(found["public-read"]))
    s3.put_bucket_cors(**name, CORSConfiguration=found["cors"])
    s3.put_bucket_lifecycle_configuration(**name, LifecycleConfiguration=found["lifecycle"])

    assert s3.get_bucket_cors(**name)["CORSRules"] == found["cors"]["CORSRules"]
    assert json.loads(s3.get_bucket_policy(**name)["Policy"]) == found["public-read"]
    rules = s3.get_bucket_lifecycle_configuration(**name)["Rules"]
    assert [rule["ID"] for rule in rules] == ["abandoned uploads", "abandoned staging"]


class CheckingS3:
    """A fake S3 that requires permissions, and a user who has those of the guide.

    :ivar without: an action that the policy lacks.
    """

    SET_UP_REQUESTS = 4

    def __init__(self, folder, without=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        log = (folder / "moto.log").open("ab")
        self.process = subprocess.Popen(
            [SCRIPTS / "moto_server", "-H", "127.0.0.1", "-p", str(self.port)],
            env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(self.SET_UP_REQUESTS)},
            stdout=log,
            stderr=log,
        )
        log.close()
        # Not one of the requests that are counted.
        eventually_answers(f"{self.url}/moto-api/")
        policy = documents("attachments")["policy"]
        for statement in policy["Statement"]:
            statement["Action"] = [a for a in statement["Action"] if a != without]
        iam = self.client("iam", "root", "root")
        iam.create_user(UserName="kinto")
        iam.put_user_policy(
            UserName="kinto",
            PolicyName="attachments",
            PolicyDocument=json.dumps(policy),
        )
        key = iam.create_access_key(UserName="kinto")["AccessKey"]
        self.keys = key["AccessKeyId"], key["SecretAccessKey"]
        self.client("s3", "root", "root").create_bucket(Bucket="attachments")

    def client(self, service, access_key, secret_key):
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def settings(self):
        access_key, secret_key = self.keys
        return {
            "attachment__base_path": "",
            "attachment__aws__bucket_name": "attachments",
            "attachment__aws__endpoint_url": self.url,
            "attachment__aws__access_key": access_key,
            "attachment__aws__secret_key": secret_key,
            "attachment__aws__acl": "",
            "attachment__aws__part_size_bytes": str(5 * MIB),
        }

    def keys_stored(self):
        listed = self.client("s3", *self.keys).list_objects_v2(Bucket="attachments")
        return [stored["Key"] for stored in listed.get("Contents", ())]

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def checking_s3(external, tmp_path):
    servers = []

    def start(**kwargs):
        servers.append(CheckingS3(tmp_path, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.mark.parametrize("randomize", ["true", "false"])
def test_the_documented_iam_policy_is_enough(make_app, checking_s3, randomize):
    s3 = checking_s3()
    app = make_app(**s3.settings(), attachment__randomize=randomize)
    app.upload(file_part(b"small"), status=201)
    app.upload(file_part(b"large" * 2 * MIB), status=200)
    app.wait_for_deletions()
    assert len(s3.keys_stored()) == 1
    assert app.get("/__heartbeat__", status=200).json["attachments"] is True
    app.delete(ATTACHMENT, headers=ALICE, status=204)
    app.wait_for_deletions()
    assert s3.keys_stored() == []


def test_the_fake_s3_requires_the_permissions(make_app, checking_s3):
    app = make_app(**checking_s3(without="s3:PutObject").settings())
    app.upload(file_part(b"small"), status=503)
