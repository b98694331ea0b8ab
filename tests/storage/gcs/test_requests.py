"""The requests to Google Cloud Storage: how many, in which order, and their headers."""

import gzip
import json
import threading

import pytest

from kinto_attachment.storage.contract import StorageError
from tests.support.app import ATTACHMENT
from tests.support.forms import file_part, part
from tests.support.gcs import MIB, PART_BYTES, gcs_storage, through
from tests.support.s3 import eventually
from tests.support.storage_contract import read, stage, store
from tests.support.users import ALICE


LARGE = b"x" * (2 * PART_BYTES + 1)


@pytest.fixture
def app(make_app, gcs_bucket, gcs_proxy):
    return make_app(**gcs_bucket.settings(gcloud__endpoint_url=gcs_proxy.url))


def test_a_small_upload_is_one_request(app, gcs_proxy):
    app.upload(file_part(b"x" * PART_BYTES))
    assert gcs_proxy.operations() == ["Upload"]


def test_an_attachment_is_fetched_from_its_location_replaced_and_deleted(app, gcs_bucket):
    app.upload(file_part(b"old"))
    attachment = app.upload(file_part(b"new")).json
    assert attachment["location"].startswith(app.registry.attachments.files.base_url)
    app.wait_for_deletions()
    assert list(gcs_bucket.files().values()) == [b"new"]
    app.delete(ATTACHMENT, headers=ALICE)
    app.wait_for_deletions()
    assert gcs_bucket.keys() == []


def test_nothing_is_sent_of_a_small_file_before_its_form_is_checked(app, gcs_proxy):
    app.upload(file_part(b"x" * PART_BYTES), part("data", "{not JSON"), status=400)
    assert gcs_proxy.operations() == []


def test_the_session_of_a_large_file_is_cancelled_if_its_form_is_refused(
    app, gcs_bucket, gcs_proxy
):
    app.upload(file_part(LARGE), part("data", "{not JSON"), status=400)
    assert eventually(lambda: "Cancel" in gcs_proxy.operations())
    assert gcs_bucket.keys() == []


def test_a_large_file_is_sent_while_it_arrives(watched, gcs_proxy):
    staged = stage(watched, LARGE, unique=True)
    assert eventually(lambda: gcs_proxy.operations() == ["Begin", "Part", "Part"])
    staged.publish()
    assert gcs_proxy.operations() == ["Begin", "Part", "Part", "LastPart"]


def test_two_parts_are_in_memory_while_one_is_sent(watched, gcs_bucket, gcs_proxy):
    blocked = threading.Event()
    gcs_proxy.misbehave = lambda handler, seen: seen.operation == "Part" and not blocked.wait(30)
    staged = watched.stage("large", "text/plain", unique=True)
    written = []

    def write():
        for _ in range(4 * PART_BYTES // MIB):
            staged.write(b"x" * MIB)
            written.append(MIB)
        staged.publish()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert eventually(lambda: sum(written) == 2 * PART_BYTES)
    writer.join(0.5)
    assert (writer.is_alive(), sum(written)) == (True, 2 * PART_BYTES)
    assert gcs_proxy.operations() == ["Begin", "Part"]
    blocked.set()
    writer.join(30)
    assert gcs_bucket.content("large") == b"x" * (4 * PART_BYTES)


@pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
@pytest.mark.parametrize("unique", [True, False])
def test_mimetype_and_headers_are_those_of_the_object(gcs_bucket, size, unique):
    storage = gcs_storage(
        gcs_bucket.options, cache_control="no-cache", content_disposition="inline"
    )
    store(storage, b"x" * size, unique=unique)
    stored = gcs_bucket.bucket.get_blob("story.txt")
    assert stored.content_type == "text/plain"
    assert (stored.cache_control, stored.content_disposition) == ("no-cache", "inline")


@pytest.mark.parametrize("size", [11, PART_BYTES + 1], ids=["small", "large"])
@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({}, "publicRead"),
        ({"acl": "private"}, "private"),
        ({"acl": ""}, None),
        ({"uniform_bucket_level_access": "true"}, None),
    ],
)
def test_the_acl_is_the_configured_one(gcs_bucket, gcs_proxy, size, settings, sent):
    storage = gcs_storage(through(gcs_bucket, gcs_proxy), **settings)
    store(storage, b"x" * size, unique=True)
    assert gcs_proxy.seen[0].query.get("predefinedAcl") == sent


@pytest.mark.parametrize("acl", ["publicRead", ""])
def test_a_large_file_has_no_acl_until_it_has_its_name(gcs_bucket, gcs_proxy, acl):
    store(gcs_storage(through(gcs_bucket, gcs_proxy), acl=acl), LARGE)
    sent = [(seen.operation, seen.query.get("predefinedAcl")) for seen in gcs_proxy.seen]
    assert sent == [
        ("Begin", None),
        ("Part", None),
        ("Part", None),
        ("LastPart", None),
        ("Upload", acl or None),
        ("Rewrite", None),
        *([("Patch", acl)] if acl else []),
        ("Delete", None),
    ]


def test_a_name_is_reserved_and_overwritten_in_the_generation_that_reserves_it(watched, gcs_proxy):
    store(watched)
    gcs_proxy.seen.clear()
    made = []
    gcs_proxy.misbehave = lambda handler, seen: (
        seen.operation == "Rewrite" and made.append(generation_of(watched, "story-1.txt"))
    )
    store(watched, LARGE)
    conditions = [
        (seen.operation, seen.query["ifGenerationMatch"])
        for seen in gcs_proxy.seen
        if "ifGenerationMatch" in seen.query
    ]
    assert conditions == [("Upload", "0"), ("Upload", "0"), ("Rewrite", str(made[0]))]


