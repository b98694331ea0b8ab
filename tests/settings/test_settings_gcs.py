"""The settings of a Google Cloud Storage bucket."""

import json
import sys

import pytest
from pyramid.exceptions import ConfigurationError

from kinto_attachment.settings.read import read_settings
from tests.support.gcs import gcs_storage


BUCKET = {"gcloud.bucket_name": "files"}


def read(**more):
    return read_settings({f"attachment.{name}": value for name, value in more.items()})


def test_a_bucket_name_chooses_google_cloud_storage_with_the_defaults_of_pyramid_storage():
    assert read(**BUCKET).gcloud == {
        "gcloud.bucket_name": "files",
        "gcloud.credentials": None,
        "gcloud.project": None,
        "gcloud.acl": "publicRead",
        "gcloud.uniform_bucket_level_access": False,
        "gcloud.auto_create_bucket": False,
        "gcloud.auto_create_acl": "projectPrivate",
        "gcloud.cache_control": None,
        "gcloud.content_disposition": None,
        "gcloud.part_size_bytes": 8 * 1024 * 1024,
        "gcloud.timeout": 15.0,
        "gcloud.endpoint_url": None,
        "base_url": "",
    }


def test_without_a_bucket_there_are_no_settings_of_one():
    assert read(base_path="/tmp").gcloud is None


@pytest.mark.parametrize("acl", [{}, {"gcloud.acl": ""}])
def test_uniform_access_sends_no_acl(acl):
    values = read(**BUCKET, **acl, **{"gcloud.uniform_bucket_level_access": "true"}).gcloud
    assert (values["gcloud.acl"], values["gcloud.auto_create_acl"]) == (None, None)


@pytest.mark.parametrize("name", ["gcloud.acl", "gcloud.auto_create_acl"])
def test_uniform_access_cannot_be_combined_with_an_acl(name):
    with pytest.raises(ConfigurationError) as error:
        read(**BUCKET, **{"gcloud.uniform_bucket_level_access": "true", name: "private"})
    for setting in (name, "gcloud.uniform_bucket_level_access"):
        assert f"kinto.attachment.{setting}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gcloud.bucket_name", "two words"),
        ("gcloud.acl", "public"),
        ("gcloud.acl", "publicReadWrite"),
        ("gcloud.auto_create_acl", "bucketOwnerRead"),
        ("gcloud.uniform_bucket_level_access", "perhaps"),
        ("gcloud.credentials", "/nonexistent/key.json"),
        ("gcloud.part_size_bytes", "1000000"),
        ("gcloud.part_size_bytes", "0"),
        ("gcloud.part_size_bytes", str(2 * 1024**3)),
        ("gcloud.timeout", "0"),
        ("gcloud.endpoint_url", "localhost:9023"),
    ],
)
def test_a_wrong_value_stops_the_server_with_its_full_name(name, value):
    with pytest.raises(ConfigurationError, match=rf"kinto\.attachment\.{name} = "):
        read(**(BUCKET | {name: value}))


@pytest.mark.parametrize("content", ["{not JSON", json.dumps({"type": "service_account"})])
def test_credentials_that_are_no_key_stop_the_server(make_app, tmp_path, content):
    path = tmp_path / "key.json"
    path.write_text(content)
    with pytest.raises(
        ConfigurationError, match=rf"kinto\.attachment\.gcloud\.credentials = {path}"
    ):
        make_app(
            attachment__base_path="",
            attachment__gcloud__bucket_name="files",
            attachment__gcloud__credentials=str(path),
        )


@pytest.mark.parametrize(
    ("kept", "removed", "other"),
    [
        ("base_path", "gcloud.bucket_name", {"base_path": "/tmp"}),
        ("gcloud.bucket_name", "aws.bucket_name", {"aws.bucket_name": "files"}),
    ],
)
def test_of_two_storages_the_message_says_which_line_to_remove(kept, removed, other):
    with pytest.raises(ConfigurationError) as error:
        read(**BUCKET, **other)
    expected = (
        f"to keep the files of kinto.attachment.{kept}, as earlier plugins did, "
        f"remove kinto.attachment.{removed}"
    )
    assert expected in str(error.value)


@pytest.mark.parametrize("name", ["gcloud.project", "aws.region"])
def test_a_setting_of_a_bucket_that_is_not_named_is_to_be_removed(name):
    with pytest.raises(ConfigurationError, match=rf"or remove kinto\.attachment\.{name}"):
        read(base_path="/tmp", **{name: "x"})


def test_without_the_library_the_server_says_what_to_install(make_app, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("kinto_attachment.storage.gcs.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(ConfigurationError, match=r"kinto-attachment\[gcs\]"):
        make_app(attachment__base_path="", attachment__gcloud__bucket_name="files")


def test_a_bucket_that_cannot_be_reached_does_not_stop_the_server(make_app):
    app = make_app(
        attachment__base_path="",
        attachment__gcloud__bucket_name="files",
        attachment__gcloud__endpoint_url="http://127.0.0.1:1",
    )
    capability = app.get("/").json["capabilities"]["attachments"]
    assert capability["base_url"] == "http://127.0.0.1:1/files/"


def test_locations_lead_to_google_unless_there_is_a_base_url():
    assert gcs_storage(BUCKET).url("f/a b.txt") == (
        "https://storage.googleapis.com/files/f/a%20b.txt"
    )
    ours = gcs_storage(BUCKET | {"base_url": "https://cdn.example.org"})
    assert ours.url("a.txt") == "https://cdn.example.org/a.txt"
