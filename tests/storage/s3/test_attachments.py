"""Attachments in a bucket."""

import os

import pytest
import requests

from tests.support.app import ATTACHMENT
from tests.support.forms import file_part, part
from tests.support.s3 import MIB, PART_BYTES
from tests.support.threads import threads
from tests.support.users import ALICE


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

    def test_the_previous_file_is_deleted_when_another_is_attached(self, app, bucket):
        app.upload(file_part(b"old"))
        attachment = app.upload(file_part(b"new")).json
        assert content_of(bucket, attachment) == b"new"
        app.wait_for_deletions()
        assert len(bucket.keys()) == 1

    def test_the_file_is_deleted_when_it_is_detached(self, app, bucket):
        app.upload()
        app.delete(ATTACHMENT, headers=ALICE)
        app.wait_for_deletions()
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

    def test_the_capability_has_the_url_of_the_bucket(self, app, bucket):
        capability = app.get("/").json["capabilities"]["attachments"]
        assert capability["base_url"] == bucket.location("")

    def test_requests_start_no_threads(self, make_app, bucket):
        app = make_app(**bucket.settings(gzipped="true", gzip_level="1"))
        large = os.urandom(2 * PART_BYTES + MIB)
        app.upload(file_part(large))
        app.get("/__heartbeat__")
        app.wait_for_deletions()
        before = threads()
        for content in (b"small", large, b"small"):
            app.upload(file_part(content))
            app.get("/__heartbeat__", status=200)
            app.wait_for_deletions()
        assert threads() == before
        assert len(bucket.keys()) == 1

    def test_a_base_url_replaces_that_of_the_bucket(self, make_app, bucket):
        app = make_app(**bucket.settings(base_url="https://cdn.example.org"))
        location = app.upload().json["location"]
        assert location == f"https://cdn.example.org/{bucket.keys()[0]}"
