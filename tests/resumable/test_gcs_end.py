"""The last request of an upload to Google Cloud Storage fails, and is repeated."""

import gzip
import hashlib
import os
import uuid

import pytest

from kinto_attachment.storage import resumable_hash
from kinto_attachment.storage.gcs import partial
from tests.support.app import RECORD, App
from tests.support.forks import expire_all
from tests.support.gcs import GCSBucket, GCSProxy
from tests.support.misbehaviour import refusing, swallowing_all
from tests.support.postgresql import postgresql_backends
from tests.support.resumable import Client, states
from tests.support.settings import prefixed
from tests.support.users import ALICE


PART_BYTES = 256 * 1024
MAX_COMPOSED = 3
BEGINNING = 2
"""How many bytes come one by one. The end composes them with its part, and sends one more piece."""

CONTENT = os.urandom(PART_BYTES + 1000)
OPTIONS = {
    "random name": {},
    "given name, read again": {"randomize": "false"},
    "gzipped": {"gzipped": "true"},
}
FAULTS = {
    "is refused": (refusing(403, "forbidden"), True),
    "is not answered, nor are others": (swallowing_all, False),
}
"""What happens to a request, and whether to it alone."""


@pytest.fixture(scope="module")
def make_client(external, postgresql, fake_gcs, tmp_path_factory):
    """Return a client with its bucket, and what sees the requests, for some options."""
    made = {}

    def make(name):
        if name not in made:
            bucket = GCSBucket(fake_gcs.url, f"bucket-{uuid.uuid4()}")
            proxy = GCSProxy(bucket.url)
            options = {"gcloud__part_size_bytes": PART_BYTES, **OPTIONS[name]}
            settings = bucket.settings(gcloud__endpoint_url=proxy.url, **options)
            folder = tmp_path_factory.mktemp("end") / "files"
            app = App(folder, **prefixed(settings), **postgresql_backends(postgresql()))
            storage = app.registry.attachments.files.bucket
            storage.retry = storage.retry.with_timeout(0.01)
            made[name] = Client(app), bucket, proxy
        client, bucket, proxy = made[name]
        client.app.reset()
        bucket.clear()
        client.app.create_collection()
        proxy.misbehave = taken_keys_refused(bucket, proxy)
        return made[name]

    yield make
    for _, _, proxy in made.values():
        proxy.stop()


@pytest.fixture(params=OPTIONS)
def scene(request, make_client, monkeypatch):
    if "read again" in request.param:
        monkeypatch.setattr(resumable_hash, "PySha256", None)
    monkeypatch.setattr(partial, "MAX_COMPOSED", MAX_COMPOSED)
    return make_client(request.param)


def taken_keys_refused(bucket, proxy):
    """Refuse to compose an object over another one, as fake-gcs-server does not."""

    def refuse(handler, seen):
        if seen.operation != "Compose" or "ifGenerationMatch" not in seen.query:
            return False
        assert seen.query["ifGenerationMatch"] == "0"
        is_taken = bucket.bucket.get_blob(seen.key) is not None
        return is_taken and proxy.refuse(handler, 412, "conditionNotMet")

    return refuse


def failing_from(number, fault, bucket, proxy, only=False):
    """Have the requests fail from this one on, or it alone."""
    refuse_taken, count = taken_keys_refused(bucket, proxy), len(proxy.seen) + number
    misbehave = fault(proxy)

    def fail(handler, seen):
        if refuse_taken(handler, seen):
            return True
        position = proxy.seen.index(seen)
        return (position == count if only else position >= count) and misbehave(handler, seen)

    return fail


def almost_complete(client):
    """Return the path of an upload that lacks its end."""
    path = client.begun(len(CONTENT))
    for offset in range(BEGINNING):
        client.patch(path, offset, CONTENT[offset : offset + 1])
    return path


def end(client, path):
    """Send the end, and return the status of the answer."""
    return client.patch(path, BEGINNING, CONTENT[BEGINNING:], status="*").status_code


def repeat(client, path):
    """Send what the server asks for."""
    offset = client.offset(path)
    client.app.get(RECORD, headers=ALICE, status=404)
    client.patch(path, offset, CONTENT[offset:])


def assert_complete(client, bucket):
    """The record has the file, which is the only object in the bucket."""
    attachment = client.app.record()["attachment"]
    (key,) = bucket.keys()
    stored = bucket.content(key)
    assert attachment["location"].endswith(f"/{key}")
    assert attachment["hash"] == hashlib.sha256(stored).hexdigest()
    assert (gzip.decompress(stored) if "original" in attachment else stored) == CONTENT


def forget(client, bucket):
    client.app.delete(RECORD, headers=ALICE)
    client.app.wait_for_deletions()
    assert (bucket.keys(), states(client.app)) == ([], [])


def operations_of_end(client, bucket, proxy):
    """Return the requests to the storage that an upload ends with."""
    path = almost_complete(client)
    proxy.seen.clear()
    assert end(client, path) == 204
    operations = proxy.operations()
    assert_complete(client, bucket)
    forget(client, bucket)
    return operations


@pytest.mark.parametrize(("fault", "only"), FAULTS.values(), ids=FAULTS.keys())
def test_a_repeated_end_completes_the_file_whichever_request_failed(scene, fault, only):
    client, bucket, proxy = scene
    operations = operations_of_end(client, bucket, proxy)
    statuses = []
    for number, operation in enumerate(operations):
        if number and operation == operations[number - 1] == "Delete":
            continue
        path = almost_complete(client)
        proxy.misbehave = failing_from(number, fault, bucket, proxy, only)
        statuses.append(end(client, path))
        proxy.misbehave = taken_keys_refused(bucket, proxy)
        if statuses[-1] == 503:
            repeat(client, path)
        assert client.offset(path) == len(CONTENT)
        if statuses[-1] == 204:
            # What could not be deleted at the end is deleted later.
            expire_all(client.app)
        assert_complete(client, bucket)
        forget(client, bucket)
    assert statuses == sorted(statuses, reverse=True)
    assert set(statuses) == {503, 204}
