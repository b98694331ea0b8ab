"""Stores that speak a part of the protocol."""

import os

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.s3.client import S3Error
from tests.support.s3 import (
    PART_BYTES,
    eventually,
)
from tests.support.storage_contract import store


def refusal(status):
    answer = {"Error": {"Code": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "operation")


class TestMissingOperations:
    """Stores that speak a part of the protocol, and what they say instead of an answer."""

    @pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidRequest")])
    def test_a_large_file_gets_its_name_without_copying_parts(
        self, watched, bucket, proxy, status, code
    ):
        proxy.misbehave = lambda handler, seen: (
            seen.operation == "UploadPartCopy" and proxy.refuse(handler, status, code)
        )
        content = os.urandom(PART_BYTES + 1)
        assert store(watched, content) == "story.txt"
        assert bucket.files() == {"story.txt": content}
        assert bucket.uploads() == []

    def test_only_what_is_too_large_for_one_copy_is_copied_in_parts(
        self, watched, bucket, proxy, monkeypatch
    ):
        monkeypatch.setattr(
            "kinto_attachment.storage.s3.staged.MAX_COPIED_AT_ONCE_BYTES", PART_BYTES
        )
        monkeypatch.setattr("kinto_attachment.storage.s3.staged.MIN_COPIED_PART_BYTES", 1)
        content = os.urandom(2 * PART_BYTES + 1)
        assert store(watched, content) == "story.txt"
        assert proxy.operations().count("UploadPartCopy") == 3
        assert "CopyObject" not in proxy.operations()
        assert bucket.files() == {"story.txt": content}

    def test_a_copy_that_stores_an_empty_file_is_none(self, watched, bucket, proxy):
        def ignore_source(handler, seen):
            if seen.operation != "CopyObject":
                return False
            proxy.answer(handler, 200, b"", [("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')])
            return True

        proxy.misbehave = ignore_source
        with pytest.raises(StorageError):
            store(watched, b"x" * (PART_BYTES + 1))
        assert eventually(lambda: bucket.keys() == [])

    @pytest.mark.parametrize(
        ("operation", "size"),
        [
            ("HeadObject", 11),
            ("Create", PART_BYTES + 1),
            ("UploadPart", PART_BYTES + 1),
            ("Complete", PART_BYTES + 1),
            ("CopyObject", PART_BYTES + 1),
            ("UploadPartCopy", PART_BYTES + 1),
        ],
    )
    @pytest.mark.parametrize("content", [b"", b"<a/>", b"<html>", b"<Error/>"])
    def test_an_odd_answer_is_an_error_of_the_storage(
        self, watched, bucket, proxy, monkeypatch, operation, size, content
    ):
        if operation == "UploadPartCopy":
            monkeypatch.setattr("kinto_attachment.storage.s3.staged.MAX_COPIED_AT_ONCE_BYTES", 1)
        proxy.misbehave = lambda handler, seen: (
            seen.operation == operation and (proxy.answer(handler, 200, content) or True)
        )
        with pytest.raises(StorageError, match=bucket.name):
            store(watched, b"x" * size)

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (501, "NotImplemented"),
            (405, "MethodNotAllowed"),
            (404, "NoSuchKey"),
            (400, "InvalidRequest"),
        ],
    )
    def test_one_warning_if_uploads_cannot_be_listed(
        self, watched, bucket, proxy, caplog, status, code
    ):
        proxy.misbehave = lambda handler, seen: (
            seen.operation == "ListMultipartUploads" and proxy.refuse(handler, status, code)
        )
        bucket.client.put_object(Bucket=bucket.name, Key=".staging/a", Body=b"")
        for _ in range(2):
            assert [upload.key for upload in watched.incomplete_uploads()] == [".staging/a"]
        assert proxy.operations().count("ListMultipartUploads") == 1
        (warning,) = caplog.records
        assert warning.levelname == "WARNING"
        assert bucket.name in warning.getMessage()
        assert code in warning.getMessage()

    @pytest.mark.parametrize(
        ("status", "code"), [(403, "AccessDenied"), (404, "NoSuchBucket"), (500, "InternalError")]
    )
    def test_a_refusal_to_list_uploads_is_an_error(self, watched, proxy, status, code):
        proxy.misbehave = lambda handler, seen: (
            seen.operation == "ListMultipartUploads" and proxy.refuse(handler, status, code)
        )
        with pytest.raises(StorageError, match=code):
            list(watched.incomplete_uploads())

    @pytest.mark.parametrize(
        "page",
        [
            b"<IsTruncated>true</IsTruncated>",
            b"<IsTruncated>true</IsTruncated>"
            b"<NextContinuationToken>a</NextContinuationToken><Contents><Key>a</Key><Size>1</Size>"
            b"<LastModified>2020-01-01T00:00:00Z</LastModified></Contents>",
            b"<Contents><Key>a</Key><Size>1</Size></Contents>",
            b"<Contents><Key>a</Key><Size>1</Size><LastModified>once</LastModified></Contents>",
            b"<Contents><Size>1</Size><LastModified>2020-01-01T00:00:00Z</LastModified></Contents>",
        ],
        ids=["no token", "always the same token", "no time", "no such time", "no key"],
    )
    def test_an_odd_list_is_an_error(self, watched, proxy, page):
        answer = b"<ListBucketResult>" + page + b"</ListBucketResult>"
        proxy.misbehave = lambda handler, seen: proxy.answer(handler, 200, answer) or True
        with pytest.raises(StorageError):
            list(watched.files())

    @pytest.mark.parametrize("status", [400, 404, 405, 501])
    def test_without_deletion_of_many_they_are_deleted_one_by_one(
        self, watched, bucket, proxy, status
    ):
        names = [store(watched, name=name, unique=True) for name in ("a.txt", "b.txt")]
        proxy.misbehave = lambda handler, seen: (
            seen.operation == "DeleteObjects" and proxy.refuse(handler, status, "Unknown")
        )
        assert watched.delete_many(names) == {}
        assert bucket.keys() == []

    def test_one_that_is_not_answered_ends_the_deletion_one_by_one(
        self, storage, bucket, monkeypatch
    ):
        names = [store(storage, name=name, unique=True) for name in ("a.txt", "b.txt", "c.txt")]
        asked, call = [], storage.bucket.call

        def lack_and_hang(operation, **parameters):
            if operation == "delete_objects":
                raise S3Error(bucket.name, refusal(501))
            asked.append(parameters["Key"])
            if parameters["Key"] == "b.txt":
                raise S3Error(bucket.name, ReadTimeoutError(endpoint_url="http://localhost"))
            return call(operation, **parameters)

        monkeypatch.setattr(storage.bucket, "call", lack_and_hang)
        assert list(storage.delete_many(names)) == ["b.txt", "c.txt"]
        assert asked == ["a.txt", "b.txt"]
        assert bucket.keys() == ["b.txt", "c.txt"]
        monkeypatch.undo()
        storage.delete_many(names)

    def test_failures_without_keys_are_reported_for_all(self, watched, bucket, proxy):
        answer = b"<DeleteResult><Error><Code>AccessDenied</Code></Error></DeleteResult>"
        proxy.misbehave = lambda handler, seen: proxy.answer(handler, 200, answer) or True
        assert list(watched.delete_many(["a.txt", "b.txt"])) == ["a.txt", "b.txt"]
