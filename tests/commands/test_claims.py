"""Which attachments written by clients ``kinto-attachment`` accepts."""

import hashlib
import json

import pytest

from kinto_attachment.commands import contents, problems
from kinto_attachment.storage.local import LocalStorage
from tests.support.app import App
from tests.support.commands import COLLECTION, Deployment, write_ini
from tests.support.postgresql import postgresql_backends
from tests.support.users import ALICE, BOB


BASE = "https://files.example.org/"
BOBS = "/buckets/bobs/collections/own"
FORGED = f"{BOBS}/records/forged"
RANDOM = "5f0c1c1e-6c1f-4b0e-9d5e-6d0b7f3e2a11"


@pytest.fixture(scope="module")
def database(postgresql):
    return postgresql()


@pytest.fixture(scope="module")
def shared_app(database, tmp_path_factory):
    return make_app(database, tmp_path_factory.mktemp("shared") / "files")


def make_app(database, path, /, **settings):
    base = {"kinto.attachment.base_url": BASE}
    own = {f"kinto.attachment.{name}": value for name, value in settings.items()}
    return App(path, **postgresql_backends(database), **base, **own)


@pytest.fixture
def deployment(shared_app, capsys):
    yield from deployed(shared_app, capsys)
    for name in shared_app.files():
        (shared_app.folder / name).unlink()


@pytest.fixture
def make_deployment(database, tmp_path, capsys):
    opened = []

    def make(**settings):
        opened.append(deployed(make_app(database, tmp_path / "files", **settings), capsys))
        return next(opened[-1])

    yield make
    for generator in opened:
        next(generator, None)


def deployed(app, capsys):
    app.create_collection()
    app.create_collection("bobs", "own", BOB)
    deployment = Deployment(app, app.folder.parent, app.files, capsys)
    yield deployment
    deployment.close()


def claim(deployment, attachment, uri=FORGED, headers=BOB):
    """Write a record as any client may, and remove the link that the server adds for a copy."""
    deployment.app.put_json(uri, {"data": {"attachment": attachment}}, headers=headers)
    lose_link(deployment, uri)


def lose_link(deployment, uri):
    deployment.sql(
        "DELETE FROM objects WHERE resource_name = 'attachments' AND data->>'record_uri' = :uri",
        uri=uri,
    )


def put_file(deployment, name, content=b"an orphan"):
    """Store a file that no record refers to, and return its metadata."""
    path = deployment.app.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {
        "filename": "story.txt",
        "hash": hashlib.sha256(content).hexdigest(),
        "location": BASE + name,
        "mimetype": "text/plain",
        "size": len(content),
    }


def is_unverified(deployment, count=1):
    """Return whether claims are reported as unverified, and a repair changes nothing."""
    before = deployment.state()
    code, found = deployment.check("--hash")
    assert (code, {kind: len(locations) for kind, locations in found.items()}) == (
        0,
        {problems.UNVERIFIED_ATTACHMENT.name: count},
    )
    assert deployment.repair("--delete-files") == (0, {})
    assert deployment.state() == before
    return True


FORGERIES = {
    "no file": {"location": f"{BASE}none.txt"},
    "another name": {"filename": "evil.exe"},
    "another mimetype": {"mimetype": "text/html"},
    "another size": {"size": 1},
    "another hash": {"hash": "0" * 64},
    "more": {"more": 1},
    "a size that no database knows": {"size": 10**30},
    "a size that is text": {"size": "16"},
}


@pytest.mark.parametrize("case", FORGERIES)
def test_made_up_metadata_is_no_fault(deployment, case):
    attachment = deployment.upload()
    claim(deployment, {**attachment, **FORGERIES[case]})
    assert is_unverified(deployment)


@pytest.mark.parametrize(("true", "forged"), [(1, True), (1, 1.0), (0, False)])
def test_metadata_is_compared_as_json(deployment, true, forged):
    attachment = deployment.upload(content=b"x" * true)
    claim(deployment, attachment)
    change_size(deployment, "forged", forged)
    assert is_unverified(deployment)


def test_a_link_differs_if_only_a_type_differs(deployment):
    deployment.upload(content=b"x")
    change_size(deployment, "first", True)
    code, found = deployment.check()
    assert (code, list(found)) == (1, [problems.METADATA_MISMATCH.name])
    assert deployment.repair() == (1, {"left": [problems.METADATA_MISMATCH.name]})


