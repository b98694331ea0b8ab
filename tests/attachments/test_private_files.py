"""Files of private collections: where they are, what refers to them, what is deleted when."""

import dataclasses
import hashlib
import uuid

import pytest
import transaction

from kinto_attachment.attachments import Change
from kinto_attachment.links import new_link
from kinto_attachment.storage.names import KeyPatterns, is_private
from tests.support.app import App
from tests.support.forms import file_part
from tests.support.postgresql import postgresql_backends
from tests.support.resumable import CHUNK, TUS, Client, encode
from tests.support.s3 import Bucket
from tests.support.users import ALICE, BOB


PHOTOS = "/buckets/blog/collections/photos"
FIRST = f"{PHOTOS}/records/first"
SECOND = f"{PHOTOS}/records/second"
COPY = "/buckets/blog/collections/other/records/copy"

POSTGRESQL = pytest.param("PostgreSQL", marks=pytest.mark.external)
KINDS = ["memory", POSTGRESQL, "S3"]


@dataclasses.dataclass
class World:
    """A Kinto whose files are private, and the folder or the bucket that they are in."""

    app: App
    bucket: Bucket | None = None

    def files(self):
        """Return ``{key: content}`` of all there is in the storage."""
        self.app.wait_for_deletions()
        return self.bucket.files() if self.bucket else self.app.files()

    def contents(self):
        return sorted(self.files().values())

    def linked(self):
        """Return ``{record: content}`` of what the links say, with the metadata of the records."""
        files = self.files()
        for link in self.app.links():
            assert self.app.record(link["record_uri"])["attachment"] == link["attachment"]
        return {link["record_uri"]: files[link["location"]] for link in self.app.links()}

    def upload(self, content, url=FIRST):
        return self.app.upload(file_part(content), url=f"{url}/attachment").json

    def resume(self, content, url=FIRST):
        """Upload a file that could be resumed, with its first request."""
        headers = {**ALICE, **TUS, **CHUNK, "Upload-Length": str(len(content))}
        headers["Upload-Metadata"] = encode()
        return self.app.post(f"{url}/attachment/uploads", content, headers=headers)

    def patch(self, data, url=FIRST, **kwargs):
        return self.app.patch_json(url, {"data": data}, headers=ALICE, **kwargs)

    def put(self, data, url=FIRST, **kwargs):
        return self.app.put_json(url, {"data": data}, headers=ALICE, **kwargs)


@pytest.fixture
def make_world(tmp_path, request):
    def make(kind="memory", **settings):
        bucket = None
        given = {"downloads": "private", **settings}
        kinto = {}
        if kind == "PostgreSQL":
            kinto = postgresql_backends(request.getfixturevalue("postgresql")())
        if kind == "S3":
            bucket = Bucket(request.getfixturevalue("fake_s3"), f"bucket-{uuid.uuid4()}")
            given |= {"base_path": "", **bucket.options}
        kinto |= {f"kinto.attachment.{name}": str(value) for name, value in given.items()}
        app = App(tmp_path / "files", **kinto)
        app.create_collection()
        app.create_collection(collection="other")
        return World(app, bucket)

    return make


@pytest.fixture(params=KINDS)
def world(make_world, request):
    return make_world(request.param)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_a_private_file_is_in_its_folder_and_its_location_is_that_of_the_record(world):
    attachment = world.upload(b"a")
    (key,) = world.files()
    assert key.startswith("private/") and is_private(key)
    assert attachment["location"].endswith(f"/v1{FIRST}/attachment")
    assert key.rsplit("/", 1)[1] not in str(attachment)
    assert world.app.record()["attachment"] == attachment
    assert world.linked() == {FIRST: b"a"}


def test_a_resumed_file_is_private_as_well(world):
    world.resume(b"a")
    assert world.linked() == {FIRST: b"a"}
    assert all(map(is_private, world.files()))
    again = world.app.record()["attachment"]
    assert again["location"].endswith(f"/v1{FIRST}/attachment")
    world.resume(b"b")
    assert world.linked() == {FIRST: b"b"} and world.contents() == [b"b"]


def test_another_field_can_be_changed(world):
    attachment = world.upload(b"a")
    world.patch({"title": "x"})
    world.patch({"title": "y", "attachment": attachment})
    record = world.app.record()
    world.put(record)
    world.app.patch_json(
        FIRST,
        [{"op": "replace", "path": "/data/title", "value": "z"}],
        headers={**ALICE, "Content-Type": "application/json-patch+json"},
    )
    assert world.app.record()["attachment"] == attachment
    assert world.linked() == {FIRST: b"a"}


