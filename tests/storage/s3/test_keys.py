"""Keys and locations of objects."""

import re

import pytest

from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.s3 import PART_BYTES
from tests.support.storage_contract import store


class TestNames:
    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    def test_the_nth_file_of_a_name_takes_no_more_requests_than_another(
        self, watched, bucket, proxy, size
    ):
        taken = ["story.txt", *(f"story-{number}.txt" for number in range(1, 100))]
        for name in taken:
            bucket.client.put_object(Bucket=bucket.name, Key=name, Body=b"")
        name = store(watched, b"x" * size)
        assert re.fullmatch(r"story-\d{3,4}\.txt", name)
        assert bucket.content(name) == b"x" * size
        # Five in order, one of two digits, perhaps two more.
        assert proxy.operations().count("HeadObject") <= 8

    @pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
    def test_without_if_none_match_equal_names_do_not_overwrite(self, watched, bucket, proxy, size):
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
    def test_equal_names_do_not_overwrite_if_if_none_match_is_ignored(self, storage, bucket, size):
        storage.bucket.client.boto3_client.meta.events.register("before-sign.s3", _hide_condition)
        contents = [bytes([number]) * size for number in (1, 2)]
        names = [store(storage, content) for content in contents]
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


class TestLocations:
    @pytest.mark.parametrize(
        ("settings", "location"),
        [
            ({}, "https://files.s3.amazonaws.com/"),
            ({"region": "eu-central-1"}, "https://files.s3.eu-central-1.amazonaws.com/"),
            (
                {"region": "eu-central-1", "use_path_style": "true"},
                "https://s3.eu-central-1.amazonaws.com/files/",
            ),
            ({"host": "s3.example.com"}, "https://s3.example.com/files/"),
            (
                {"host": "s3.example.com", "port": "9000", "is_secure": "false"},
                "http://s3.example.com:9000/files/",
            ),
            (
                {"host": "s3.example.com", "use_path_style": "true"},
                "https://s3.example.com/files/",
            ),
            (
                {"endpoint_url": "https://s3.example.com", "use_path_style": "true"},
                "https://s3.example.com/files/",
            ),
            ({"endpoint_url": "http://127.0.0.1:9000"}, "http://127.0.0.1:9000/files/"),
        ],
    )
    def test_without_base_url_they_are_those_of_the_bucket(self, settings, location, monkeypatch):
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        options = {f"aws.{name}": value for name, value in settings.items()}
        storage = S3Storage.from_settings({"aws.bucket_name": "files", **options}, "")
        assert storage.url("f/a.txt") == location + "f/a.txt"

    def test_names_are_percent_encoded(self, storage, bucket):
        assert storage.url("f/a b#1?.txt") == bucket.location("f/a b#1?.txt")
