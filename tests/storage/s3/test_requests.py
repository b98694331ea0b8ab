"""The requests to S3: how many, their headers, and their paths."""

import threading

import pytest
import requests

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.s3.bucket import MAX_DELETED_AT_ONCE
from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.forms import file_part, part
from tests.support.s3 import PART_BYTES, Proxy, eventually, is_signed_for, through
from tests.support.storage_contract import read, stage, store


class TestRequests:
    def test_a_small_upload_is_one_request(self, make_app, bucket, proxy):
        app = make_app(**bucket.settings(aws__endpoint_url=proxy.url))
        app.upload(file_part(b"x" * PART_BYTES))
        assert proxy.operations() == ["PutObject"]

    def test_a_small_upload_under_its_own_name_asks_whether_it_is_free_and_then_still_there(
        self, make_app, bucket, proxy
    ):
        app = make_app(**bucket.settings(aws__endpoint_url=proxy.url, randomize="false"))
        app.upload()
        assert proxy.operations() == ["HeadObject", "PutObject", "HeadObject"]
        assert proxy.seen[1].headers["If-None-Match"] == "*"

    def test_nothing_is_sent_of_a_small_file_before_its_form_is_checked(
        self, make_app, bucket, proxy
    ):
        app = make_app(**bucket.settings(aws__endpoint_url=proxy.url))
        app.upload(file_part(b"x" * PART_BYTES), part("data", "{not JSON"), status=400)
        assert proxy.operations() == []

    def test_a_large_file_is_sent_while_it_arrives(self, watched, proxy):
        staged = stage(watched, b"x" * (2 * PART_BYTES + 1), unique=True)
        assert eventually(lambda: proxy.operations().count("UploadPart") == 2)
        assert "Complete" not in proxy.operations()
        staged.publish()
        assert proxy.operations() == [
            "Create",
            "UploadPart",
            "UploadPart",
            "UploadPart",
            "Complete",
        ]

    def test_no_more_than_two_parts_are_in_flight(self, watched, bucket, proxy):
        blocked = threading.Event()
        first_two = threading.Barrier(3)

        def misbehave(handler, seen):
            if seen.operation == "UploadPart" and not blocked.is_set():
                first_two.wait(30)
                blocked.wait(30)
            return False

        proxy.misbehave = misbehave
        done = threading.Event()
        staged = watched.stage("large", "text/plain", unique=True)
        chunk = b"x" * 65536
        written = []

        def write():
            for _ in range(6 * PART_BYTES // len(chunk)):
                staged.write(chunk)
                written.append(len(chunk))
            staged.publish()
            done.set()

        threading.Thread(target=write, daemon=True).start()
        first_two.wait(30)
        # The writer has half of a third part in memory, and waits.
        assert not done.wait(0.5)
        assert 2 * PART_BYTES < sum(written) <= 2.5 * PART_BYTES
        assert proxy.operations().count("UploadPart") == 2
        blocked.set()
        assert done.wait(30)
        assert proxy.most_parts_at_once <= 2
        assert bucket.content("large") == b"x" * (6 * PART_BYTES)

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    @pytest.mark.parametrize("unique", [True, False])
    def test_mimetype_and_headers_are_those_of_the_object(self, bucket, size, unique):
        options = {
            **bucket.options,
            "aws.cache_control": "public, max-age=31536000, immutable",
            "aws.content_disposition": "inline",
        }
        store(S3Storage.from_settings(options, ""), b"x" * size, unique=unique)
        stored = bucket.client.head_object(Bucket=bucket.name, Key="story.txt")
        assert stored["ContentType"] == "text/plain"
        assert stored["CacheControl"] == "public, max-age=31536000, immutable"
        assert stored["ContentDisposition"] == "inline"

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    @pytest.mark.parametrize(
        ("acl", "sent"), [(None, "public-read"), ("private", "private"), ("", None)]
    )
    def test_the_acl_is_the_configured_one(self, bucket, proxy, size, acl, sent):
        options = through(bucket, proxy) | ({} if acl is None else {"aws.acl": acl})
        store(S3Storage.from_settings(options, ""), b"x" * size, unique=True)
        assert proxy.seen[0].headers.get("x-amz-acl") == sent

    def test_a_large_file_is_private_until_it_has_its_name(self, watched, proxy):
        store(watched, b"x" * (PART_BYTES + 1))
        made = [seen for seen in proxy.seen if seen.operation in ("Create", "CopyObject")]
        assert [seen.headers.get("x-amz-acl") for seen in made] == [None, "public-read"]

    @pytest.mark.parametrize(
        ("checksums", "header"),
        [(None, "Content-MD5"), ("when_required", "Content-MD5"), ("when_supported", "crc32")],
    )
    def test_a_checksum_travels_with_every_part(self, bucket, proxy, checksums, header):
        options = through(bucket, proxy) | ({"aws.checksums": checksums} if checksums else {})
        storage = S3Storage.from_settings(options, "")
        store(storage, b"x", "small", unique=True)
        store(storage, b"x" * (PART_BYTES + 1), "large", unique=True)
        sent = [seen for seen in proxy.seen if seen.method == "PUT"]
        assert len(sent) == 3
        for seen in sent:
            assert any(header in name for name in seen.headers)

    @pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
    def test_a_file_that_is_damaged_on_its_way_is_refused(self, bucket, proxy, checksums):
        def damage(handler, seen):
            handler.body = handler.body.replace(b"time", b"lime")
            return False

        proxy.misbehave = damage
        storage = S3Storage.from_settings(through(bucket, proxy) | {"aws.checksums": checksums}, "")
        with pytest.raises(StorageError):
            store(storage, b"once upon a time", unique=True)
        assert bucket.keys() == []

    def test_on_amazon_botocore_chooses_the_checksums(self):
        options = {"aws.bucket_name": "files", "aws.region": "eu-central-1"}
        storage = S3Storage.from_settings(options, "")
        assert (
            storage.bucket.client.boto3_client.meta.config.request_checksum_calculation
            == "when_supported"
        )
        assert storage.bucket.checksum(b"x") == {}

    def test_a_thousand_are_deleted_by_one_request(self, watched, bucket, proxy):
        store(watched, name="story.txt", unique=True)
        proxy.seen.clear()
        gone = [f"gone-{number}" for number in range(MAX_DELETED_AT_ONCE)]
        assert watched.delete_many([*gone, "story.txt", "also-gone"]) == {}
        assert proxy.operations() == ["DeleteObjects", "DeleteObjects"]
        assert bucket.keys() == []


class TestEndpointWithPath:
    """Stores of which the root is not that of their host, like Supabase's."""

    PREFIX = "/storage/v1/s3"

    @pytest.fixture
    def proxy(self, fake_bucket):
        proxy = Proxy(fake_bucket.endpoint_url, self.PREFIX)
        yield proxy
        proxy.stop()

    @pytest.fixture(params=["", "/"])
    def storage(self, request, fake_bucket, proxy):
        options = fake_bucket.options | {"aws.endpoint_url": proxy.url + request.param}
        return S3Storage.from_settings(options | {"aws.region": "us-east-1"}, "")

    def test_every_request_has_the_path_and_is_signed_for_it(self, storage, proxy, fake_bucket):
        small = store(storage)
        large = store(storage, b"x" * (PART_BYTES + 1))
        assert [read(storage, small), len(read(storage, large))] == [
            b"once upon a time",
            PART_BYTES + 1,
        ]
        assert {stored.key for stored in storage.files()} == {small, large}
        assert storage.delete_many([small, large]) == {}
        assert list(storage.incomplete_uploads()) == []
        assert {"PutObject", "Create", "UploadPart", "Complete", "CopyObject", "DeleteObjects"} <= {
            *proxy.operations()
        }
        for seen in proxy.seen:
            assert seen.path.startswith(f"{self.PREFIX}/{fake_bucket.name}")
            assert is_signed_for(seen, proxy.url)
        assert fake_bucket.keys() == []

    def test_locations_are_below_it(self, storage, proxy, fake_bucket):
        assert storage.url("f/a.txt") == f"{proxy.url}/{fake_bucket.name}/f/a.txt"
        store(storage)
        response = requests.get(storage.url("story.txt"), timeout=10)
        assert response.content == b"once upon a time"


def test_only_the_bytes_that_are_wanted_are_asked_for(watched, proxy):
    store(watched, b"once upon a time")
    proxy.seen.clear()
    with watched.open_range("story.txt", 5, 4) as part_of_file:
        assert part_of_file.read() == b"upon"
    assert [(seen.operation, seen.headers["Range"]) for seen in proxy.seen] == [
        ("GetObject", "bytes=5-8")
    ]


def test_a_read_that_fails_on_the_way_is_an_error_of_the_storage(watched, proxy):
    store(watched, b"once upon a time")

    def cut_off(handler, seen):
        handler.send_response_only(206)
        handler.send_header("Content-Length", "16")
        handler.end_headers()
        handler.wfile.write(b"once")
        handler.close_connection = True
        return True

    proxy.misbehave = cut_off
    with watched.open_range("story.txt", 0, 16) as part_of_file, pytest.raises(StorageError):
        part_of_file.read()