def test_a_new_file_replaces_the_previous_one(world):
    before = world.upload(b"a")
    after = world.upload(b"b")
    assert before["location"] == after["location"] and before["hash"] != after["hash"]
    assert world.linked() == {FIRST: b"b"} and world.contents() == [b"b"]


def test_the_same_content_replaces_the_previous_file(world):
    world.upload(b"a")
    (before,) = world.files()
    world.upload(b"a")
    assert world.linked() == {FIRST: b"a"} and before not in world.files()


@pytest.mark.parametrize(
    "forged",
    [
        {"hash": sha256(b"forged")},
        {"hash": None},
        {"size": 7},
        {"mimetype": "text/html"},
        {"location": f"https://evil.test/v1{FIRST}/attachment"},
        {"location": "https://evil.test/a.txt"},
        {"location": f"http://localhost/v1{SECOND}/attachment"},
    ],
    ids=str,
)
@pytest.mark.external
def test_metadata_cannot_be_forged(make_world, forged):
    world = make_world("PostgreSQL")
    attachment = world.upload(b"a")
    world.upload(b"b", SECOND)
    world.patch({"attachment": {**attachment, **forged}}, status=400)
    world.put({"attachment": {**attachment, **forged}}, status=400)
    merge = {**ALICE, "Content-Type": "application/merge-patch+json"}
    body = {"data": {"attachment": forged}}
    world.app.patch_json(FIRST, body, headers=merge, status=400)
    assert world.app.record()["attachment"] == attachment
    assert world.linked() == {FIRST: b"a", SECOND: b"b"}


def test_a_private_attachment_of_another_record_is_a_mere_url(world):
    attachment = world.upload(b"a")
    world.put({"attachment": attachment}, COPY)
    assert world.linked() == {FIRST: b"a"}
    # The copy keeps nothing, and its end deletes nothing.
    world.app.delete(COPY, headers=ALICE)
    assert world.contents() == [b"a"]
    world.put({"attachment": attachment}, COPY)
    world.app.delete(f"{FIRST}/attachment", headers=ALICE)
    assert world.contents() == [] and world.linked() == {}


def test_the_key_of_a_private_file_in_a_location_gives_no_link(world):
    attachment = world.upload(b"a")
    (key,) = world.files()
    for location in (key, f"http://localhost/v1/__files__/{key}"):
        world.put({"attachment": {**attachment, "location": location}}, COPY)
        assert world.linked() == {FIRST: b"a"}


def test_who_may_read_the_record_fetches_its_own_file_only(world):
    attachment = world.upload(b"a")
    world.upload(b"b", SECOND)
    readers = {"permissions": {"read": ["system.Everyone"]}}
    copy = {"data": {"attachment": attachment}, **readers}
    world.app.put_json(COPY, copy, headers=ALICE)
    assert world.app.get(f"{FIRST}/attachment", headers=ALICE).body == b"a"
    assert world.app.get(f"{SECOND}/attachment", headers=ALICE).body == b"b"
    # The copy is readable for all, but has no file.
    for headers in (ALICE, BOB):
        world.app.get(f"{COPY}/attachment", headers=headers, status=404)
    world.app.get(f"{FIRST}/attachment", headers=BOB, status=403)
    world.app.get(f"{FIRST}/attachment", status=401)
    world.app.patch_json(FIRST, readers, headers=ALICE)
    assert world.app.get(f"{FIRST}/attachment", headers=BOB).body == b"a"
    world.upload(b"c")
    assert world.app.get(f"{FIRST}/attachment", headers=BOB).body == b"c"


def detach(world):
    world.app.delete(f"{FIRST}/attachment", headers=ALICE)


def set_to_null(world):
    world.patch({"attachment": None})


def put_without(world):
    world.put({"title": "x"})


def delete_record(world):
    world.app.delete(FIRST, headers=ALICE)


def delete_records(world):
    world.app.delete(f"{PHOTOS}/records", headers=ALICE)


def delete_collection(world):
    world.app.delete(PHOTOS, headers=ALICE)


def delete_bucket(world):
    world.app.delete("/buckets/blog", headers=ALICE)


ENDS = [detach, set_to_null, put_without, delete_record, delete_records]
PARENTS = [delete_collection, delete_bucket]


