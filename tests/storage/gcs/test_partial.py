"""Files on Google Cloud Storage that come in pieces: requests, conditions, faults."""

import os
import tracemalloc

import pytest

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.gcs import partial
from tests.support.gcs import gcs_storage, through
from tests.support.storage_contract import SavedPartial, read, store


PART_BYTES = 256 * 1024


@pytest.fixture
def make_storage(gcs_bucket, gcs_proxy):
    def make(**more):
        options = through(gcs_bucket, gcs_proxy)
        return gcs_storage(options, **{"part_size_bytes": PART_BYTES, "timeout": 1, **more})

    return make


@pytest.fixture
def storage(make_storage):
    return make_storage()


@pytest.fixture
def filled(storage):
    filled = SavedPartial(storage)
    filled.append(b"once upon ")
    filled.append(b"a time")
    return filled


def test_a_file_of_any_number_of_pieces_is_composed_by_one_request_at_the_end(
    storage, gcs_bucket, gcs_proxy, monkeypatch
):
    monkeypatch.setattr(partial, "MAX_COMPOSED", 4)
    content = os.urandom(20)
    file = SavedPartial(storage)
    sizes = []
    for number in range(len(content)):
        file.append(content[number : number + 1])
        sizes.append([piece[1:] for piece in file.state["pieces"]])
    assert sizes[:9] == [
        [[1, 0]],
        [[1, 0], [1, 0]],
        [[1, 0], [1, 0], [1, 0]],
        [[4, 1]],
        [[4, 1], [1, 0]],
        [[4, 1], [1, 0], [1, 0]],
        [[4, 1], [3, 1]],
        [[4, 1], [3, 1], [1, 0]],
        [[4, 1], [3, 1], [2, 1]],
    ]
    assert sizes[9] == [[10, 2]]
    assert max(map(len, sizes)) == 3
    gcs_proxy.seen.clear()
    assert file.publish("story.txt")
    assert gcs_proxy.operations() == ["Get", "Compose", "Patch"]
    file.discard()
    assert gcs_bucket.files() == {"story.txt": content}


def test_a_file_never_takes_a_key_that_another_took_meanwhile(filled, gcs_bucket, gcs_proxy):
    def take_key(handler, seen):
        if seen.operation != "Compose":
            return False
        assert seen.query["ifGenerationMatch"] == "0"
        gcs_bucket.bucket.blob("story.txt").upload_from_string(b"other")
        return gcs_proxy.refuse(handler, 412, "conditionNotMet")

    gcs_proxy.misbehave = take_key
    assert not filled.publish("story.txt")
    assert gcs_bucket.content("story.txt") == b"other"


def test_a_file_whose_composition_is_not_answered_is_published(filled, gcs_bucket, gcs_proxy):
    tries = []

    def lose_answer(handler, seen):
        if seen.operation != "Compose":
            return False
        tries.append(seen)
        if len(tries) > 1:
            return gcs_proxy.refuse(handler, 412, "conditionNotMet")
        gcs_proxy.forward(handler, answer=False)
        return gcs_proxy.refuse(handler, 503, "backendError")

    gcs_proxy.misbehave = lose_answer
    assert filled.publish("story.txt")
    assert len(tries) == 2
    assert gcs_bucket.content("story.txt") == b"once upon a time"


@pytest.mark.parametrize("acl", ["publicRead", ""])
def test_a_file_has_its_headers_and_its_acl_and_its_pieces_have_none(
    make_storage, gcs_bucket, gcs_proxy, acl
):
    file = SavedPartial(make_storage(acl=acl, cache_control="no-cache"))
    file.append(b"once upon a time")
    assert file.publish("story.txt")
    # As after a kill before it got its ACL.
    assert file.publish("story.txt")
    sent = [
        (seen.operation, seen.query.get("predefinedAcl"))
        for seen in gcs_proxy.seen
        if seen.method != "GET"
    ]
    with_acl = [("Patch", acl)] if acl else []
    assert sent == [("Upload", None), ("Compose", None), *with_acl, *with_acl]
    stored = gcs_bucket.bucket.get_blob("story.txt")
    assert (stored.content_type, stored.cache_control) == ("text/plain", "no-cache")


def test_a_file_that_is_composed_wrongly_is_not_published(filled, gcs_bucket):
    key = filled.state["pieces"][0][0]
    gcs_bucket.bucket.blob(key).upload_from_string(b"ONCE UPON ")
    for _ in range(2):
        with pytest.raises(StorageError, match="another CRC32C"):
            filled.publish("story.txt")


def test_a_piece_that_is_damaged_on_its_way_is_refused(storage, gcs_proxy):
    def damage(handler, seen):
        handler.body = handler.body.replace(b"123", b"321")
        return False

    file = SavedPartial(storage)
    gcs_proxy.misbehave = damage
    with pytest.raises(StorageError, match="another CRC32C"):
        file.append(b"123456789")
    assert [seen.headers.get("X-Goog-Hash") for seen in gcs_proxy.seen] == [
        None,
        "crc32c=4waSgw==",
    ]
    gcs_proxy.misbehave = lambda handler, seen: False
    file.append(b"123456789")
    assert file.publish("story.txt")
    assert read(storage, "story.txt") == b"123456789"


def test_two_parts_are_in_memory_however_large_the_file_is(gcs_bucket):
    part_bytes = 8 * PART_BYTES
    storage = gcs_storage(gcs_bucket.options, part_size_bytes=part_bytes)
    file = SavedPartial(storage).resume()
    chunk = os.urandom(part_bytes // 32)
    tracemalloc.start()
    try:
        for _ in range(6 * 32):
            file.write(chunk)
        file.flush()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    file.close()
    assert peak < 2.5 * part_bytes


def test_nothing_counts_that_follows_a_piece_that_could_not_be_sent(storage, filled, gcs_proxy):
    file = filled.resume()
    file.write(b"x" * PART_BYTES)
    gcs_proxy.misbehave = lambda handler, seen: (
        seen.operation == "Upload" and gcs_proxy.refuse(handler, 503, "backendError")
    )
    with pytest.raises(StorageError):
        file.write(b"y" * 2 * PART_BYTES)
    gcs_proxy.misbehave = lambda handler, seen: False
    with pytest.raises(StorageError):
        file.flush()
    assert file.state == filled.state
    filled.append(b", and")
    assert filled.publish("story.txt")
    assert read(storage, "story.txt") == b"once upon a time, and"


def test_the_pieces_of_another_file_stay(storage, filled, gcs_bucket):
    compressed = SavedPartial(storage, name=f"{filled.name}.gz")
    compressed.append(b"gz")
    store(storage)
    filled.append(b"!")
    filled.discard()
    compressed.append(b"!")
    assert len(gcs_bucket.keys()) == 3
    compressed.discard()
    assert gcs_bucket.keys() == ["story.txt"]