def change_size(deployment, record, size):
    changed = deployment.sql(
        "UPDATE objects SET data = jsonb_set(data, '{attachment,size}', :size) WHERE id = :id",
        size=json.dumps(size),
        id=record,
    )
    assert changed == 1


def test_a_copy_by_a_user_without_access_to_the_original_is_unverified(deployment):
    attachment = deployment.upload()
    claim(deployment, attachment)
    assert is_unverified(deployment)


@pytest.mark.parametrize("reader", ["system.Everyone", "system.Authenticated", "bob", "his group"])
def test_a_copy_by_a_user_with_access_to_the_original_gets_a_link(deployment, reader):
    attachment = deployment.upload()
    bob = deployment.app.get("/", headers=BOB).json["user"]["id"]
    group = "/buckets/blog/groups/friends"
    deployment.app.put_json(group, {"data": {"members": [bob]}}, headers=ALICE)
    principal = {"bob": bob, "his group": group}.get(reader, reader)
    permissions = {"permissions": {"read": [principal]}}
    deployment.app.patch_json(COLLECTION, permissions, headers=ALICE)
    claim(deployment, attachment)
    code, found = deployment.check()
    assert (code, list(found)) == (1, [problems.MISSING_LINK.name])
    assert deployment.repair() == (0, {"repaired": [problems.MISSING_LINK.name]})
    links = {link["record_uri"]: link for link in deployment.links()}
    assert links[FORGED]["attachment"] == attachment
    # As for copies by the server: the original collection decides whether the file is kept.
    assert links[FORGED]["origin"] == COLLECTION


def test_an_unreferenced_file_gets_a_link_from_a_record_with_all_metadata(deployment):
    attachment = deployment.upload()
    lose_link(deployment, f"{COLLECTION}/records/first")
    code, found = deployment.check()
    assert (code, list(found)) == (1, [problems.MISSING_LINK.name])
    assert deployment.repair() == (0, {"repaired": [problems.MISSING_LINK.name]})
    assert [link["attachment"] for link in deployment.links()] == [attachment]


UNPROVED = {
    "a name that can be guessed": ("logo.txt", {}),
    "another extension": (f"{RANDOM}.txt", {"filename": "story.html"}),
    "another file": (f"{RANDOM}.txt", {"hash": "0" * 64}),
    "a part of the metadata": (f"{RANDOM}.txt", {"mimetype": None}),
    "a size that no database knows": (f"{RANDOM}.txt", {"size": 10**30}),
    "a folder that is not the plugin's": (f"elsewhere/{RANDOM}.txt", {}),
}


@pytest.mark.parametrize("case", UNPROVED)
def test_an_unreferenced_file_gets_no_link_without_evidence(deployment, case):
    name, changed = UNPROVED[case]
    deployment.upload()
    claim(deployment, {**put_file(deployment, name), **changed})
    assert is_unverified(deployment)


UNPROVED_SETTINGS = {
    "a folder of another collection": ({"folder": "{bucket_id}"}, f"blog/{RANDOM}.txt"),
    "a name of another record": (
        {"filename_pattern": "{rid}.{filename}"},
        f"another.{RANDOM}.txt",
    ),
    "a name that is not random": ({"randomize": "false"}, "story.txt"),
    "old files are kept": ({"keep_old_files": "true"}, f"{RANDOM}.txt"),
}


@pytest.mark.parametrize("case", UNPROVED_SETTINGS)
def test_a_key_that_the_settings_do_not_produce_for_the_record_is_no_evidence(
    make_deployment, case
):
    settings, name = UNPROVED_SETTINGS[case]
    deployment = make_deployment(**settings)
    claim(deployment, put_file(deployment, name))
    assert is_unverified(deployment)


PROVED_SETTINGS = {
    "a folder": ({"folder": "{bucket_id}/{collection_id}"}, f"bobs/own/{RANDOM}.txt"),
    "a pattern": (
        {"filename_pattern": "{datetime}-{rid}.{filename}"},
        f"20261231235959-forged.{RANDOM}.txt",
    ),
}