@pytest.mark.parametrize("end", [*ENDS, *PARENTS])
def test_the_file_goes_with_the_last_reference(world, end):
    world.upload(b"a")
    end(world)
    assert world.contents() == [] and world.app.links() == []


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("end", ENDS)
def test_a_file_that_waits_is_restored_with_its_metadata(make_world, end, kind):
    world = make_world(kind, delete_after="1h")
    world.upload(b"a")
    before = world.app.record()
    end(world)
    assert world.contents() == [b"a"] and world.app.links() == []
    world.put({"attachment": before["attachment"]})
    assert world.app.record()["attachment"] == before["attachment"]
    assert world.linked() == {FIRST: b"a"}
    assert world.app.released() == []


@pytest.mark.external
def test_an_earlier_file_of_the_record_is_restored(make_world):
    world = make_world("PostgreSQL", delete_after="1h")
    world.upload(b"a")
    earlier = world.app.record()["attachment"]
    later = world.upload(b"b")
    assert world.linked() == {FIRST: b"b"} and world.contents() == [b"a", b"b"]
    world.patch({"attachment": earlier})
    assert world.linked() == {FIRST: b"a"} and world.contents() == [b"a", b"b"]
    world.patch({"attachment": {**later, "size": 2}}, status=400)
    world.put({"attachment": later})
    assert world.linked() == {FIRST: b"b"} and world.contents() == [b"a", b"b"]


@pytest.mark.external
def test_an_earlier_file_that_is_gone_is_not_restored(make_world):
    world = make_world("PostgreSQL")
    earlier = world.upload(b"a")
    world.upload(b"b")
    world.patch({"attachment": earlier}, status=400)
    assert world.linked() == {FIRST: b"b"}


def test_forged_metadata_restores_nothing(make_world):
    world = make_world(delete_after="1h")
    attachment = world.upload(b"a")
    delete_record(world)
    world.put({"attachment": {**attachment, "size": 2}})
    world.put({"attachment": attachment}, COPY)
    assert world.app.links() == []


def test_who_may_not_read_the_collection_restores_nothing(make_world):
    world = make_world(delete_after="1h")
    attachment = world.upload(b"a")
    delete_record(world)
    permissions = {"permissions": {"record:create": ["system.Authenticated"]}}
    world.app.patch_json(PHOTOS, permissions, headers=ALICE)
    world.app.put_json(FIRST, {"data": {"attachment": attachment}}, headers=BOB)
    assert world.app.links() == []


def test_a_batch_settles_at_its_end(world):
    attachment = world.upload(b"a")
    requests = [
        {"method": "DELETE", "path": f"{FIRST}/attachment"},
        {"method": "PUT", "path": FIRST, "body": {"data": {"attachment": attachment}}},
        {"method": "PATCH", "path": FIRST, "body": {"data": {"title": "x"}}},
    ]
    answer = world.app.post_json("/batch", {"requests": requests}, headers=ALICE)
    assert [one["status"] for one in answer.json["responses"]] == [204, 200, 200]
    assert world.linked() == {FIRST: b"a"}
    requests = [{"method": "DELETE", "path": FIRST}]
    world.app.post_json("/batch", {"requests": requests}, headers=ALICE)
    assert world.contents() == []


@pytest.mark.external
def test_a_request_that_fails_changes_nothing(make_world):
    world = make_world("PostgreSQL")
    attachment = world.upload(b"a")

    def refuse(event):
        raise RuntimeError("not today")

    world.app.listen(refuse)
    world.app.upload(file_part(b"b"), status=500)
    world.app.delete(f"{FIRST}/attachment", headers=ALICE, status=500)
    assert world.app.record()["attachment"] == attachment
    assert world.linked() == {FIRST: b"a"} and world.contents() == [b"a"]


def test_the_default_bucket_has_private_files(world):
    url = "/buckets/default/collections/notes/records/one"
    attachment = world.upload(b"a", url)
    (link,) = world.app.links()
    assert attachment["location"].endswith(f"/v1{link['record_uri']}/attachment")
    assert "/default/" not in attachment["location"]
    world.patch({"title": "x"}, url)
    assert world.linked() == {link["record_uri"]: b"a"}
    world.upload(b"b", url)
    assert world.contents() == [b"b"]
    world.app.delete(url, headers=ALICE)
    assert world.contents() == []


