"""Changing the base URL in records with ``kinto-attachment relocate``."""

import threading

import pytest
import transaction

from kinto_attachment.commands import relocate
from tests.support.app import App
from tests.support.commands import COLLECTION, Deployment
from tests.support.postgresql import postgresql_backends
from tests.support.users import ALICE


OLD = "https://old.example.org/files/"
NEW = "https://new.example.org/"


@pytest.fixture(scope="module")
def shared_app(postgresql, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "files"
    return App(folder, **postgresql_backends(postgresql()), **{"kinto.attachment.base_url": OLD})


@pytest.fixture
def deployment(shared_app, capsys):
    shared_app.create_collection()
    deployment = Deployment(shared_app, shared_app.folder.parent, shared_app.files, capsys)
    yield deployment
    deployment.close()
    for name in shared_app.files():
        (shared_app.folder / name).unlink()


def test_locations_and_links_get_the_new_base_url(deployment):
    attachment = deployment.upload(filename="a b.txt")
    before = deployment.record()
    code, output = deployment.run("relocate", "--base-url", OLD, NEW)
    assert (code, output[-1]["counts"]) == (0, {"relocated": 1})
    expected = {**attachment, "location": attachment["location"].replace(OLD, NEW)}
    after = deployment.record()
    assert after["attachment"] == expected
    assert after["last_modified"] > before["last_modified"]
    assert {**after, "attachment": 0, "last_modified": 0} == {
        **before,
        "attachment": 0,
        "last_modified": 0,
    }
    assert [link["attachment"] for link in deployment.links()] == [expected]
    assert deployment.check() == (0, {})


def test_clients_that_synchronize_see_the_change(deployment):
    deployment.upload("first")
    deployment.upload("second")
    url = f"{COLLECTION}/records"
    etag = deployment.app.get(url, headers=ALICE).headers["ETag"]
    deployment.run("relocate", "--base-url", OLD, NEW)
    changed = deployment.app.get(url, {"_since": etag}, headers=ALICE).json["data"]
    assert {record["id"] for record in changed} == {"first", "second"}


def test_a_second_run_changes_nothing(deployment):
    for number in range(relocate.BATCH + 3):
        deployment.upload(f"r{number}")
    deployment.run("relocate", "--base-url", OLD, NEW)
    before = deployment.state(), deployment.record("r0")
    code, output = deployment.run("relocate", "--base-url", OLD, NEW)
    assert (code, output[-1]["counts"]) == (0, {})
    assert (deployment.state(), deployment.record("r0")) == before


def test_a_dry_run_reports_and_changes_nothing(deployment):
    attachment = deployment.upload()
    before = deployment.state()
    code, output = deployment.run("relocate", "--dry-run", "--base-url", OLD, NEW)
    assert (code, output[-1]["counts"]) == (0, {"to relocate": 1})
    assert output[0]["from"] == attachment["location"]
    assert output[0]["to"] == attachment["location"].replace(OLD, NEW)
    assert deployment.state() == before


def test_files_follow_their_relocated_records(deployment):
    deployment.upload("first")
    deployment.copy("first", "copy")
    deployment.run("relocate", "--base-url", OLD, NEW)
    deployment.app.delete(f"{COLLECTION}/records/first", headers=ALICE)
    assert list(deployment.files().values()) == [b"once upon a time"]
    deployment.app.delete(f"{COLLECTION}/records/copy", headers=ALICE)
    assert deployment.files() == {}


def test_locations_can_become_absolute_and_relative_again(deployment):
    deployment.upload()
    (name,) = deployment.files()
    assert deployment.run("relocate", "--base-url", OLD, "")[0] == 0
    assert deployment.record()["attachment"]["location"] == name
    assert deployment.run("relocate", "--base-url", "", NEW)[0] == 0
    assert deployment.record()["attachment"]["location"] == NEW + name


def test_a_new_base_below_the_old_one_is_added_once(deployment):
    deployment.upload()
    for _ in range(2):
        assert deployment.run("relocate", "--base-url", OLD, f"{OLD}v2")[0] == 0
    (name,) = deployment.files()
    assert deployment.record()["attachment"]["location"] == f"{OLD}v2/{name}"


def test_a_location_without_a_link_is_reported_and_left(deployment):
    url = f"{COLLECTION}/records/forged"
    forged = {"location": f"{OLD}unlinked.txt"}
    elsewhere = {"location": "https://elsewhere.example.org/a.txt"}
    deployment.app.put_json(url, {"data": {"attachment": forged}}, headers=ALICE)
    deployment.app.put_json(f"{url}2", {"data": {"attachment": elsewhere}}, headers=ALICE)
    code, output = deployment.run("relocate", "--base-url", OLD, NEW)
    assert (code, [one.get("record") for one in output]) == (1, [url, None])
    assert deployment.record("forged")["attachment"] == forged
    assert deployment.record("forged2")["attachment"] == elsewhere


def test_a_concurrent_change_is_not_lost(deployment, monkeypatch):
    deployment.upload("first")
    deployment.upload("second")
    write = relocate.Relocation.write
    url = f"{COLLECTION}/records/first"

    def change_and_write(*args):
        monkeypatch.setattr(relocate.Relocation, "write", write)
        # In another thread, as a server is another process.
        body = {"data": {"title": "changed"}}
        thread = threading.Thread(
            target=lambda: deployment.app.patch_json(url, body, headers=ALICE)
        )
        thread.start()
        thread.join()
        return write(*args)

    monkeypatch.setattr(relocate.Relocation, "write", change_and_write)
    code, output = deployment.run("relocate", "--base-url", OLD, NEW)
    assert (code, output[-1]["counts"]) == (0, {"relocated": 2})
    record = deployment.record("first")
    assert record["title"] == "changed"
    assert record["attachment"]["location"].startswith(NEW)


def test_a_record_that_has_changed_is_not_overwritten(deployment):
    deployment.upload("first")
    storage = deployment.app.registry.storage
    with deployment.committing():
        stale = storage.get("record", COLLECTION, "first")
    url = f"{COLLECTION}/records/first"
    deployment.app.patch_json(url, {"data": {"title": "changed"}}, headers=ALICE)
    opened = deployment._open_once(deployment.ini)
    move = relocate.Move(f"{COLLECTION}/records/first", stale, [], "a.txt", f"{NEW}a.txt")
    with pytest.raises(relocate.RecordChanged), transaction.manager:
        relocate._write_move(opened, move)
    assert deployment.record("first")["title"] == "changed"
