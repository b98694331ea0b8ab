"""Presigned URLs: without credentials, with headers of their own, and for a while."""

import time
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from google.cloud.storage._signing import generate_signed_url_v4
from google.oauth2.service_account import Credentials

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.gcs import presigned as gcs_presigned
from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.gcs import TokenServer, gcs_storage
from tests.support.storage_contract import store


HEADERS = {
    "content-disposition": "attachment; filename=\"a 'b'.txt\"; filename*=UTF-8''%C3%BC+~.txt",
    "content-type": "text/plain",
    "cache-control": "private, no-cache",
}
KEY = "folder/a b+c~'(1)*.txt"


@pytest.fixture
def storage(bucket):
    return S3Storage.from_settings({**bucket.options, "aws.acl": "private"}, "")


@pytest.fixture
def key_file(tmp_path):
    server = TokenServer()
    server.write_key(tmp_path / "key.json")
    yield tmp_path / "key.json"
    server.stop()


def test_a_url_of_s3_leads_to_the_file_with_its_headers(storage):
    store(storage, b"once upon a time", name=KEY)
    now = int(time.time())
    url = storage.presigned_url(KEY, now, now + 300, HEADERS)
    answer = requests.get(url, timeout=10)
    assert answer.content == b"once upon a time"
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    part = requests.get(url, headers={"Range": "bytes=5-8"}, timeout=10)
    assert (part.status_code, part.content) == (206, b"upon")


def test_a_url_of_s3_that_was_changed_is_refused(storage):
    store(storage, b"1", name="one.txt")
    store(storage, b"2", name="two.txt")
    now = int(time.time())
    url = storage.presigned_url("one.txt", now, now + 300, HEADERS)
    assert requests.get(url, timeout=10).ok
    for before, after in (
        ("/one.txt", "/two.txt"),
        ("X-Amz-Expires=300", "X-Amz-Expires=301"),
        ("text%2Fplain", "text%2Fhtml"),
        ("X-Amz-Signature=", "X-Amz-Signature=0"),
    ):
        assert before in url
        assert requests.get(url.replace(before, after), timeout=10).status_code == 403


def test_a_url_of_s3_ends(storage):
    store(storage, b"1", name="one.txt")
    now = int(time.time())
    url = storage.presigned_url("one.txt", now - 600, now - 300, HEADERS)
    assert requests.get(url, timeout=10).status_code == 403


def test_the_same_url_is_made_again(storage):
    now = int(time.time())
    url = storage.presigned_url("one.txt", now, now + 300, HEADERS)
    assert storage.presigned_url("one.txt", now, now + 300, HEADERS) == url
    assert storage.presigned_url("one.txt", now + 1, now + 300, HEADERS) != url


def test_a_url_of_amazon_is_of_the_bucket_and_its_region():
    options = {"aws.bucket_name": "files", "aws.region": "eu-central-1"}
    options |= {"aws.access_key": "a", "aws.secret_key": "s"}
    storage = S3Storage.from_settings({**options, "base_url": "https://cdn.test/"}, "")
    url = urlsplit(storage.presigned_url("f/a b.txt", 1_800_000_000, 1_800_000_300, {}))
    assert (url.netloc, url.path) == ("files.s3.eu-central-1.amazonaws.com", "/f/a%20b.txt")
    query = parse_qs(url.query)
    assert query["X-Amz-Credential"] == ["a/20270115/eu-central-1/s3/aws4_request"]
    assert query["X-Amz-Expires"] == ["300"]


def test_without_credentials_there_are_no_urls_of_s3(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage = S3Storage.from_settings({"aws.bucket_name": "files"}, "")
    with pytest.raises(StorageError, match="credentials"):
        storage.presigned_url("a.txt", 1, 2, HEADERS)


def test_a_url_of_gcs_is_that_of_the_library(key_file):
    credentials = Credentials.from_service_account_file(key_file)
    url = gcs_presigned.presigned_url(
        "https://storage.googleapis.com",
        "/files/f/a%20b~.txt",
        credentials,
        1_800_000_000,
        1_800_000_300,
        HEADERS,
    )
    oracle = generate_signed_url_v4(
        credentials,
        resource="/files/f/a%20b~.txt",
        expiration=300,
        query_parameters={f"response-{name}": value for name, value in HEADERS.items()},
        _request_timestamp="20270115T080000Z",
    )
    assert parse_qs(url) == parse_qs(oracle)


def test_a_url_of_gcs_leads_to_the_file(gcs_bucket, key_file):
    store(gcs_storage(gcs_bucket.options), b"once upon a time", name=KEY)
    storage = gcs_storage({**gcs_bucket.options, "gcloud.credentials": str(key_file)})
    now = int(time.time())
    url = storage.presigned_url(KEY, now, now + 300, HEADERS)
    assert url.startswith(gcs_bucket.url)
    assert requests.get(url, timeout=10).content == b"once upon a time"


def test_without_a_service_account_there_are_no_urls_of_gcs(gcs_bucket):
    with pytest.raises(StorageError, match="service account"):
        gcs_storage(gcs_bucket.options).presigned_url("a.txt", 1, 2, HEADERS)
