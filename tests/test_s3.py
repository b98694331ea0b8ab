"""Files in a bucket: what is sent, what is kept, and what happens when S3 does not work."""

import multiprocessing
import os
import threading

import pytest
import requests

from kinto_attachment.storage import Heartbeat, StorageError
from kinto_attachment.storage.s3 import MAX_DELETED_AT_ONCE, S3Storage
from tests.s3_support import MIB, PART_BYTES, eventually, through
from tests.storage_contract import read, stage, store
from tests.support import file_part, part


@pytest.fixture
def app(make_app, bucket):
    """A Kinto whose files are in a bucket."""
    return make_app(**bucket.settings())


@pytest.fixture
def storage(bucket):
    return S3Storage.from_settings(bucket.options, "")


@pytest.fixture
def watched(bucket, proxy):
    """The storage, its requests seen by the proxy."""
    return S3Storage.from_settings(through(bucket, proxy), "")


def content_of(bucket, attachment):
    return bucket.content(attachment["location"].removeprefix(bucket.location("")))


class TestAttachments:
    def test_an_uploaded_file_is_fetched_from_its_location(self, app, bucket):
        attachment = app.upload(file_part(b"once upon a time")).json
        response = requests.get(attachment["location"], timeout=10)
        assert response.content == b"once upon a time"
        assert response.headers["Content-Type"].startswith("text/plain")

    def test_a_large_file_is_the_one_that_was_sent(self, app, bucket):
        content = os.urandom(2 * PART_BYTES + MIB)
        attachment = app.upload(file_part(content, "a.pdf", "application/pdf")).json
        assert content_of(bucket, attachment) == content
        assert bucket.uploads() == []

    def test_the_previous_file_goes_when_another_is_attached(self, app, bucket):
        app.upload(file_part(b"old"))
        attachment = app.upload(file_part(b"new")).json
        assert content_of(bucket, attachment) == b"new"
        assert len(bucket.keys()) == 1

    def test_the_file_goes_when_it_is_detached(self, app, bucket):
        app.upload()
        app.delete("/buckets/blog/collections/photos/records/first/attachment", headers=app_user())
        assert bucket.keys() == []

    @pytest.mark.parametrize("size", [11, 2 * PART_BYTES + 1], ids=["small", "large"])
    def test_nothing_is_left_of_a_file_whose_form_is_refused(self, app, bucket, size):
        app.upload(file_part(b"x" * size), part("data", "{not JSON"), status=400)
        assert bucket.keys() == []
        assert bucket.uploads() == []

    @pytest.mark.parametrize("size", [11, 2 * PART_BYTES + 1], ids=["small", "large"])
    def test_nothing_is_left_of_a_file_whose_record_is_refused(self, make_app, bucket, size):
        app = make_app(**bucket.settings(), experimental_collection_schema_validation="true")
        schema = {"type": "object", "properties": {"title": {"type": "string"}}}
        app.create_collection(schema=schema)
        app.upload(file_part(b"x" * size), part("data", '{"title": 1}'), status=400)
        assert bucket.keys() == []
        assert bucket.uploads() == []

    def test_the_capability_tells_the_url_of_the_bucket(self, app, bucket):
        capability = app.get("/").json["capabilities"]["attachments"]
        assert capability["base_url"] == bucket.location("")

    def test_a_base_url_stands_instead_of_that_of_the_bucket(self, make_app, bucket):
        app = make_app(**bucket.settings(base_url="https://cdn.example.org"))
        location = app.upload().json["location"]
        assert location == f"https://cdn.example.org/{bucket.keys()[0]}"


def app_user():
    from tests.support import ALICE

    return ALICE


