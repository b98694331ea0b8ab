"""Files and folders of one name, which exclude one another in a file system."""

import errno
import itertools
import os

import pytest

from kinto_attachment.settings.read import read_settings
from kinto_attachment.storage.folders import Folders
from kinto_attachment.storage.local import LocalStorage
from kinto_attachment.storage.names import KeyPatterns
from tests.support.forms import file_part
from tests.support.local import listing, store
from tests.support.users import ALICE, BOB


PICTURES = "/buckets/pictures/collections/all/records/first/attachment"
BLOG = "/buckets/blog/collections/photos/records/first/attachment"


def first(folders, name, number=3):
    return list(itertools.islice(folders.candidate_keys(name), number))


@pytest.mark.parametrize(
    ("template", "name", "stored"),
    [
        ("{bucket_id}", "blog", "blog.file"),
        ("{bucket_id}", "BLOG-2_x", "BLOG-2_x.file"),
        ("{bucket_id}/{collection_id}", "blog", "blog.file"),
        ("{bucket_id}/{collection_id}", "blog/photos", "blog/photos.file"),
        ("{bucket_id}/{collection_id}", "blog/photos/x", "blog/photos/x"),
        ("{bucket_id}", "blog/photos", "blog/photos"),
        ("{bucket_id}", "story.txt", "story.txt"),
        ("{bucket_id}", "_CON", "_CON"),
        ("docs/{bucket_id}", "docs", "docs.file"),
        ("docs/{bucket_id}", "Docs", "Docs.file"),
        ("docs/{bucket_id}", "blog", "blog"),
        ("docs-{bucket_id}", "docs", "docs"),
        ("docs-{bucket_id}", "docs-1", "docs-1.file"),
        ("v1.0", "v1.0", "v1.0.file.file"),
        ("{bucket_id}.file", "blog.file", "blog.file.file.file"),
        ("a+b", "a+b", "a+b.file"),
        ("", "blog", "blog"),
    ],
)
def test_no_file_has_the_name_of_a_folder_to_come(template, name, stored):
    assert first(Folders([template]), name, 1) == [stored]


def test_numbered_names_are_no_folders_either():
    names = first(Folders(["docs-{bucket_id}"]), "docs")
    assert names == ["docs", "docs-1.file", "docs-2.file"]


@pytest.mark.parametrize(
    "template", ["{bucket_id}", "{bucket_id}.{collection_id}", "x.{bucket_id}"]
)
@pytest.mark.parametrize("name", ["b" * 255, "b" * 250 + ".file", "b" * 190 + "." + "b" * 64])
def test_longest_keys_are_distinct(template, name):
    folders = Folders([template])
    names = first(folders, name, 1000)
    assert len(set(names)) == 1000
    assert max(map(len, names)) <= 255
    assert not any(map(folders.may_include, names))


def test_file_takes_the_next_key_if_its_own_is_a_folder(tmp_path):
    storage = LocalStorage(str(tmp_path))
    storage.prepare()
    (tmp_path / "story").mkdir()
    (tmp_path / "story-1").mkdir()
    assert store(storage, "story") == "story-2"
    assert listing(storage) == ["story-2"]


def test_file_takes_the_next_key_without_hard_links(tmp_path, monkeypatch):
    def no_link(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    storage = LocalStorage(str(tmp_path))
    storage.prepare()
    (tmp_path / "story").mkdir()
    assert store(storage, "story") == "story-1"


@pytest.fixture(params=["base_path", "backend"])
def app(request, make_app, tmp_path):
    """A server where one bucket's files are together, and another one's in a folder of its own."""
    backends = {
        "base_path": {},
        "backend": {
            "attachment__base_path": "",
            "attachment__backend": "pyramid_storage.local",
            "storage.base_path": str(tmp_path / "files"),
        },
    }
    app = make_app(
        attachment__extensions="any",
        attachment__randomize="false",
        attachment__resources__blog__folder="{bucket_id}",
        **backends[request.param],
    )
    app.create_collection("pictures", "all", headers=BOB)
    return app


def test_no_file_takes_the_name_of_the_folder_of_a_bucket(app):
    theirs = app.upload(file_part(b"theirs", "blog"), url=PICTURES, headers=BOB).json
    assert theirs["filename"] == "blog"
    assert theirs["location"] == "blog.file"
    ours = app.upload(file_part(b"ours", "story.txt"), url=BLOG, headers=ALICE, status=201).json
    assert ours["location"] == "blog/story.txt"
    assert (app.stored(theirs), app.stored(ours)) == (b"theirs", b"ours")


def test_file_with_the_name_of_a_bucket_is_stored(app):
    app.upload(file_part(b"ours", "story.txt"), url=BLOG, headers=ALICE, status=201)
    theirs = app.upload(file_part(b"theirs", "blog"), url=PICTURES, headers=BOB, status=201).json
    assert app.stored(theirs) == b"theirs"


def test_random_names_stay_as_they_are(make_app):
    app = make_app(attachment__extensions="any", attachment__resources__x__folder="{bucket_id}")
    location = app.upload(file_part(filename="blog")).json["location"]
    assert "." not in location


@pytest.mark.parametrize("pattern", ["{filename}", "{datetime}", "{rid}"])
def test_check_knows_such_names_as_those_of_the_settings(pattern):
    settings = read_settings(
        {
            "attachment.base_path": "/srv/files",
            "attachment.randomize": "false",
            "attachment.filename_pattern": pattern,
            "attachment.resources.blog.folder": "{bucket_id}",
        }
    )
    (name,) = first(Folders(["{bucket_id}"]), "20261231235959", 1)
    assert name == "20261231235959.file"
    assert KeyPatterns(settings).match(name).is_ours