@pytest.mark.parametrize("resumed", [False, True])
def test_compressed_files_are_private(make_world, resumed):
    world = make_world(gzipped="true")
    if resumed:
        world.resume(b"a" * 1000)
    else:
        world.upload(b"a" * 1000)
    (key,) = world.files()
    assert is_private(key) and key.endswith(".gz")
    world.patch({"title": "x"})
    assert set(world.linked()) == {FIRST}
    world.upload(b"b")
    assert len(world.files()) == 1


def test_server_code_may_change_metadata_and_keeps_the_file(make_world):
    world = make_world()
    attachment = world.upload(b"a")

    class Trusted:
        is_trusted = True

        def may_read(self, record_uris):
            return True

    changed = {**attachment, "hash": sha256(b"other"), "note": "x"}
    attachments, storage = world.app.registry.attachments, world.app.registry.storage
    with transaction.manager:
        storage.update("record", PHOTOS, "first", {"attachment": changed})
        change = Change("first", attachment, changed, False, Trusted())
        attachments.follow(PHOTOS, [change])
    assert world.linked() == {FIRST: b"a"}


class Switched:
    """A deployment whose setting changes: two Kintos on one database and one storage."""

    def __init__(self, make_app, postgresql, tmp_path, extra):
        kinto = postgresql_backends(postgresql()) | extra
        self._worlds = {
            setting: World(
                App(tmp_path / "files", **kinto, **{"kinto.attachment.downloads": setting}),
            )
            for setting in ("public", "private")
        }
        self.public.app.create_collection()

    @property
    def public(self):
        return self._worlds["public"]

    @property
    def private(self):
        return self._worlds["private"]


@pytest.fixture
def switched(make_app, postgresql, tmp_path):
    extra = {"kinto.attachment.base_url": "https://files.test/"}
    return Switched(make_app, postgresql, tmp_path, extra)


@pytest.mark.external
def test_public_files_of_a_collection_that_became_private_stay_what_they_were(switched):
    attachment = switched.public.upload(b"a")
    other = switched.public.upload(b"b", SECOND)
    world = switched.private
    world.patch({"title": "x"})
    world.patch({"attachment": {**attachment, "size": 2}}, status=400)
    assert world.app.record()["attachment"] == attachment
    assert attachment["location"].startswith("https://files.test/")
    copied = f"{PHOTOS}/records/copied"
    world.put({"attachment": other}, copied)
    assert world.linked() == {FIRST: b"a", SECOND: b"b", copied: b"b"}
    assert not any(map(is_private, world.files()))
    assert world.app.get(f"{FIRST}/attachment", headers=ALICE).body == b"a"
    replaced = world.upload(b"c")
    assert "files.test" not in replaced["location"]
    assert world.linked() == {FIRST: b"c", SECOND: b"b", copied: b"b"}
    assert world.contents() == [b"b", b"c"]
    world.patch({"attachment": attachment}, status=400)
    for url in (FIRST, SECOND, copied):
        world.app.delete(url, headers=ALICE)
    assert world.contents() == []


@pytest.mark.external
def test_private_files_of_a_collection_that_became_public_stay_what_they_were(switched):
    attachment = switched.private.upload(b"a")
    world = switched.public
    world.patch({"title": "x"})
    world.patch({"attachment": {**attachment, "size": 2}}, status=400)
    assert world.app.record()["attachment"] == attachment
    assert all(map(is_private, world.files()))
    world.put({"attachment": attachment}, SECOND)
    assert world.linked() == {FIRST: b"a"}
    assert world.app.get(f"{FIRST}/attachment", headers=ALICE).body == b"a"
    world.app.get(f"{FIRST}/attachment", status=401)
    assert world.upload(b"b")["location"].startswith("https://files.test/")
    assert world.linked() == {FIRST: b"b"} and world.contents() == [b"b"]
    assert not any(map(is_private, world.files()))


def test_private_files_are_not_served_to_whoever_has_their_key(make_world):
    world = make_world(serve_files="true")
    world.upload(b"a")
    (key,) = world.files()
    name = key.split("/", 1)[1]
    for path in (key, f"PRIVATE/{name}", f"./{key}", f"x/../{key}", f"/{key}", f"%70rivate/{name}"):
        for headers in (ALICE, {}):
            assert world.app.get(f"/__files__/{path}", headers=headers, status="*").status_int in (
                404,
                403,
            )


