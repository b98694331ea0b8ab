"""A storage in a bucket, and a server with its files there."""

import pytest

from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.s3 import through


@pytest.fixture
def app(make_app, bucket):
    """A Kinto whose files are in a bucket."""
    return make_app(**bucket.settings())


@pytest.fixture
def storage(bucket):
    return S3Storage.from_settings(bucket.options, "")


@pytest.fixture
def watched(bucket, proxy):
    """The storage, with its requests through a proxy that records them."""
    return S3Storage.from_settings(through(bucket, proxy), "")
