"""Private files: their location says the record, and only the record's link says the file."""

import json

import pytest

from tests.support.commands import COLLECTION, GCS, S3, in_pages, write_ini
from tests.support.users import ALICE


BASE = "https://files.example.com/"
API = "http://localhost/v1"
FIRST = f"{COLLECTION}/records/first"


@pytest.fixture
def make(make_deployment):
    def make(store=None, **settings):
        settings = {"attachment__downloads": "private", "attachment__base_url": BASE, **settings}
        deployment = make_deployment(store, **settings)
        deployment.app.create_collection()
        return deployment

    return make


@pytest.fixture
def private(make):
    """A deployment with private files in a folder."""
    return make()


@pytest.fixture(params=["folder", "S3", "GCS"])
def anywhere(request, make, external):
    if request.param == "folder":
        return make()
    if request.param == "S3":
        return make(S3(request.getfixturevalue("bucket")))
    return make(GCS(request.getfixturevalue("emulated_bucket")))


def key_of(deployment, record="first"):
    uri = f"{COLLECTION}/records/{record}"
    (key,) = [one["location"] for one in deployment.links() if one["record_uri"] == uri]
    return key


def write_attachment(deployment, attachment, record="first"):
    """Write the attachment of a record behind Kinto's back."""
    query = """
        UPDATE objects SET data = jsonb_set(data, '{attachment}', CAST(:attachment AS JSONB))
        WHERE resource_name = 'record' AND id = :id
    """
    values = {"attachment": json.dumps(attachment), "id": record}
    assert deployment.sql(query, **values) == 1


def remove_links(deployment, record="first"):
    where = f"parent_id LIKE '\\_\\_attachments\\_\\_/buckets/%/records/{record}'"
    assert deployment.sql(f"DELETE FROM objects WHERE {where}") == 1


# Checks and repairs


def test_nothing_is_found_where_nothing_is_wrong(anywhere):
    anywhere.upload("first")
    anywhere.upload("second", b"")
    assert anywhere.check("--hash") == (0, {})
    assert anywhere.run("check", "--grace", "0")[1][-1]["unlocated"] == 0


def test_nothing_is_found_after_another_upload(private):
    private.upload("first", b"1")
    private.upload("first", b"2")
    assert private.files() == {key_of(private): b"2"}
    assert private.check("--hash") == (0, {})


@pytest.mark.parametrize("base_url", ["", "/files/"])
def test_relative_locations_are_recognised(make, base_url):
    deployment = make(attachment__base_url=base_url)
    assert deployment.upload()["location"] == f"/v1{FIRST}/attachment"
    assert deployment.check("--hash") == (0, {})
    remove_links(deployment)
    assert deployment.check()[1].keys() == {"unknown-file", "possible-file"}


def test_missing_file_is_found(anywhere):
    anywhere.upload()
    key = key_of(anywhere)
    anywhere.store.remove(key)
    assert anywhere.check() == (1, {"missing-file": [key]})
    assert anywhere.repair() == (1, {"left": ["missing-file"]})


def test_damaged_files_are_found(private):
    private.upload("first")
    private.upload("second")
    first, second = key_of(private, "first"), key_of(private, "second")
    private.store.put(first, b"once upon a tim3")
    private.store.put(second, b"once")
    assert private.check("--hash") == (1, {"hash-mismatch": [first], "size-mismatch": [second]})


def test_stale_link_is_removed_with_its_file(anywhere):
    anywhere.upload("first", b"1")
    anywhere.upload("second", b"2")
    key, other = key_of(anywhere, "first"), key_of(anywhere, "second")
    anywhere.sql("DELETE FROM objects WHERE resource_name = 'record' AND id = 'first'")
    assert anywhere.check() == (1, {"stale-link": [key]})
    assert anywhere.repair() == (0, {"repaired": ["stale-link"]})
    assert anywhere.files() == {other: b"2"}
    assert anywhere.check() == (0, {})


@pytest.mark.parametrize("location", [None, f"{API}{COLLECTION}/records/second/attachment"])
def test_detached_link_is_removed_with_its_file(private, location):
    attachment = private.upload()
    key = key_of(private)
    write_attachment(private, location and {**attachment, "location": location})
    assert private.check() == (1, {"detached-link": [key]})
    assert private.repair() == (0, {"repaired": ["detached-link"]})
    assert private.files() == {}


