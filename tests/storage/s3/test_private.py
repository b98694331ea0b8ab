"""The ACL of private files on S3: nothing that makes one gives it that of public files."""

import pytest

from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.s3 import PART_BYTES, through
from tests.support.storage_contract import SavedPartial, store


SIZES = [11, PART_BYTES + 1]


@pytest.fixture
def sent(proxy):
    """Return the ACLs that went to S3, with their keys."""

    def acls(of="private/"):
        return [
            seen.headers.get("x-amz-acl")
            for seen in proxy.seen
            if seen.method in ("PUT", "POST") and of in seen.path and "x-amz-acl" in seen.headers
        ]

    return acls


@pytest.mark.parametrize("size", SIZES, ids=["small", "large"])
@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("key", ["private/story.txt", "private/blog/story.txt"])
def test_a_private_file_is_not_public(watched, sent, bucket, size, unique, key):
    assert store(watched, b"x" * size, key, unique) == key
    assert sent() == ["private"]
    assert bucket.keys() == [key]


@pytest.mark.parametrize("size", SIZES, ids=["small", "large"])
def test_a_replaced_private_file_is_not_public(watched, sent, size):
    staged = watched.replace("private/story.txt", "text/plain")
    staged.write(b"x" * size)
    staged.publish()
    assert sent() == ["private"]


@pytest.mark.parametrize("size", SIZES, ids=["small", "large"])
@pytest.mark.parametrize("unique", [True, False])
def test_a_private_file_that_comes_in_pieces_is_not_public(watched, sent, bucket, size, unique):
    file = SavedPartial(watched, key="private/story.txt", unique=unique)
    file.append(b"x" * size)
    assert file.publish("private/story.txt")
    assert sent("") == sent() == ["private"]
    assert bucket.content("private/story.txt") == b"x" * size


def test_without_an_acl_none_is_sent(bucket, proxy, sent):
    storage = S3Storage.from_settings(through(bucket, proxy) | {"aws.acl": ""}, "")
    store(storage, b"x", "private/story.txt")
    assert sent() == []


def test_others_have_the_configured_acl(watched, sent):
    store(watched, b"x", "privateer/story.txt", unique=True)
    assert sent("privateer/") == ["public-read"]