def generation_of(storage, key):
    return storage.bucket.find(key).generation


def test_a_rewrite_goes_on_until_it_is_done(watched, gcs_bucket, gcs_proxy):
    tokens = []

    def answer_twice(handler, seen):
        if seen.operation != "Rewrite":
            return False
        tokens.append(seen.query.get("rewriteToken"))
        if len(tokens) > 2:
            return False
        unfinished = {"done": False, "totalBytesRewritten": "1", "objectSize": "9"}
        answer = unfinished | {"rewriteToken": f"token-{len(tokens)}"}
        gcs_proxy.answer(
            handler, 200, json.dumps(answer).encode(), [("Content-Type", "application/json")]
        )
        return True

    gcs_proxy.misbehave = answer_twice
    store(watched, LARGE)
    assert tokens == [None, "token-1", "token-2"]
    assert gcs_bucket.files() == {"story.txt": LARGE}


def test_all_names_taken_is_a_failure(watched, gcs_proxy):
    gcs_proxy.misbehave = lambda handler, seen: (
        seen.operation == "Upload" and gcs_proxy.refuse(handler, 412, "conditionNotMet")
    )
    with pytest.raises(StorageError, match=r"every key like story\.txt"):
        store(watched)


def test_a_staged_file_that_is_complete_is_an_incomplete_upload(gcs_bucket):
    storage = gcs_storage(gcs_bucket.options)
    gcs_bucket.bucket.blob(".staging/left").upload_from_string(b"left")
    store(storage)
    assert [file.key for file in storage.files()] == ["story.txt"]
    assert [file.key for file in storage.incomplete_uploads()] == [".staging/left"]


def test_a_hundred_are_deleted_by_one_request(emulated, emulated_bucket, emulator_proxy):
    store(emulated)
    emulator_proxy.seen.clear()
    gone = [f"gone/{number}" for number in range(150)]
    assert emulated.delete_many([*gone, "story.txt"]) == {}
    assert emulator_proxy.operations() == ["Batch", "Batch"]
    assert emulated_bucket.keys() == []


def test_a_file_is_read_part_by_part_as_it_is_stored(emulated, emulator_proxy):
    store(emulated, LARGE, unique=True)
    emulator_proxy.seen.clear()
    with emulated.open("story.txt") as stored:
        assert b"".join(iter(lambda: stored.read(65536), b"")) == LARGE
    reads = [seen.headers for seen in emulator_proxy.seen if seen.operation == "Read"]
    spans = [headers["Range"].removeprefix("bytes=").split("-") for headers in reads]
    assert len(spans) >= 3
    assert all(int(last) - int(first) <= PART_BYTES for first, last in spans)


def test_a_file_that_an_earlier_plugin_stored_encoded_is_read_as_it_is_stored(
    emulated, emulator_proxy
):
    content = gzip.compress(b"once upon a time")
    store(emulated, content)

    def say_how_it_is_encoded(handler, seen):
        if seen.operation != "Read":
            return False
        headers = [("Content-Encoding", "gzip")]
        emulator_proxy.answer(handler, 206, content, headers)
        return True

    emulator_proxy.misbehave = say_how_it_is_encoded
    assert read(emulated, "story.txt") == content


def test_a_missing_bucket_is_created_when_it_is_first_used(fake_gcs, gcs_bucket, gcs_proxy):
    options = through(gcs_bucket, gcs_proxy) | {"gcloud.bucket_name": f"{gcs_bucket.name}-new"}
    with pytest.raises(StorageError):
        store(gcs_storage(options))
    gcs_proxy.seen.clear()
    storage = gcs_storage(options, auto_create_bucket="true", auto_create_acl="publicRead")
    assert gcs_proxy.seen == []
    assert store(storage) == "story.txt"
    assert store(gcs_storage(options, auto_create_bucket="true")) == "story-1.txt"
    created = [seen.query for seen in gcs_proxy.seen if seen.operation == "Create"]
    assert [query["predefinedAcl"] for query in created] == ["publicRead"]


def test_a_created_bucket_has_uniform_access_if_that_is_set(gcs_bucket, gcs_proxy):
    bodies = []

    def see_body(handler, seen):
        if seen.path == "/storage/v1/b":
            bodies.append((json.loads(handler.body), seen.query))

    gcs_proxy.misbehave = see_body
    store(
        gcs_storage(
            through(gcs_bucket, gcs_proxy) | {"gcloud.bucket_name": f"{gcs_bucket.name}-new"},
            auto_create_bucket="true",
            uniform_bucket_level_access="true",
            project="ours",
        )
    )
    ((body, query),) = bodies
    assert body["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"] is True
    assert query["project"] == "ours"
    assert "predefinedAcl" not in query


def test_only_the_bytes_that_are_wanted_are_asked_for(emulated, emulator_proxy):
    store(emulated, b"once upon a time")
    emulator_proxy.seen.clear()
    with emulated.open_range("story.txt", 5, 4) as part_of_file:
        assert part_of_file.read() == b"upon"
    assert emulator_proxy.operations() == ["Get", "Read"]
    # The library asks for a byte more.
    assert emulator_proxy.seen[1].headers["Range"] in ("bytes=5-8", "bytes=5-9")


def test_a_read_that_fails_on_the_way_is_an_error_of_the_storage(emulated, emulator_proxy):
    store(emulated, b"once upon a time")
    emulator_proxy.misbehave = lambda handler, seen: (
        seen.operation == "Read" and emulator_proxy.refuse(handler, 403, "forbidden")
    )
    with emulated.open_range("story.txt", 0, 16) as part_of_file, pytest.raises(StorageError):
        part_of_file.read()
