"""Faults of the S3 backend of pyramid_storage that the adapter repairs.

Every check passes with the adapter, and fails with the library's class.
"""

import contextlib
import io

import pytest
from botocore.exceptions import ClientError, ParamValidationError
from pyramid_storage.exceptions import FileNotAllowed
from pyramid_storage.s3 import S3FileStorage

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.s3.adapter import RepairedS3FileStorage
from tests.support.s3 import ACCESS_KEY, SECRET_KEY


BASE = {
    "storage.aws.bucket_name": "files",
    "storage.aws.region": "us-east-1",
    "storage.aws.access_key": ACCESS_KEY,
    "storage.aws.secret_key": SECRET_KEY,
}


def make(storage_class, **settings):
    prefixed = {f"storage.aws.{name}": value for name, value in settings.items()}
    return storage_class.from_settings(BASE | prefixed, prefix="storage.")


def make_on(storage_class, bucket, **settings):
    """A storage on a server, of the library's class by handing it a client that works."""
    if storage_class is RepairedS3FileStorage:
        settings = {"endpoint_url": bucket.endpoint_url, "bucket_name": bucket.name} | settings
        return make(RepairedS3FileStorage, **settings)

    class WithClient(S3FileStorage):
        s3_client = bucket.client

    return make(WithClient, bucket_name=bucket.name, **settings)


def a_second_operation_works(storage_class, bucket):
    storage = make(storage_class)
    assert storage.s3_client
    assert storage.s3_client


def the_client_is_made_once(storage_class, bucket):
    storage = make(storage_class)
    assert storage.s3_client is storage.s3_client


def an_endpoint_needs_no_region(storage_class, bucket):
    storage = make(storage_class, host="127.0.0.1", port=9000, region=None)
    assert storage.s3_client.meta.endpoint_url == "https://127.0.0.1:9000"


def an_endpoint_is_used_with_a_region_too(storage_class, bucket):
    storage = make(storage_class, host="127.0.0.1", port=9000, region="eu-central-1")
    assert storage.s3_client.meta.endpoint_url == "https://127.0.0.1:9000"


def is_secure_means_https(storage_class, bucket):
    storage = make(storage_class, host="127.0.0.1", port=9000, region=None, is_secure="false")
    assert storage.s3_client.meta.endpoint_url == "http://127.0.0.1:9000"


def the_timeout_is_for_reading_too(storage_class, bucket):
    config = make(storage_class, timeout=3).s3_client.meta.config
    assert config.connect_timeout == config.read_timeout <= 3


def the_number_of_tries_is_the_configured_one(storage_class, bucket):
    # The retries of botocore, five by default, are off.
    retries = make(storage_class, num_retries=1).s3_client.meta.config.retries
    assert retries["total_max_attempts"] == 1


def equal_names_do_not_overwrite(storage_class, bucket):
    storage = make_on(storage_class, bucket)
    first = storage.save_file(io.BytesIO(b"1"), "a.txt")
    second = storage.save_file(io.BytesIO(b"2"), "a.txt")
    assert first != second
    assert bucket.files() == {first: b"1", second: b"2"}


def replace_overwrites_and_nothing_else_does(storage_class, bucket):
    storage = make_on(storage_class, bucket)
    for content, replace in ((b"1", False), (b"2", True), (b"3", False)):
        storage.save_file(io.BytesIO(content), "a.txt", replace=replace)
    assert bucket.files() == {"a.txt": b"2", "a-1.txt": b"3"}


def an_empty_acl_sends_none(storage_class, bucket):
    storage = make_on(storage_class, bucket, acl="")
    sent = []

    def look(params, **kwargs):
        sent.append(params["headers"].get("x-amz-acl"))

    storage.s3_client.meta.events.register("before-call.s3.PutObject", look)
    try:
        storage.save_file(io.BytesIO(b"1"), "a.txt")
    finally:
        storage.s3_client.meta.events.unregister("before-call.s3.PutObject", look)
    assert sent == [None]


