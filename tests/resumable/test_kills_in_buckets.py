"""Workers that are killed while they send an upload to S3 or Google Cloud Storage."""

import gzip
import os
import uuid

import pytest

from kinto_attachment.http.record import Record
from kinto_attachment.resumable import completion
from kinto_attachment.resumable.completion import Completion
from kinto_attachment.resumable.uploads import Uploads
from kinto_attachment.storage.gcs.partial import GCSPartialFile
from kinto_attachment.storage.s3.bucket import Bucket as S3Bucket
from kinto_attachment.storage.s3.partial import S3PartialFile
from tests.support.app import RECORD, App
from tests.support.forks import expire_all, killed
from tests.support.gcs import GCSBucket
from tests.support.postgresql import postgresql_backends
from tests.support.resumable import Client, states
from tests.support.s3 import PART_BYTES, Bucket
from tests.support.settings import prefixed
from tests.support.users import ALICE


GCS_PART_BYTES = 256 * 1024
KNOWN = 5
"""How many bytes were acknowledged before."""

AT_THE_END = {
    "compressed": (Completion, "_read"),
    "key chosen": (Uploads, "save", "phase"),
    "record written": (Record, "write"),
    "committed": (Completion, "_store", "transaction"),
}
ON_S3 = {
    "multipart upload begun": (S3Bucket, "call", "create_multipart_upload"),
    "part sent": (S3Bucket, "call", "upload_part"),
    "part saved": (Uploads, "save", "parts"),
    "end sent": (S3PartialFile, "flush"),
    "completed": (S3Bucket, "call", "complete_multipart_upload"),
    "copied": (S3Bucket, "call", "copy_object"),
    "published": (S3PartialFile, "publish"),
    **AT_THE_END,
}
ON_GCS = {
    "piece sent": (GCSPartialFile, "_put"),
    "piece saved": (Uploads, "save", "parts"),
    "end sent": (GCSPartialFile, "flush"),
    "composed": (GCSPartialFile, "_compose"),
    "published": (GCSPartialFile, "publish"),
    **AT_THE_END,
}
OPTIONS = {
    "random": {},
    "named": {"randomize": "false"},
    "gzipped": {"gzipped": "true"},
}
CASES = {
    "s3": [
        # Nothing is copied to the only key that a file can have.
        *(("random", step) for step in ON_S3 if step not in ("copied", "compressed")),
        *(("named", step) for step in ("completed", "copied")),
        *(("gzipped", step) for step in ("compressed", "completed", "published")),
    ],
    "gcs": [
        *(("named", step) for step in ON_GCS if step != "compressed"),
        *(("gzipped", step) for step in ("compressed", "composed", "published")),
    ],
}


@pytest.fixture(scope="module")
def apps(external, request, postgresql, tmp_path_factory):
    """Return a Kinto and its bucket for a storage with some options."""
    made = {}

    def get(storage, options):
        if storage == "s3" and storage not in made:
            url = request.getfixturevalue("seaweedfs").endpoint_url
            made[storage] = Bucket(url, f"bucket-{uuid.uuid4()}")
        elif storage not in made:
            url = request.getfixturevalue("fake_gcs").url
            made[storage] = GCSBucket(url, f"bucket-{uuid.uuid4()}")
            made[storage].options["gcloud.part_size_bytes"] = GCS_PART_BYTES
        if (storage, options) not in made:
            settings = made[storage].settings(**OPTIONS[options])
            made[storage, options] = App(
                tmp_path_factory.mktemp("kills") / "files",
                **prefixed(settings),
                **postgresql_backends(postgresql()),
            )
        return made[storage, options], made[storage]

    yield get
    if "s3" in made:
        made["s3"].clear()
        made["s3"].client.delete_bucket(Bucket=made["s3"].name)


@pytest.fixture(
    params=[(storage, *case) for storage, cases in CASES.items() for case in cases], ids=", ".join
)
def scene(request, apps, monkeypatch):
    """Return a client with a bucket, and where its worker is killed."""
    storage, options, step = request.param
    # Whoever waits for the claim of a killed worker waits no longer.
    monkeypatch.setattr(completion, "CLAIM_SECONDS", 0)
    app, bucket = apps(storage, options)
    app.reset()
    bucket.clear()
    app.create_collection()
    return Client(app), bucket, (ON_S3 if storage == "s3" else ON_GCS)[step]


def append_and_die(client, bucket, step):
    """Return the content of an upload whose worker is killed, and the upload."""
    size = PART_BYTES if isinstance(bucket, Bucket) else 2 * GCS_PART_BYTES
    content = os.urandom(size + 1000)
    path = client.begun(len(content))
    client.patch(path, 0, content[:KNOWN])
    killed(client.app, step, lambda: client.patch(path, KNOWN, content[KNOWN:]))
    return content, path


def assert_only_file_is_left(app, bucket, content=None):
    expire_all(app)
    assert states(app) == []
    uploads = bucket.uploads() if isinstance(bucket, Bucket) else []
    if content is None:
        assert (bucket.keys(), uploads) == ([], [])
        return
    attachment = app.record()["attachment"]
    (key,) = bucket.keys()
    assert uploads == []
    assert attachment["location"] == bucket.location(key)
    stored = bucket.content(key)
    assert (gzip.decompress(stored) if "original" in attachment else stored) == content


def test_no_byte_is_lost(scene):
    client, bucket, step = scene
    content, path = append_and_die(client, bucket, step)
    offset = client.offset(path)
    assert offset >= KNOWN
    if offset < len(content):
        client.app.get(RECORD, headers=ALICE, status=404)
        client.patch(path, offset, content[offset:])
    assert client.offset(path) == len(content)
    assert_only_file_is_left(client.app, bucket, content)


def test_nothing_is_left_after_the_expiry(scene):
    client, bucket, step = scene
    content, _ = append_and_die(client, bucket, step)
    has_file = step == AT_THE_END["committed"]
    assert_only_file_is_left(client.app, bucket, content if has_file else None)
