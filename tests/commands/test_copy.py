"""Copying files to another storage with ``kinto-attachment copy``."""

import os

import pytest

from kinto_attachment.storage.local import LocalStorage
from tests.support.app import App
from tests.support.commands import COLLECTION, Deployment, write_ini
from tests.support.s3 import MIB
from tests.support.users import ALICE


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
    (deployment.app.folder / "f" / "orphan.txt").write_bytes(b"an orphan")


def s3_settings(bucket):
    return {
        "kinto.attachment.base_path": "",
        **{f"kinto.attachment.{name}": str(value) for name, value in bucket.options.items()},
    }


def test_all_files_go_to_s3_and_back(deployment, bucket, tmp_path, there, capsys):
    fill(deployment)
    s3_ini = str(tmp_path / "s3.ini")
    write_ini(s3_ini, deployment.app.settings | s3_settings(bucket))
    code, output = deployment.run("copy", "--to", s3_ini)
    assert (code, output[-1]["counts"]) == (0, {"copied": 4})
    assert bucket.files() == deployment.files()
    assert bucket.uploads() == []
    key = deployment.record("small")["attachment"]["location"]
    head = bucket.client.head_object(Bucket=bucket.name, Key=key)
    assert head["ContentType"] == "text/plain"

    # And from there to another folder, with the settings of a server on S3.
    back_ini = str(tmp_path / "back.ini")
    write_ini(
        back_ini,
        deployment.app.settings | {"kinto.attachment.base_path": str(tmp_path / "there")},
    )
    there_and_back = Deployment(deployment.app, tmp_path, there, capsys)
    opened = deployment.app.opened
    del deployment.app.opened
    there_and_back.ini = s3_ini
    code, output = there_and_back.run("copy", "--to", back_ini, "--jobs", "2")
    deployment.app.opened = opened
    assert (code, output[-1]["counts"]) == (0, {"copied": 4})
    assert there() == deployment.files()
    for key in bucket.files():
        bucket.client.delete_object(Bucket=bucket.name, Key=key)


def test_only_missing_and_damaged_files_are_copied_again(deployment, folder_ini, there):
    fill(deployment)
    deployment.run("copy", "--to", folder_ini)
    deployment.upload("late")
    names = {r: deployment.record(r)["attachment"]["location"] for r in ("small", "large")}
    folder = os.path.join(os.path.dirname(folder_ini), "there")
    with open(os.path.join(folder, names["small"]), "wb") as file:
        file.write(b"ONCE upon a time")
    os.truncate(os.path.join(folder, names["large"]), MIB)
    code, output = deployment.run("copy", "--to", folder_ini)
    assert (code, output[-1]["counts"]) == (0, {"copied": 3, "unchanged": 2})
    assert there() == deployment.files()


def test_quick_compares_only_sizes(deployment, folder_ini, there):
    deployment.upload("small")
    name = deployment.record("small")["attachment"]["location"]
    deployment.run("copy", "--to", folder_ini)
    path = os.path.join(os.path.dirname(folder_ini), "there", name)
    with open(path, "wb") as file:
        file.write(b"ONCE upon a time")
    code, output = deployment.run("copy", "--to", folder_ini, "--quick")
    assert (code, output[-1]["counts"]) == (0, {"unchanged": 1})
    assert there() == {name: b"ONCE upon a time"}


def test_a_damaged_file_is_reported_and_not_copied(deployment, folder_ini, there):
    deployment.upload("sound")
    deployment.upload("damaged")
    name = deployment.record("damaged")["attachment"]["location"]
    (deployment.app.folder / name).write_bytes(b"ONCE upon a time")
    code, output = deployment.run("copy", "--to", folder_ini)
    assert (code, output[-1]["counts"]) == (1, {"copied": 1, "failed": 1})
    (failed,) = [one for one in output if one["what"] == "failed"]
    assert failed["key"] == name
    assert list(there()) == [deployment.record("sound")["attachment"]["location"]]


def test_a_file_that_is_deleted_meanwhile_is_no_failure(deployment, folder_ini, there, monkeypatch):
    deployment.upload("kept")
    deployment.upload("gone")
    name = deployment.record("gone")["attachment"]["location"]
    files = deployment._open_once(deployment.ini).files
    listed = list(files.files())
    (deployment.app.folder / name).unlink()
    monkeypatch.setattr(files, "files", lambda: iter(listed))
    code, output = deployment.run("copy", "--to", folder_ini)
    assert (code, output[-1]["counts"]) == (0, {"copied": 1, "gone": 1})
    assert len(there()) == 1


def test_a_copy_that_cannot_be_written_is_a_failure(deployment, folder_ini, there):
    deployment.upload()
    name = deployment.record("first")["attachment"]["location"]
    os.makedirs(os.path.join(os.path.dirname(folder_ini), "there", name))
    code, output = deployment.run("copy", "--to", folder_ini)
    assert (code, output[0]["what"], output[0]["key"]) == (1, "failed", name)
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
    other.wait_for_deletions()
    assert there() == {}
    assert len(deployment.files()) == 1


def test_a_file_without_a_known_hash_is_read_back(deployment, folder_ini, there, monkeypatch):
    deployment.upload("linked")
    (deployment.app.folder / "orphan.txt").write_bytes(b"an orphan")
    publish = LocalStorage._publish_over

    def break_it(self, staged_path, name):
        if name == "orphan.txt":
            with open(staged_path, "wb") as file:
                file.write(b"AN orphan")
        return publish(self, staged_path, name)

    monkeypatch.setattr(LocalStorage, "_publish_over", break_it)
    code, output = deployment.run("copy", "--to", folder_ini)
    assert (code, output[-1]["counts"]) == (1, {"copied": 1, "failed": 1})
    (failed,) = [one for one in output if one["what"] == "failed"]
    assert failed["key"] == "orphan.txt"