@pytest.mark.parametrize(
    ("settings", "is_absolute"),
    [
        ({}, False),
        ({"base_url": "/files/"}, False),
        ({"base_url": "https://files.test/"}, True),
        ({"base_url": "//files.test/"}, True),
        ({"extra.base_url": "https://files.test/"}, True),
        ({"base_url": "/files/", "extra.base_url": "https://files.test/"}, True),
        ({"serve_files": "true"}, True),
    ],
    ids=str,
)
def test_the_location_is_a_url_for_clients_that_append_it_to_the_base_url(
    make_world, settings, is_absolute
):
    world = make_world(**settings)
    host = "http://localhost" if is_absolute else ""
    for upload in (world.upload, world.resume):
        upload(b"a")
        assert world.app.record()["attachment"]["location"] == f"{host}/v1{FIRST}/attachment"


@pytest.mark.parametrize("name", ["randomize", "filename_pattern"])
def test_private_files_with_names_of_their_own(make_world, name):
    value = {"randomize": "false", "filename_pattern": "{rid}"}[name]
    world = make_world(folder="{bucket_id}/{collection_id}", **{name: value})
    world.upload(b"a")
    (key,) = world.files()
    assert key.startswith("private/blog/photos/")
    patterns = KeyPatterns(world.app.registry.attachments.settings)
    assert patterns.match(key).is_ours
    assert patterns.match_upload(key, "blog", "photos", "first", "story.txt").is_ours
    world.upload(b"b")
    assert world.linked() == {FIRST: b"b"} and world.contents() == [b"b"]


def test_the_files_of_a_public_bucket_called_private_are_public(make_world):
    world = make_world(downloads="public", folder="{bucket_id}", serve_files="true")
    world.app.create_collection("private", "photos")
    attachment = world.upload(b"a", "/buckets/private/collections/photos/records/first")
    (key,) = world.files()
    assert key.startswith("_private/")
    path = attachment["location"].removeprefix("http://localhost/v1")
    assert world.app.get(path).body == b"a"


def test_earlier_public_files_of_a_bucket_called_private_follow_their_records(make_world):
    world = make_world(downloads="public", base_url="https://files.test/")
    attachment = world.upload(b"a")
    (name,) = world.files()
    key = f"private/{name}"
    (world.app.folder / "private").mkdir()
    (world.app.folder / name).rename(world.app.folder / key)
    moved = {**attachment, "location": f"https://files.test/{key}"}
    links, storage = world.app.registry.attachments.links, world.app.registry.storage
    with transaction.manager:
        storage.update("record", PHOTOS, "first", {"attachment": moved})
        links.change([new_link(FIRST, key, moved)], links.of_records([FIRST]))
    world.patch({"title": "x"})
    world.put({"attachment": moved}, COPY)
    assert world.linked() == {FIRST: b"a", COPY: b"a"}
    world.app.delete(FIRST, headers=ALICE)
    assert world.linked() == {COPY: b"a"}
    world.app.delete(COPY, headers=ALICE)
    assert world.contents() == []


@pytest.mark.parametrize("began", ["public", "private"])
def test_an_upload_that_began_with_another_setting_begins_again(make_world, began):
    """It would be stored where the setting of that time says."""
    world = make_world(downloads="private" if began == "public" else "public")
    settings = world.app.registry.attachments.settings
    now = settings.defaults
    client = Client(world.app, record=FIRST)
    object.__setattr__(settings, "defaults", dataclasses.replace(now, downloads=began))
    path = client.begun(4)
    object.__setattr__(settings, "defaults", now)
    client.patch(path, 0, b"once", status=410)
    assert world.linked() == {}
    client.patch(client.begun(4), 0, b"once")
    assert world.linked() == {FIRST: b"once"}
    assert is_private(world.app.links()[0]["location"]) == now.is_private


def test_no_public_file_takes_the_name_of_the_private_folder(make_world):
    world = make_world(downloads="public", randomize="false", extensions="any")
    world.app.upload(file_part(b"a", filename="private"))
    assert list(world.files()) == ["private.file"]


@pytest.mark.external
def test_a_flush_deletes_private_files(make_world):
    made = make_world("PostgreSQL").app
    plugins = "kinto.plugins.default_bucket kinto.plugins.flush kinto_attachment"
    world = World(App(made.folder, **made.settings | {"kinto.includes": plugins}))
    world.upload(b"a")
    world.app.post("/__flush__", headers=ALICE)
    assert world.contents() == []
