"""Copying files to another storage with ``kinto-attachment copy``."""

import json
import os

import pytest

from kinto_attachment.commands.main import main
from kinto_attachment.storage.local import LocalStorage
from tests.support.app import App
from tests.support.commands import COLLECTION, write_ini
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


class Place:
    """A storage to copy to, with what lists its files and what tells the mimetype of one."""

    def __init__(self, settings, files, mimetype=lambda key: "text/plain"):
        self.settings = {f"kinto.attachment.{name}": str(v) for name, v in settings.items()}
        self.files = files
        self.mimetype = mimetype


@pytest.fixture
def places(bucket, gcs_bucket, tmp_path, there):
    def s3_type(key):
        return bucket.client.head_object(Bucket=bucket.name, Key=key)["ContentType"]

    def gcs_type(key):
        return gcs_bucket.bucket.get_blob(key).content_type

    yield {
        "folder": Place({"base_path": tmp_path / "there"}, there),
        "S3": Place({"base_path": "", **bucket.options}, bucket.files, s3_type),
        "GCS": Place({"base_path": "", **gcs_bucket.options}, gcs_bucket.files, gcs_type),
    }
    for key in bucket.files():
        bucket.client.delete_object(Bucket=bucket.name, Key=key)


@pytest.mark.parametrize("way", [("S3", "GCS", "folder"), ("GCS", "S3", "folder")], ids=str)
def test_all_files_go_from_storage_to_storage(deployment, places, way, tmp_path, capsys):
    fill(deployment)
    key = deployment.record("small")["attachment"]["location"]
    ini = deployment.ini
    for name in way:
        place = places[name]
        target = str(tmp_path / f"{name}.ini")
        write_ini(target, deployment.app.settings | place.settings)
        capsys.readouterr()
        assert main(["copy", "--ini", ini, "--to", target, "--jobs", "2", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["counts"] == {"copied": 4}
        assert place.files() == deployment.files()
        assert place.mimetype(key) == "text/plain"
        ini = target


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