def test_of_several_files_the_one_with_the_hash_of_the_record_is_its(private):
    private.upload("first", b"1")
    private.upload("second", b"2")
    first, second = key_of(private, "first"), key_of(private, "second")
    # A link of an earlier file that was not removed.
    query = """
        UPDATE objects
        SET parent_id = '__attachments__' || CAST(:uri AS TEXT),
            data = data || jsonb_build_object('record_uri', CAST(:uri AS TEXT))
        WHERE parent_id LIKE '\\_\\_attachments\\_\\_/%/second'
    """
    assert private.sql(query, uri=FIRST) == 1
    private.sql("DELETE FROM objects WHERE resource_name = 'record' AND id = 'second'")
    assert private.check() == (1, {"detached-link": [second]})
    assert private.repair() == (0, {"repaired": ["detached-link"]})
    assert private.files() == {first: b"1"}


def test_file_is_not_deleted_because_the_hash_of_its_record_is_wrong(private):
    attachment = private.upload()
    key = key_of(private)
    write_attachment(private, {**attachment, "hash": "0" * 64})
    assert private.check() == (1, {"metadata-mismatch": [key]})
    assert private.repair() == (1, {"left": ["metadata-mismatch"]})
    assert private.files() == {key: b"once upon a time"}


def test_metadata_is_copied_to_the_link(private):
    attachment = private.upload()
    changed = {**attachment, "filename": "tale.txt"}
    write_attachment(private, changed)
    assert private.check() == (1, {"metadata-mismatch": [key_of(private)]})
    assert private.repair() == (0, {"repaired": ["metadata-mismatch"]})
    assert [link["attachment"] for link in private.links()] == [changed]
    assert private.check() == (0, {})


def test_orphan_is_deleted(anywhere):
    anywhere.upload()
    key = key_of(anywhere)
    orphan = "private/5f0c1c1e-6c1f-4b0e-9d5e-6d0b7f3e2a11.txt"
    anywhere.store.put(orphan, b"an orphan")
    assert anywhere.check() == (1, {"orphan-file": [orphan]})
    assert anywhere.repair("--delete-files") == (0, {"repaired": ["orphan-file"]})
    assert anywhere.files() == {key: b"once upon a time"}


def test_file_of_a_record_without_a_link_is_not_known_and_not_deleted(anywhere):
    anywhere.upload("first")
    anywhere.upload("second", b"another size")
    key = key_of(anywhere)
    orphan = "private/5f0c1c1e-6c1f-4b0e-9d5e-6d0b7f3e2a11.txt"
    anywhere.store.put(orphan, b"an orphan")
    remove_links(anywhere)
    code, found = anywhere.check()
    assert code == 1
    assert found == {
        "unknown-file": ["private/"],
        "possible-file": [key],
        "orphan-file": [orphan],
    }
    code, output = anywhere.run("check", "--grace", "0")
    (unknown,) = [one for one in output if one["what"] == "unknown-file"]
    assert (unknown["record"], unknown["severity"]) == (FIRST, "informational")
    assert anywhere.repair("--delete-files") == (0, {"repaired": ["orphan-file"]})
    assert key in anywhere.files()


def test_location_that_a_client_makes_up_is_no_fault(private):
    location = f"{API}{FIRST}/attachment"
    body = {"data": {"attachment": {"location": location, "size": 9}}}
    private.app.put_json(FIRST, body, headers=ALICE)
    assert private.check() == (0, {"unknown-file": ["private/"]})


def test_location_of_another_record_is_not_in_the_storage(private):
    attachment = private.upload()
    body = {"data": {"attachment": attachment}}
    private.app.put_json(f"{COLLECTION}/records/second", body, headers=ALICE)
    assert private.check() == (0, {})
    assert private.run("check", "--grace", "0")[1][-1]["unlocated"] == 1


def test_name_of_a_private_file_in_a_location_proves_nothing(private):
    attachment = private.upload()
    forged = {**attachment, "location": BASE + key_of(private)}
    private.app.put_json(f"{COLLECTION}/records/second", {"data": {}}, headers=ALICE)
    write_attachment(private, forged, "second")
    assert private.check() == (0, {"unverified-attachment": [key_of(private)]})
    assert private.repair() == (0, {})
    assert len(private.links()) == 1


