"""The settings that choose the storage, and those of a bucket."""

import pytest
from pyramid.exceptions import ConfigurationError

from kinto_attachment.settings.read import read_settings
from kinto_attachment.storage.s3.adapter import RepairedS3FileStorage


BUCKET = {"aws.bucket_name": "files"}


def read(**more):
    return read_settings({f"attachment.{name}": value for name, value in more.items()})


def test_a_bucket_name_chooses_s3_with_the_defaults_of_pyramid_storage():
    assert read(**BUCKET).aws == {
        "aws.bucket_name": "files",
        "aws.access_key": None,
        "aws.secret_key": None,
        "aws.acl": "public-read",
        "aws.region": None,
        "aws.endpoint_url": None,
        "aws.host": None,
        "aws.port": None,
        "aws.is_secure": True,
        "aws.use_path_style": False,
        "aws.num_retries": 1,
        "aws.timeout": 5.0,
        "aws.part_size_bytes": 8 * 1024 * 1024,
        "aws.cache_control": None,
        "aws.content_disposition": None,
        "aws.checksums": None,
        "base_url": "",
    }


def test_without_a_bucket_there_are_no_settings_of_one():
    assert read(base_path="/tmp").aws is None


def test_an_empty_acl_is_none():
    settings = read(**BUCKET, **{"aws.acl": ""})
    assert settings.aws["aws.acl"] is None
    assert RepairedS3FileStorage.from_settings(settings.aws, prefix="").acl is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backend", "not a module"),
        ("aws.bucket_name", "two words"),
        ("aws.acl", "public"),
        ("aws.region", "Frankfurt!"),
        ("aws.endpoint_url", "s3.example.com"),
        ("aws.endpoint_url", "https://s3.example.com/root?tenant=1"),
        ("aws.endpoint_url", "https://s3.example.com//root"),
        ("aws.endpoint_url", "https://s3.example.com/../root"),
        ("aws.endpoint_url", "https://s3.example.com/a%20b"),
        ("aws.host", "https://s3.example.com"),
        ("aws.port", "70000"),
        ("aws.port", "http"),
        ("aws.is_secure", "perhaps"),
        ("aws.use_path_style", "perhaps"),
        ("aws.num_retries", "-1"),
        ("aws.num_retries", "many"),
        ("aws.timeout", "0"),
        ("aws.timeout", "inf"),
        ("aws.timeout", "5s"),
        ("aws.part_size_bytes", "1024"),
        ("aws.part_size_bytes", str(6 * 1024**3)),
        ("aws.checksums", "always"),
    ],
)
def test_a_wrong_value_stops_the_server_with_its_full_name(name, value):
    with pytest.raises(ConfigurationError, match=rf"kinto\.attachment\.{name} = "):
        read(**(BUCKET | {name: value}))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"aws.endpoint_url": "https://x.org", "aws.host": "x.org"}, ("endpoint_url", "host")),
        ({"aws.endpoint_url": "https://x.org", "aws.port": "80"}, ("endpoint_url", "port")),
        ({"aws.port": "9000"}, ("port", "host")),
        ({"aws.access_key": "key"}, ("access_key", "secret_key")),
        ({"aws.secret_key": "key"}, ("access_key", "secret_key")),
    ],
)
def test_values_that_cannot_be_combined_stop_the_server(settings, names):
    with pytest.raises(ConfigurationError) as error:
        read(**BUCKET, **settings)
    for name in names:
        assert f"kinto.attachment.aws.{name}" in str(error.value)


def test_no_error_shows_a_secret():
    with pytest.raises(ConfigurationError) as error:
        read(**BUCKET, **{"aws.secret_key": "s3cr3t"})
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"base_path": "/tmp", "aws.bucket_name": "files"},
        {"base_path": "/tmp", "backend": "pyramid_storage.local"},
        {"aws.bucket_name": "files", "backend": "pyramid_storage.local"},
    ],
)
def test_two_storages_stop_the_server_with_the_settings_to_choose_from(settings):
    with pytest.raises(ConfigurationError) as error:
        read(**settings)
    for name in settings:
        assert f"kinto.attachment.{name}" in str(error.value)


@pytest.mark.parametrize("settings", [{}, {"aws.region": "eu-central-1"}, {"base_path": ""}])
def test_no_storage_stops_the_server_with_the_settings_to_choose_from(settings):
    with pytest.raises(ConfigurationError) as error:
        read(**settings)
    for name in ("base_path", "aws.bucket_name", "backend"):
        assert f"kinto.attachment.{name}" in str(error.value)


def test_only_files_in_a_folder_can_be_served_by_kinto():
    with pytest.raises(ConfigurationError, match="serve_files"):
        read(**BUCKET, serve_files=True)


def test_a_storage_is_made_from_text_as_well_as_from_values():
    settings = {"storage.aws.bucket_name": "files", "storage.aws.timeout": "2"}
    storage = RepairedS3FileStorage.from_settings(settings, prefix="storage.")
    assert storage.s3_client.meta.config.read_timeout <= 2


def test_a_storage_without_a_bucket_is_refused():
    with pytest.raises(ConfigurationError, match="storage.aws.bucket_name"):
        RepairedS3FileStorage.from_settings({}, prefix="storage.")


def test_without_boto3_the_server_says_what_to_install(make_app, monkeypatch):
    monkeypatch.setattr("kinto_attachment.storage.configure.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"kinto-attachment\[s3\]"):
        make_app(attachment__base_path="", attachment__aws__bucket_name="files")


def test_a_bucket_that_cannot_be_reached_does_not_stop_the_server(make_app):
    app = make_app(
        attachment__base_path="",
        attachment__aws__bucket_name="files",
        attachment__aws__endpoint_url="http://127.0.0.1:1",
    )
    assert app.get("/").json["capabilities"]["attachments"]


@pytest.mark.parametrize(
    ("settings", "location"),
    [
        ({}, "http://127.0.0.1:1/files/a.txt"),
        ({"base_url": "https://in.test"}, "https://in.test/a.txt"),
        ({"extra__base_url": "https://cdn.test"}, "a.txt"),
        (
            {"base_url": "https://in.test", "extra__base_url": "https://cdn.test"},
            "https://in.test/a.txt",
        ),
    ],
)
def test_locations_are_relative_if_only_the_capability_has_a_base_url(make_app, settings, location):
    app = make_app(
        attachment__base_path="",
        attachment__aws__bucket_name="files",
        attachment__aws__endpoint_url="http://127.0.0.1:1",
        **{f"attachment__{name}": value for name, value in settings.items()},
    )
    assert app.registry.attachments.files.url("a.txt") == location