def no_extensions_means_any(storage_class, bucket):
    make_on(storage_class, bucket).save_file(io.BytesIO(b"1"), "a.exe", extensions=())
    assert bucket.keys() == ["a.exe"]


def headers_are_kept(storage_class, bucket):
    headers = {"Content-Type": "text/x-tale", "Cache-Control": "no-cache"}
    name = make_on(storage_class, bucket).save_file(io.BytesIO(b"1"), "a.txt", headers=headers)
    stored = bucket.client.head_object(Bucket=bucket.name, Key=name)
    assert (stored["ContentType"], stored["CacheControl"]) == ("text/x-tale", "no-cache")


def a_name_without_ascii_letters_keeps_its_extension(storage_class, bucket):
    name = make_on(storage_class, bucket).save_file(io.BytesIO(b"1"), "日本.txt")
    assert name.endswith(".txt")


def a_location_is_percent_encoded(storage_class, bucket):
    storage = make_on(storage_class, bucket)
    storage.base_url = "https://example.org/files/"
    assert storage.url("a b#1.txt") == "https://example.org/files/a%20b%231.txt"


def deleting_tells_whether_there_was_a_file(storage_class, bucket):
    storage = make_on(storage_class, bucket)
    name = storage.save_file(io.BytesIO(b"1"), "a.txt")
    assert [storage.delete(name), storage.delete(name)] == [True, False]


def a_refused_question_is_no_answer(storage_class, bucket):
    storage = make_on(storage_class, bucket)
    storage.s3_client.meta.events.register("before-call.s3.HeadObject", _refuse)
    try:
        with contextlib.suppress(StorageError):
            raise AssertionError(storage.exists("a.txt"))
    finally:
        storage.s3_client.meta.events.unregister("before-call.s3.HeadObject", _refuse)


def _refuse(**kwargs):
    response = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    raise ClientError(response, "HeadObject")


CHECKS = [
    a_second_operation_works,
    the_client_is_made_once,
    an_endpoint_needs_no_region,
    an_endpoint_is_used_with_a_region_too,
    is_secure_means_https,
    the_timeout_is_for_reading_too,
    the_number_of_tries_is_the_configured_one,
    equal_names_do_not_overwrite,
    replace_overwrites_and_nothing_else_does,
    an_empty_acl_sends_none,
    no_extensions_means_any,
    headers_are_kept,
    a_name_without_ascii_letters_keeps_its_extension,
    a_location_is_percent_encoded,
    deleting_tells_whether_there_was_a_file,
    a_refused_question_is_no_answer,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_adapter_passes(check, bucket):
    check(RepairedS3FileStorage, bucket)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_library_fails(check, bucket):
    # Some faults show in what is asserted, some raise.
    with pytest.raises((AssertionError, KeyError, TypeError, ParamValidationError, FileNotAllowed)):
        check(S3FileStorage, bucket)


def test_a_file_object_is_saved_under_the_interface_of_the_library(bucket):
    storage = make_on(RepairedS3FileStorage, bucket)
    name = storage.save_file(io.BytesIO(b"1"), "a.txt", folder="f", randomize=True)
    assert name.startswith("f/")
    assert bucket.files() == {name: b"1"}


def test_an_extension_that_is_not_allowed_is_refused(bucket):
    with pytest.raises(FileNotAllowed):
        make_on(RepairedS3FileStorage, bucket).save_file(io.BytesIO(b"1"), "a.exe")
    assert bucket.keys() == []


def test_another_bucket_can_be_named(bucket, seaweedfs):
    other = type(bucket)(seaweedfs.endpoint_url, f"{bucket.name}-2"[-60:].lstrip("-"))
    storage = make_on(RepairedS3FileStorage, bucket)
    name = storage.save_file(io.BytesIO(b"1"), "a.txt", bucket_name=other.name)
    assert (bucket.keys(), other.keys()) == ([], [name])
    assert (storage.exists(name), storage.exists(name, other.name)) == (False, True)
    storage.delete(name, other.name)
    assert other.keys() == []
    other.client.delete_bucket(Bucket=other.name)
