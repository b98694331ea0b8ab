"""What ``kinto-attachment`` believes of an ``attachment`` that a client has written itself."""

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
    """Write a record as any client may, and take the link away that the server makes of a copy."""
    deployment.app.put_json(uri, {"data": {"attachment": attachment}}, headers=headers)
    lose_link(deployment, uri)


def lose_link(deployment, uri):
    deployment.sql(
        "DELETE FROM objects WHERE resource_name = 'attachments' AND data->>'record_uri' = :uri",
        uri=uri,
    )


def put_file(deployment, name, content=b"of nobody"):
    """Store a file that no record holds, and return what is true of it."""
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


def is_only_told(deployment, count=1):
    """Look whether claims are told and no fault, and whether a repair leaves all as it is."""
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
    "a size that is none": {"size": "16"},
}


@pytest.mark.parametrize("case", FORGERIES)
def test_what_is_made_up_is_told_and_no_fault(deployment, case):
    attachment = deployment.upload()
    claim(deployment, {**attachment, **FORGERIES[case]})
    assert is_only_told(deployment)


@pytest.mark.parametrize(("true", "forged"), [(1, True), (1, 1.0), (0, False)])
def test_metadata_are_the_same_where_they_are_the_same_json(deployment, true, forged):
    attachment = deployment.upload(content=b"x" * true)
    claim(deployment, attachment)
    change_size(deployment, "forged", forged)
    assert is_only_told(deployment)


def test_a_link_that_differs_in_a_type_only_differs(deployment):
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


def test_a_copy_by_somebody_who_may_not_read_the_original_is_only_told(deployment):
    attachment = deployment.upload()
    claim(deployment, attachment)
    assert is_only_told(deployment)


@pytest.mark.parametrize("reader", ["system.Everyone", "system.Authenticated", "bob", "his group"])
def test_a_copy_by_somebody_who_may_read_the_original_is_linked(deployment, reader):
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
    # As the server links a copy: where the file was uploaded to decides whether it is kept.
    assert links[FORGED]["origin"] == COLLECTION


def test_a_file_that_no_record_holds_is_that_of_a_record_that_says_all_of_it(deployment):
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
def test_a_file_that_no_record_holds_is_not_linked_without_evidence(deployment, case):
    name, changed = UNPROVED[case]
    deployment.upload()
    claim(deployment, {**put_file(deployment, name), **changed})
    assert is_only_told(deployment)


UNPROVED_SETTINGS = {
    "a folder of another collection": ({"folder": "{bucket_id}"}, f"blog/{RANDOM}.txt"),
    "a name of another record": (
        {"filename_pattern": "{rid}.{filename}"},
        f"another.{RANDOM}.txt",
    ),
    "a name that anybody could give": ({"randomize": "false"}, "story.txt"),
    "where old files are kept": ({"keep_old_files": "true"}, f"{RANDOM}.txt"),
}


@pytest.mark.parametrize("case", UNPROVED_SETTINGS)
def test_a_name_is_evidence_where_the_settings_give_it_to_this_record(make_deployment, case):
    settings, name = UNPROVED_SETTINGS[case]
    deployment = make_deployment(**settings)
    claim(deployment, put_file(deployment, name))
    assert is_only_told(deployment)


PROVED_SETTINGS = {
    "a folder": ({"folder": "{bucket_id}/{collection_id}"}, f"bobs/own/{RANDOM}.txt"),
    "a pattern": (
        {"filename_pattern": "{datetime}-{rid}.{filename}"},
        f"20261231235959-forged.{RANDOM}.txt",
    ),
}


@pytest.mark.parametrize("case", PROVED_SETTINGS)
def test_names_with_ids_are_those_of_their_records(make_deployment, case):
    settings, name = PROVED_SETTINGS[case]
    deployment = make_deployment(**settings)
    claim(deployment, put_file(deployment, name))
    assert deployment.check() == (1, {problems.MISSING_LINK.name: [name]})
    assert deployment.repair() == (0, {"repaired": [problems.MISSING_LINK.name]})
    assert [link["record_uri"] for link in deployment.links()] == [FORGED]


def test_names_that_are_not_random_take_one_more_word(make_deployment):
    deployment = make_deployment(randomize="false")
    deployment.upload()
    lose_link(deployment, f"{COLLECTION}/records/first")
    assert is_only_told(deployment)
    assert deployment.repair("--any-name") == (0, {"repaired": [problems.MISSING_LINK.name]})
    assert deployment.check() == (0, {})


def test_a_file_that_is_let_go_is_not_linked(deployment):
    name = f"{RANDOM}.txt"
    claim(deployment, put_file(deployment, name))
    with deployment.committing():
        release = {"locations": [name]}
        parent = "__attachments__/releases/a"
        deployment.app.registry.storage.update("attachment-releases", parent, "a", release)
    code, found = deployment.check()
    assert found == {
        problems.UNVERIFIED_ATTACHMENT.name: [name],
        problems.OVERDUE_DELETION.name: [name],
    }
    assert deployment.repair()[1] == {"repaired": [problems.OVERDUE_DELETION.name]}
    assert deployment.links() == []


def test_two_records_that_disagree_of_a_file_prove_nothing(deployment):
    attachment = put_file(deployment, f"{RANDOM}.txt")
    claim(deployment, attachment)
    other = f"{COLLECTION}/records/other"
    claim(deployment, {**attachment, "mimetype": "text/html"}, other, ALICE)
    assert is_only_told(deployment, 2)


def test_a_file_is_read_once_however_many_claim_it(deployment, monkeypatch):
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
    code, found = deployment.check("--hash")
    assert (code, len(found[problems.UNVERIFIED_ATTACHMENT.name])) == (0, 10)
    assert sorted(read) == sorted(deployment.files())


def test_copies_are_what_the_holders_say(deployment, tmp_path, monkeypatch):
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
    code, told = deployment.run("copy", "--to", ini)
    assert (code, told[-1]["counts"]) == (0, {"copied": 2})
    assert mimetypes == ["text/plain", "text/plain"]


def link_without_metadata(deployment):
    """Have the link be as earlier plugins wrote them."""
    deployment.sql(
        "UPDATE objects SET parent_id = '__attachments__', data = data - 'attachment' - 'origin' "
        "WHERE resource_name = 'attachments'"
    )
