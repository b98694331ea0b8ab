"""What ``check`` and ``repair`` know of resumable uploads."""

from kinto_attachment.commands import problems
from kinto_attachment.resumable.completion import Completion
from tests.support.faults import expire_uploads
from tests.support.resumable import CONTENT, Client, states


def unattached(deployment, monkeypatch):
    """Have an upload store its file, and not write its record."""
    client = Client(deployment.app)
    path = client.begun()
    with monkeypatch.context() as context:
        context.setattr(Completion, "_attach", lambda *args: 1 / 0)
        client.patch(path, 0, CONTENT, status=500)
    (state,) = states(deployment.app)
    return client, path, state["key"]


def test_a_stored_file_of_an_upload_is_no_orphan(deployment, monkeypatch):
    client, path, key = unattached(deployment, monkeypatch)
    code, found = deployment.check()
    assert (code, found[problems.UNATTACHED_FILE.name]) == (0, [key])
    assert problems.ORPHAN_FILE.name not in found
    deployment.repair("--delete-files")
    client.patch(path, 15, CONTENT[15:])
    assert deployment.record()["attachment"]["location"] == key
    assert problems.UNATTACHED_FILE.name not in deployment.check()[1]
    assert list(deployment.files().values()) == [CONTENT]


def test_an_open_upload_is_reported_as_incomplete(deployment):
    client = Client(deployment.app)
    path = client.begun()
    client.patch(path, 0, CONTENT[:5])
    code, found = deployment.check()
    id_ = path.rsplit("/", 1)[1]
    assert (code, found) == (0, {problems.INCOMPLETE_UPLOAD.name: [f".uploads/{id_}"]})
    deployment.repair("--delete-files", "--any-name")
    assert client.offset(path) == 5


def test_an_expired_upload_is_deleted_with_its_file(deployment, monkeypatch):
    unattached(deployment, monkeypatch)
    expire_uploads(deployment)
    code, found = deployment.check()
    assert code == 1
    assert len(found[problems.EXPIRED_UPLOAD.name]) == 1
    assert deployment.repair() == (0, {"repaired": [problems.EXPIRED_UPLOAD.name]})
    assert (deployment.files(), states(deployment.app)) == ({}, [])


def test_an_expired_upload_that_was_done_leaves_the_file_of_the_record(deployment):
    Client(deployment.app).completed()
    assert deployment.check() == (0, {})
    expire_uploads(deployment)
    assert deployment.repair() == (0, {"repaired": [problems.EXPIRED_UPLOAD.name]})
    assert list(deployment.files().values()) == [CONTENT]
    assert deployment.check() == (0, {})


def test_a_file_that_is_detached_is_an_orphan_although_an_upload_made_it(deployment):
    Client(deployment.app).completed()
    key = deployment.record()["attachment"]["location"]
    deployment.sql("DELETE FROM objects WHERE resource_name IN ('attachments', 'record')")
    assert deployment.check()[1][problems.ORPHAN_FILE.name] == [key]