def test_public_folder_that_was_called_private_keeps_its_files(make):
    deployment = make(attachment__downloads="public", attachment__randomize=False)
    attachment = deployment.upload("first")
    # As earlier settings (folder = private) named it.
    deployment.store.put("private/story.txt", b"once upon a time")
    deployment.store.remove("story.txt")
    changed = {**attachment, "location": f"{BASE}private/story.txt"}
    write_attachment(deployment, changed)
    remove_links(deployment)
    with deployment.committing():
        deployment.app.registry.attachments.links.add(FIRST, "private/story.txt", changed)
    code, found = deployment.check("--hash")
    assert (code, list(found)) == (0, ["misplaced-files"])
    # It is moved out of there.
    assert deployment.run("move-private")[0] == 0
    assert deployment.check("--hash") == (0, {})
    assert deployment.files() == {"story.txt": b"once upon a time"}
    assert deployment.record()["attachment"] == attachment


# relocate


def relocate(deployment, old, new):
    code, output = deployment.run("relocate", "--base-url", old, new)
    return code, output[-1]["counts"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (BASE, "https://new.example.com/"),
        ("http://localhost/", "https://new.example.com/"),
        ("", "https://new.example.com/"),
        ("http://localhost/v1/__files__/", "https://new.example.com/"),
    ],
)
def test_private_location_is_not_under_the_base_of_public_files(private, old, new):
    private.upload()
    before = private.state()
    assert relocate(private, old, new) == (0, {})
    assert private.state() == before


def test_relative_private_location_is_not_under_the_base_of_public_files(make):
    deployment = make(attachment__base_url="")
    deployment.upload()
    assert relocate(deployment, "", "https://new.example.com/") == (0, {})


def test_private_locations_get_another_url_of_kinto(private):
    attachment = private.upload()
    new = "https://kinto.example.com/v1/"
    assert relocate(private, f"{API}/", new) == (0, {"relocated": 1})
    expected = {**attachment, "location": f"{new}{FIRST[1:]}/attachment"}
    assert private.record()["attachment"] == expected
    assert [link["attachment"] for link in private.links()] == [expected]
    assert private.check() == (0, {})
    assert relocate(private, f"{API}/", new) == (0, {})


def test_made_up_private_location_is_reported(private):
    body = {"data": {"attachment": {"location": f"{API}{FIRST}/attachment"}}}
    private.app.put_json(FIRST, body, headers=ALICE)
    assert relocate(private, f"{API}/", "https://new.example.com/v1/") == (1, {"left": 1})


# copy


def test_private_files_arrive_under_the_same_names(private, tmp_path):
    private.upload()
    ini = str(tmp_path / "other.ini")
    there = {"kinto.attachment.base_path": str(tmp_path / "there")}
    write_ini(ini, private.app.settings | there)
    assert private.run("copy", "--to", ini)[0] == 0
    assert (tmp_path / "there" / key_of(private)).read_bytes() == b"once upon a time"


def test_private_files_arrive_in_a_bucket_without_a_public_acl(
    private, bucket, external, tmp_path, monkeypatch
):
    private.upload("first")
    public = "5f0c1c1e-6c1f-4b0e-9d5e-6d0b7f3e2a11.txt"
    private.store.put(public, b"a public one")
    ini = str(tmp_path / "other.ini")
    settings = dict(private.app.settings)
    del settings["kinto.attachment.base_path"]
    there = {f"kinto.{name.replace('__', '.')}": v for name, v in bucket.settings().items()}
    write_ini(ini, settings | there)
    sent = acls_sent(monkeypatch)
    assert private.run("copy", "--to", ini)[0] == 0
    assert bucket.files() == private.files()
    assert sent == {key_of(private): "private", public: "public-read"}


def acls_sent(monkeypatch):
    """Return ``{key: ACL}`` of what is put into S3 from now on."""
    from botocore.client import BaseClient

    sent = {}
    call = BaseClient._make_api_call

    def noted(self, name, parameters):
        if name in ("PutObject", "CreateMultipartUpload"):
            sent[parameters["Key"]] = parameters.get("ACL")
        return call(self, name, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", noted)
    return sent


@pytest.mark.parametrize("paged", [False, True], ids=["streamed", "in pages"])
def test_rows_are_the_same_from_any_storage_of_kinto(private, paged):
    private.upload()
    if paged:
        with in_pages():
            assert private.run("check", "--grace", "0")[0] == 0
    else:
        assert private.run("check", "--grace", "0")[0] == 0
