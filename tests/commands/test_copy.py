"""What ``kinto-attachment copy`` brings to another storage."""

import os

import pytest

from kinto_attachment.storage.local import LocalStorage
from tests.support.app import App
from tests.support.commands import COLLECTION, Deployment, write_ini
from tests.support.postgresql import postgresql_backends
from tests.support.s3 import MIB
from tests.support.users import ALICE


@pytest.fixture(scope="module")
def shared_app(postgresql, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "files"
    return App(folder, **postgresql_backends(postgresql()))


@pytest.fixture
def deployment(shared_app, capsys):
    shared_app.create_collection()
    deployment = Deployment(shared_app, shared_app.folder.parent, shared_app.files, capsys)
    yield deployment
    deployment.close()
    for name in shared_app.files():
        (shared_app.folder / name).unlink()


@pytest.fixture
def folder_ini(deployment, tmp_path):
    """Other settings, with the files in another folder."""
    ini = str(tmp_path / "other.ini")
    there = {"kinto.attachment.base_path": str(tmp_path / "there")}
    write_ini(ini, deployment.app.settings | there)
    return ini


@pytest.fixture
def there(tmp_path):
    folder = tmp_path / "there"
    return lambda: {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def fill(deployment):
    deployment.upload("empty", b"")
    deployment.upload("small", b"once upon a time")
    deployment.upload("large", os.urandom(11 * MIB))
    (deployment.app.folder / "f").mkdir(exist_ok=True)
    (deployment.app.folder / "f" / "nobody's.txt").write_bytes(b"of nobody")


def s3_settings(bucket):
    return {
        "kinto.attachment.base_path": "",
        **{f"kinto.attachment.{name}": str(value) for name, value in bucket.options.items()},
    }


def test_all_files_go_to_s3_and_back(deployment, bucket, tmp_path, there, capsys):
    fill(deployment)
    s3_ini = str(tmp_path / "s3.ini")
    write_ini(s3_ini, deployment.app.settings | s3_settings(bucket))
    code, told = deployment.run("copy", "--to", s3_ini)
    assert (code, told[-1]["counts"]) == (0, {"copied": 4})
    assert bucket.files() == deployment.files()
    assert bucket.uploads() == []
    key = deployment.record("small")["attachment"]["location"]
    head = bucket.client.head_object(Bucket=bucket.name, Key=key)
    assert head["ContentType"] == "text/plain"

    # And from there to another folder, by a server that has its files in the bucket.
    back_ini = str(tmp_path / "back.ini")
    write_ini(
        back_ini,
        deployment.app.settings | {"kinto.attachment.base_path": str(tmp_path / "there")},
    )
    there_and_back = Deployment(deployment.app, tmp_path, there, capsys)
    opened = deployment.app.opened
    del deployment.app.opened
    there_and_back.ini = s3_ini
    code, told = there_and_back.run("copy", "--to", back_ini, "--jobs", "2")
    deployment.app.opened = opened
    assert (code, told[-1]["counts"]) == (0, {"copied": 4})
    assert there() == deployment.files()
    for key in bucket.files():
        bucket.client.delete_object(Bucket=bucket.name, Key=key)


def test_what_is_there_is_not_copied_again_and_what_is_broken_is(deployment, folder_ini, there):
    fill(deployment)
    deployment.run("copy", "--to", folder_ini)
    deployment.upload("late")
    names = {r: deployment.record(r)["attachment"]["location"] for r in ("small", "large")}
    folder = os.path.join(os.path.dirname(folder_ini), "there")
    with open(os.path.join(folder, names["small"]), "wb") as file:
        file.write(b"ONCE upon a time")
    os.truncate(os.path.join(folder, names["large"]), MIB)
    code, told = deployment.run("copy", "--to", folder_ini)
    assert (code, told[-1]["counts"]) == (0, {"copied": 3, "unchanged": 2})
    assert there() == deployment.files()


def test_quick_trusts_sizes(deployment, folder_ini, there):
    deployment.upload("small")
    name = deployment.record("small")["attachment"]["location"]
    deployment.run("copy", "--to", folder_ini)
    path = os.path.join(os.path.dirname(folder_ini), "there", name)
    with open(path, "wb") as file:
        file.write(b"ONCE upon a time")
    code, told = deployment.run("copy", "--to", folder_ini, "--quick")
    assert (code, told[-1]["counts"]) == (0, {"unchanged": 1})
    assert there() == {name: b"ONCE upon a time"}


def test_a_damaged_file_is_told_and_not_copied(deployment, folder_ini, there):
    deployment.upload("sound")
    deployment.upload("damaged")
    name = deployment.record("damaged")["attachment"]["location"]
    (deployment.app.folder / name).write_bytes(b"ONCE upon a time")
    code, told = deployment.run("copy", "--to", folder_ini)
    assert (code, told[-1]["counts"]) == (1, {"copied": 1, "failed": 1})
    (failed,) = [one for one in told if one["what"] == "failed"]
    assert failed["key"] == name
    assert list(there()) == [deployment.record("sound")["attachment"]["location"]]


def test_a_file_that_goes_meanwhile_is_no_failure(deployment, folder_ini, there, monkeypatch):
    deployment.upload("kept")
    deployment.upload("gone")
    name = deployment.record("gone")["attachment"]["location"]
    files = deployment._open_once(deployment.ini).files
    listed = list(files.files())
    (deployment.app.folder / name).unlink()
    monkeypatch.setattr(files, "files", lambda: iter(listed))
    code, told = deployment.run("copy", "--to", folder_ini)
    assert (code, told[-1]["counts"]) == (0, {"copied": 1, "gone": 1})
    assert len(there()) == 1


def test_a_copy_that_cannot_be_written_is_a_failure(deployment, folder_ini, there):
    deployment.upload()
    name = deployment.record("first")["attachment"]["location"]
    os.makedirs(os.path.join(os.path.dirname(folder_ini), "there", name))
    code, told = deployment.run("copy", "--to", folder_ini)
    assert (code, told[0]["what"], told[0]["key"]) == (1, "failed", name)
    assert there() == {}


def test_a_record_can_be_served_from_the_other_storage(deployment, folder_ini, there):
    deployment.upload("small")
    deployment.run("copy", "--to", folder_ini)
    other = App(
        os.path.join(os.path.dirname(folder_ini), "there"),
        **{
            **deployment.app.settings,
            "kinto.attachment.base_path": os.path.join(os.path.dirname(folder_ini), "there"),
        },
    )
    other.delete(f"{COLLECTION}/records/small", headers=ALICE)
    assert there() == {}
    assert len(deployment.files()) == 1


def test_a_file_whose_hash_nobody_knows_is_read_back(deployment, folder_ini, there, monkeypatch):
    deployment.upload("held")
    (deployment.app.folder / "of-nobody.txt").write_bytes(b"of nobody")
    publish = LocalStorage._publish_over

    def break_it(self, staged_path, name):
        if name == "of-nobody.txt":
            with open(staged_path, "wb") as file:
                file.write(b"OF nobody")
        return publish(self, staged_path, name)

    monkeypatch.setattr(LocalStorage, "_publish_over", break_it)
    code, told = deployment.run("copy", "--to", folder_ini)
    assert (code, told[-1]["counts"]) == (1, {"copied": 1, "failed": 1})
    (failed,) = [one for one in told if one["what"] == "failed"]
    assert failed["key"] == "of-nobody.txt"