class TestWhatIsSent:
    def test_a_small_upload_is_one_request(self, make_app, bucket, proxy):
        app = make_app(**bucket.settings(aws__endpoint_url=proxy.url))
        app.upload(file_part(b"x" * PART_BYTES))
        assert proxy.operations() == ["PutObject"]

    def test_a_small_upload_under_its_own_name_asks_first_whether_it_is_free(
        self, make_app, bucket, proxy
    ):
        app = make_app(**bucket.settings(aws__endpoint_url=proxy.url, randomize="false"))
        app.upload()
        assert proxy.operations() == ["HeadObject", "PutObject"]
        assert proxy.seen[-1].headers["If-None-Match"] == "*"

    def test_nothing_is_sent_of_a_small_file_before_its_form_is_checked(
        self, make_app, bucket, proxy
    ):
        app = make_app(**bucket.settings(aws__endpoint_url=proxy.url))
        app.upload(file_part(b"x" * PART_BYTES), part("data", "{not JSON"), status=400)
        assert proxy.operations() == []

    def test_a_large_file_goes_up_while_it_comes(self, watched, proxy):
        staged = stage(watched, b"x" * (2 * PART_BYTES + 1), unique=True)
        assert eventually(lambda: proxy.operations().count("UploadPart") == 2)
        assert "Complete" not in proxy.operations()
        staged.publish()
        assert proxy.operations() == ["Create", "UploadPart", "UploadPart", "UploadPart", "Complete"]

    def test_no_more_than_two_parts_are_on_their_way(self, watched, bucket, proxy):
        blocked = threading.Event()
        first_two = threading.Barrier(3)

        def misbehave(handler, seen):
            if seen.operation == "UploadPart" and not blocked.is_set():
                first_two.wait(30)
                blocked.wait(30)
            return False

        proxy.misbehave = misbehave
        done = threading.Event()

        def write():
            store(watched, b"x" * (6 * PART_BYTES), "large", unique=True)
            done.set()

        threading.Thread(target=write, daemon=True).start()
        first_two.wait(30)
        # The writer has a third part in memory, and waits.
        assert not done.wait(0.5)
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
        creates = [seen for seen in proxy.seen if seen.operation == "Create"]
        assert [seen.headers.get("x-amz-acl") for seen in creates] == [None, "public-read"]

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
        assert storage.s3_client.meta.config.request_checksum_calculation == "when_supported"
        assert storage.checksum(b"x") == {}

    def test_a_thousand_are_deleted_by_one_request(self, watched, bucket, proxy):
        store(watched, name="story.txt", unique=True)
        proxy.seen.clear()
        gone = [f"gone-{number}" for number in range(MAX_DELETED_AT_ONCE)]
        assert watched.delete_many([*gone, "story.txt", "also-gone"]) == {}
        assert proxy.operations() == ["DeleteObjects", "DeleteObjects"]
        assert bucket.keys() == []


class TestNames:
    def refuse_condition(self, handler, seen):
        """What a store does that says that it does not know the header."""
        if "If-None-Match" not in seen.headers:
            return False
        return handler_refuses(handler, 501, "NotImplemented")

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    def test_without_if_none_match_equal_names_do_not_overwrite(
        self, watched, bucket, proxy, size
    ):
        proxy.misbehave = lambda handler, seen: (
            "If-None-Match" in seen.headers and proxy.refuse(handler, 501, "NotImplemented")
        )
        contents = [bytes([number]) * size for number in (1, 2)]
        names = [store(watched, content) for content in contents]
        assert bucket.files() == dict(zip(names, contents, strict=True))
        assert names == ["story.txt", "story-1.txt"]
        # The store is asked to once, and not again.
        assert sum("If-None-Match" in seen.headers for seen in proxy.seen) == 1

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    def test_where_if_none_match_is_ignored_equal_names_do_not_overwrite(
        self, watched, bucket, proxy, size
    ):
        def ignore(handler, seen):
            del handler.headers["If-None-Match"]
            return False

        # The header is signed by nobody who verifies it here, so that the proxy can take it away.
        watched.s3_client.meta.events.register("before-sign.s3", _hide_condition)
        proxy.misbehave = ignore
        contents = [bytes([number]) * size for number in (1, 2)]
        names = [store(watched, content) for content in contents]
        assert names == ["story.txt", "story-1.txt"]
        assert bucket.files() == dict(zip(names, contents, strict=True))

    def test_a_conflict_with_another_write_leads_to_the_next_name(self, watched, bucket, proxy):
        refusals = iter([True])
        proxy.misbehave = lambda handler, seen: (
            "If-None-Match" in seen.headers
            and next(refusals, False)
            and proxy.refuse(handler, 409, "ConditionalRequestConflict")
        )
        assert store(watched) == "story-1.txt"


def _hide_condition(request, **kwargs):
    del request.headers["If-None-Match"]


FAULTS = {
    "refuses": lambda proxy: lambda handler, seen: proxy.refuse(handler, 403, "AccessDenied"),
    "has no such bucket": lambda proxy: lambda handler, seen: proxy.refuse(
        handler, 404, "NoSuchBucket"
    ),
    "is overloaded": lambda proxy: lambda handler, seen: proxy.refuse(handler, 503, "SlowDown"),
    "breaks off": lambda proxy: _break_off,
    "answers nonsense": lambda proxy: lambda handler, seen: (
        proxy.answer(handler, 500, b"<html>") or True
    ),
}


def _break_off(handler, seen):
    handler.close_connection = True
    return True
