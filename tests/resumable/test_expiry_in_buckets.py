"""What becomes of uploads to S3 and Google Cloud Storage that nobody continues."""

import os

import pytest

from tests.support.resumable import Client, clear_by_request, states, stored_without_record
from tests.support.s3 import PART_BYTES, Bucket


pytestmark = pytest.mark.external

CONTENT = os.urandom(PART_BYTES + 1000)


@pytest.fixture(params=["bucket", "gcs_bucket"], ids=["S3", "GCS"])
def stored(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[{}, {"randomize": "false"}, {"gzipped": "true"}], ids=str)
def client(request, stored, make_app):
    return Client(make_app(**stored.settings(**request.param)))


def left(stored, client):
    uploads = stored.uploads() if isinstance(stored, Bucket) else []
    return stored.keys() + uploads + states(client.app)


@pytest.mark.parametrize("size", [5, PART_BYTES + 5], ids=["small", "large"])
def test_an_expired_upload_is_gone_and_deleted_by_any_request(client, stored, later, size):
    path = client.begun(len(CONTENT))
    client.patch(path, 0, CONTENT[:size])
    assert len(left(stored, client)) > 1
    later()
    client.head(path, status=410)
    client.patch(path, size, CONTENT[size:], status=410)
    clear_by_request(client.app)
    assert left(stored, client) == []
    client.head(path, status=404)


def test_a_stored_file_that_no_record_got_goes(client, stored, later, monkeypatch):
    stored_without_record(client, monkeypatch, CONTENT)
    later()
    clear_by_request(client.app)
    assert left(stored, client) == []


def test_the_file_of_a_record_stays(client, stored, later):
    client.completed(CONTENT)
    later()
    clear_by_request(client.app)
    (key,) = left(stored, client)
    assert client.app.record()["attachment"]["location"] == stored.location(key)
