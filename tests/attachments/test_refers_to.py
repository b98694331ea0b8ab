"""Which file metadata is about, without a server."""

import pytest

from kinto_attachment.metadata import is_located_at, is_private_location, refers_to
from kinto_attachment.reconcile import RecordState, is_lost_update, needs_source, settle
from kinto_attachment.settings.read import read_settings
from kinto_attachment.storage.names import KeyPatterns, is_private


RECORD = "/buckets/a/collections/b/records/c"
LOCATION = f"https://kinto.test/v1{RECORD}/attachment"
FIRST = {"location": LOCATION, "hash": "1", "size": 1}
SECOND = {**FIRST, "hash": "2"}
PUBLIC = {"location": "https://files.test/x.txt", "hash": "3"}


def link(attachment, key="private/1.txt", record_uri=RECORD):
    return {
        "id": key,
        "location": key,
        "attachment": attachment,
        "record_uri": record_uri,
        "origin": "/buckets/a/collections/b",
    }


LINK = link(FIRST)
SECOND_LINK = link(SECOND, "private/2.txt")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (LOCATION, True),
        (f"/v1{RECORD}/attachment", True),
        (f"https://other.test{RECORD}/attachment", True),
        (LOCATION.replace("/c/", "/%63/"), True),
        (f"{LOCATION}/", False),
        (f"{LOCATION}?x", False),
        (f"{LOCATION}/link", False),
        (LOCATION.replace("/c/", "/d/"), False),
        (LOCATION.replace("/c/", "/xc/"), False),
        ("private/1.txt", False),
        (None, False),
        (1, False),
    ],
)
def test_the_location_of_a_private_file_ends_in_its_record(location, expected):
    assert is_private_location({"location": location}, RECORD) is expected


@pytest.mark.parametrize("attachment", [None, 1, [], {}, "x"])
def test_other_metadata_is_about_no_file(attachment):
    assert not is_private_location(attachment, RECORD)
    assert not refers_to(attachment, LINK)


@pytest.mark.parametrize(
    ("attachment", "linked", "expected"),
    [
        pytest.param(FIRST, LINK, True, id="the file"),
        pytest.param({**FIRST, "size": 9}, LINK, True, id="other metadata"),
        pytest.param(SECOND, LINK, False, id="another file of the record"),
        pytest.param({"location": LOCATION}, LINK, True, id="without a hash"),
        pytest.param(FIRST, link(None), True, id="a link without metadata"),
        pytest.param(FIRST, link(FIRST, record_uri=f"{RECORD}c"), False, id="another record"),
        pytest.param(FIRST, link(FIRST, "attachment"), True, id="a public key at its end"),
        pytest.param(PUBLIC, link(PUBLIC, "x.txt"), True, id="public"),
        pytest.param({**PUBLIC, "hash": "4"}, link(PUBLIC, "x.txt"), True, id="public, forged"),
        pytest.param(
            {"location": "https://files.test/private/1.txt", "hash": "4"}, LINK, True, id="by key"
        ),
    ],
)
def test_metadata_is_about_the_file_of_a_link(attachment, linked, expected):
    assert refers_to(attachment, linked) is expected


def test_all_private_files_of_a_record_are_at_one_location():
    assert is_located_at(SECOND, LINK) and is_located_at(FIRST, SECOND_LINK)


def state(*links, permitted=None):
    return RecordState(list(links), list(links), permitted)


@pytest.mark.parametrize(
    ("old", "new", "known", "expected"),
    [
        pytest.param(FIRST, FIRST, state(LINK, permitted=[FIRST]), False, id="unchanged"),
        pytest.param(FIRST, SECOND, state(LINK, permitted=[FIRST]), True, id="another hash"),
        pytest.param(FIRST, PUBLIC, state(LINK, permitted=[FIRST]), True, id="public"),
        pytest.param(FIRST, None, state(LINK, permitted=[FIRST]), False, id="detached"),
        pytest.param(None, SECOND, state(LINK, permitted=[FIRST]), True, id="brought back forged"),
        pytest.param(None, FIRST, state(permitted=[None]), False, id="no file"),
    ],
)
def test_metadata_of_a_private_file_is_permitted_or_only_as_a_copy(old, new, known, expected):
    assert needs_source(old, new, known) is expected


def test_an_earlier_file_of_the_record_was_not_that_of_the_link():
    assert is_lost_update(FIRST, [SECOND_LINK])
    assert not is_lost_update(SECOND, [SECOND_LINK])


def test_of_several_links_that_with_the_same_hash_is_kept():
    settlement = settle(SECOND, [LINK, SECOND_LINK])
    assert settlement.unlink == [LINK] and not settlement.is_unlinked
    assert settle(FIRST, [SECOND_LINK]).is_unlinked


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("private/x.txt", True),
        ("private/a/x.txt", True),
        ("Private/x.txt", True),
        ("private", False),
        ("privateer/x.txt", False),
        ("_private/x.txt", False),
        ("a/private/x.txt", False),
    ],
)
def test_the_first_folder_says_that_a_file_is_private(key, expected):
    assert is_private(key) is expected


@pytest.mark.parametrize("downloads", ["public", "private"])
@pytest.mark.parametrize(
    ("folder", "keys", "others"),
    [
        ("", ["x.txt", "private/x.txt"], ["a/x.txt", "privatex.txt/y"]),
        ("a", ["a/x.txt", "private/a/x.txt"], ["x.txt", "private/x.txt"]),
        ("{bucket_id}", ["b/x.txt", "private/b/x.txt", "_private/x.txt"], ["x.txt", "a/b/c.txt"]),
    ],
)
def test_check_knows_public_and_private_files_whatever_they_are_by_now(
    downloads, folder, keys, others
):
    values = {"base_path": "/srv", "folder": folder, "downloads": downloads, "randomize": "false"}
    settings = read_settings(
        {"userid_hmac_secret": "x", **{f"attachment.{k}": v for k, v in values.items()}}
    )
    patterns = KeyPatterns(settings)
    assert [key for key in keys + others if patterns.match(key).is_ours] == keys
    bucket = {"": "b", "a": "b", "{bucket_id}": "b"}[folder]
    found = [
        key for key in keys[:2] if patterns.match_upload(key, bucket, "c", "r", "x.txt").is_ours
    ]
    assert found == keys[:2]