@pytest.mark.parametrize("case", PROVED_SETTINGS)
def test_a_key_that_the_settings_produce_for_the_record_is_evidence(make_deployment, case):
    settings, name = PROVED_SETTINGS[case]
    deployment = make_deployment(**settings)
    claim(deployment, put_file(deployment, name))
    assert deployment.check() == (1, {problems.MISSING_LINK.name: [name]})
    assert deployment.repair() == (0, {"repaired": [problems.MISSING_LINK.name]})
    assert [link["record_uri"] for link in deployment.links()] == [FORGED]


def test_names_that_are_not_random_require_any_name(make_deployment):
    deployment = make_deployment(randomize="false")
    deployment.upload()
    lose_link(deployment, f"{COLLECTION}/records/first")
    assert is_unverified(deployment)
    assert deployment.repair("--any-name") == (0, {"repaired": [problems.MISSING_LINK.name]})
    assert deployment.check() == (0, {})


def test_a_queued_file_gets_no_link(deployment):
    name = f"{RANDOM}.txt"
    claim(deployment, put_file(deployment, name))
    with deployment.committing():
        deletion = {"locations": [name]}
        parent = "__attachments__/releases/a"
        deployment.app.registry.storage.update("attachment-releases", parent, "a", deletion)
    code, found = deployment.check()
    assert found == {
        problems.UNVERIFIED_ATTACHMENT.name: [name],
        problems.OVERDUE_DELETION.name: [name],
    }
    assert deployment.repair()[1] == {"repaired": [problems.OVERDUE_DELETION.name]}
    assert deployment.links() == []


def test_two_records_with_different_metadata_prove_nothing(deployment):
    attachment = put_file(deployment, f"{RANDOM}.txt")
    claim(deployment, attachment)
    other = f"{COLLECTION}/records/other"
    claim(deployment, {**attachment, "mimetype": "text/html"}, other, ALICE)
    assert is_unverified(deployment, 2)


def test_a_file_with_many_claims_is_read_once(deployment, monkeypatch):
    attachment = deployment.upload(content=b"x" * 1000)
    orphan = put_file(deployment, f"{RANDOM}.txt", b"y" * 1000)
    for number in range(5):
        claim(deployment, {**attachment, "hash": f"{number}" * 64}, f"{FORGED}{number}")
        lie = {**orphan, "hash": "0" * 64}
        claim(deployment, lie, f"{FORGED}-orphan{number}")
    read = []
    chunks_of = contents.chunks_of

    def counted(files, name):
        read.append(name)
        return chunks_of(files, name)

    monkeypatch.setattr(contents, "chunks_of", counted)
    code, output = deployment.run("check", "--grace", "0", "--hash")
    kinds = [one["what"] for one in output]
    assert (code, kinds) == (0, [problems.UNVERIFIED_ATTACHMENT.name] * 10 + ["summary"])
    assert sorted(read) == sorted(deployment.files())


def test_copy_uses_the_metadata_of_linked_records(deployment, tmp_path, monkeypatch):
    attachment = deployment.upload()
    orphan = put_file(deployment, f"{RANDOM}.txt")
    link_without_metadata(deployment)
    for number, true in enumerate([attachment, orphan]):
        claim(
            deployment, {**true, "hash": "0" * 64, "mimetype": "zzz/made-up"}, f"{FORGED}{number}"
        )
    ini = str(tmp_path / "other.ini")
    folder = {"kinto.attachment.base_path": str(tmp_path / "there")}
    write_ini(ini, deployment.app.settings | folder)
    mimetypes = []
    replace = LocalStorage.replace

    def noted(storage, name, mimetype):
        mimetypes.append(mimetype)
        return replace(storage, name, mimetype)

    monkeypatch.setattr(LocalStorage, "replace", noted)
    code, output = deployment.run("copy", "--to", ini)
    assert (code, output[-1]["counts"]) == (0, {"copied": 2})
    assert mimetypes == ["text/plain", "text/plain"]


def link_without_metadata(deployment):
    """Change the link to one of an earlier plugin."""
    deployment.sql(
        "UPDATE objects SET parent_id = '__attachments__', data = data - 'attachment' - 'origin' "
        "WHERE resource_name = 'attachments'"
    )
