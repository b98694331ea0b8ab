"""The options that a bucket or a collection may have of its own, as requests meet them."""

import re
from datetime import datetime, timezone

import pytest

from tests.support.forms import file_part
from tests.support.users import ALICE


OTHER = "/buckets/blog/collections/others/records/first/attachment"


@pytest.fixture
def make_app_with(make_app):
    """Make a Kinto with two collections, and settings by their full names."""

    def make(**settings):
        app = make_app(**settings)
        app.create_collection(collection="others")
        return app

    return make


def test_each_collection_has_its_own_options(make_app_with):
    app = make_app_with(
        attachment__resources__blog__folder="bucket",
        attachment__resources__blog__photos__randomize="false",
        attachment__resources__blog__photos__extensions="txt",
        attachment__resources__blog__photos__mimetypes=".txt:text/x-own",
    )
    photo = app.upload().json
    assert photo["location"] == "bucket/story.txt"
    assert photo["mimetype"] == "text/x-own"
    other = app.upload(file_part(filename="a.png"), url=OTHER).json
    assert re.fullmatch(r"bucket/[0-9a-f-]{36}\.png", other["location"])
    files = app.files()
    app.upload(file_part(filename="a.png"), status=400)
    assert app.files() == files
    assert set(files) == {photo["location"], other["location"]}


def test_a_collection_may_have_another_mimetype_for_a_known_extension(make_app_with):
    app = make_app_with(
        attachment__extensions="pem",
        attachment__mimetypes=".x:text/x-everywhere",
        attachment__resources__blog__photos__mimetypes=".pem:text/x-own",
    )
    key = file_part(filename="key.pem", content_type="application/octet-stream")
    assert app.upload(key).json["mimetype"] == "text/x-own"
    assert app.upload(key, url=OTHER).json["mimetype"] == "application/x-pem-file"


PATTERNS = {
    "record": ("{rid}", "false", r"first\.txt"),
    "filename": ("{filename}", "false", r"story\.txt"),
    "both": ("{rid}-{filename}", "false", r"first-story\.txt"),
    "reversed": ("{filename}_{rid}", "false", r"story_first\.txt"),
    "random": ("x-{filename}", "true", r"x-[0-9a-f-]{36}\.txt"),
    "randomless": ("{rid}", "true", r"first\.txt"),
    "dots": ("..{filename}..", "false", r"story\.txt"),
    "device": ("nul", "false", r"_nul\.txt"),
    "time": ("{datetime}", "true", r"\d{14}\.txt"),
    "constant": ("photo", "true", r"photo\.txt"),
}
"""``{collection: its pattern, whether names are random, and the stored name}``."""


@pytest.fixture
def upload_to(share_app):
    """Attach a file to a record of such a collection, and return the attachment."""
    app = share_app(
        **{
            f"attachment__resources__blog__{collection}__{option}": value
            for collection, (pattern, randomize, _) in PATTERNS.items()
            for option, value in (("filename_pattern", pattern), ("randomize", randomize))
        }
    )

    locations = []

    def upload(collection, record="first"):
        app.create_collection(collection=collection)
        url = f"/buckets/blog/collections/{collection}/records/{record}/attachment"
        attachment = app.upload(url=url).json
        locations.append(attachment["location"])
        assert sorted(app.files()) == sorted(locations)
        return attachment

    return upload


@pytest.mark.parametrize("collection", PATTERNS)
def test_the_stored_name_follows_the_pattern_and_keeps_its_extension(upload_to, collection):
    attachment = upload_to(collection)
    assert attachment["filename"] == "story.txt"
    assert re.fullmatch(PATTERNS[collection][-1], attachment["location"])


def test_the_pattern_knows_the_time_in_utc(upload_to):
    before = datetime.now(timezone.utc).replace(microsecond=0)
    location = upload_to("time")["location"]
    stored = datetime.strptime(location, "%Y%m%d%H%M%S.txt").replace(tzinfo=timezone.utc)
    assert before <= stored <= datetime.now(timezone.utc)


def test_equal_names_by_a_pattern_get_a_number(upload_to):
    assert upload_to("constant")["location"] == "photo.txt"
    assert upload_to("constant", "second")["location"] == "photo-1.txt"


FOLDERS = ["{bucket_id}", "{collection_id}", "a/{bucket_id}/b"]
LONG_IDS = {f"{'x' * 255}{number}": folder for number, folder in enumerate(FOLDERS)}


@pytest.mark.parametrize("long", LONG_IDS)
def test_ids_that_are_no_names_of_folders_are_refused(share_app, long):
    folders = {f"attachment__resources__{id_}__folder": folder for id_, folder in LONG_IDS.items()}
    app = share_app(**folders)
    app.create_collection(long, long)
    url = f"/buckets/{long}/collections/{long}/records/first/attachment"
    answer = app.upload(url=url, status=400).json
    assert (answer["errno"], answer["message"].endswith("up to 255 bytes")) == (107, True)
    assert app.files() == {}


def test_options_hold_for_a_default_bucket_by_its_real_id(app, make_app):
    bucket = app.get("/", headers=ALICE).json["user"]["bucket"]
    app = make_app(**{f"attachment__resources__{bucket}__folder": "mine"})
    url = "/buckets/default/collections/photos/records/first/attachment"
    assert app.upload(url=url).json["location"].startswith("mine/")
