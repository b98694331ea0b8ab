"""The ACL of private files on Google Cloud Storage."""

import pytest

from tests.support.gcs import PART_BYTES, gcs_storage, through
from tests.support.storage_contract import SavedPartial, store


SIZES = [11, PART_BYTES + 1]


def acls(proxy):
    """Return the predefined ACLs that were sent."""
    return [seen.query["predefinedAcl"] for seen in proxy.seen if "predefinedAcl" in seen.query]


@pytest.mark.parametrize("size", SIZES, ids=["small", "large"])
@pytest.mark.parametrize("unique", [True, False])
def test_a_private_file_is_not_public(watched, gcs_proxy, size, unique):
    assert store(watched, b"x" * size, "private/story.txt", unique) == "private/story.txt"
    assert set(acls(gcs_proxy)) == {"private"}


@pytest.mark.parametrize("size", SIZES, ids=["small", "large"])
def test_a_replaced_private_file_is_not_public(watched, gcs_proxy, size):
    staged = watched.replace("private/story.txt", "text/plain")
    staged.write(b"x" * size)
    staged.publish()
    assert acls(gcs_proxy) == ["private"]


def test_a_composed_private_file_is_not_public(watched, gcs_proxy):
    file = SavedPartial(watched, key="private/story.txt")
    file.append(b"once upon ")
    file.append(b"a time")
    assert file.publish("private/story.txt")
    assert acls(gcs_proxy) == ["private"]


def test_without_an_acl_none_is_sent(gcs_bucket, gcs_proxy):
    storage = gcs_storage(through(gcs_bucket, gcs_proxy), acl="")
    store(storage, b"x", "private/story.txt", unique=True)
    assert acls(gcs_proxy) == []


def test_others_have_the_configured_acl(watched, gcs_proxy):
    store(watched, b"x", "privateer/story.txt", unique=True)
    assert acls(gcs_proxy) == ["publicRead"]
