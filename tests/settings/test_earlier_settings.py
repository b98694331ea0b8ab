"""Settings files of earlier plugins: they start the server, or say what to write instead."""

import shutil
from pathlib import Path

import pytest
from pyramid.exceptions import ConfigurationError
from pyramid.paster import get_app

from tests.support.gcs import TokenServer


EARLIER = Path(__file__).parent / "earlier"


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a Kinto from a settings file, and returns its registry.

    :param added: settings to add to those in the file.
    """

    def start(name, **added):
        ini = shutil.copy(EARLIER / f"{name}.ini", tmp_path)
        with open(ini, "a") as file:
            file.writelines(f"kinto.attachment.{key} = {value}\n" for key, value in added.items())
        return get_app(str(ini)).registry

    return start


def attributes(value, *names):
    return [getattr(value, name) for name in names]


def test_a_folder(start, tmp_path):
    settings = start("folder").attachments.settings
    assert settings.base_path == str(tmp_path / "files")
    assert (settings.base_url, settings.advertised_base_url) == (
        "",
        "https://cdn.example.com/files/",
    )
    defaults = settings.defaults
    assert defaults.folder_of("blog", "photos") == "blog/photos"
    assert [name for name in ("a.mov", "a.mp4", "a.pdf", "a.exe") if defaults.allows(name)] == [
        "a.mov",
        "a.mp4",
        "a.pdf",
    ]
    assert defaults.mimetypes == {
        ".ftl": "application/vnd.fluent",
        ".db": "application/vnd.sqlite3",
    }


def test_s3(start):
    settings = start("s3").attachments.settings
    assert settings.base_url == "https://cdn.example.com/"
    given = {name: value for name, value in settings.aws.items() if value is not None}
    assert given == {
        "base_url": "https://cdn.example.com/",
        "aws.access_key": "key",
        "aws.secret_key": "secret",
        "aws.bucket_name": "files",
        "aws.acl": "public-read",
        "aws.host": "127.0.0.1",
        "aws.port": 1,
        "aws.is_secure": False,
        "aws.use_path_style": True,
        "aws.num_retries": 2,
        "aws.timeout": 3.0,
        "aws.part_size_bytes": 8 * 1024**2,
    }


def test_google_cloud_storage(start, tmp_path):
    token_server = TokenServer()
    token_server.write_key(tmp_path / "key.json")
    token_server.stop()
    registry = start("gcs")
    settings = registry.attachments.settings
    given = {name: value for name, value in settings.gcloud.items() if value is not None}
    assert given == {
        "base_url": "",
        "gcloud.credentials": str(tmp_path / "key.json"),
        "gcloud.bucket_name": "files",
        "gcloud.acl": "publicRead",
        "gcloud.cache_control": "public, max-age=3600",
        "gcloud.uniform_bucket_level_access": False,
        "gcloud.auto_create_bucket": False,
        "gcloud.auto_create_acl": "projectPrivate",
        "gcloud.part_size_bytes": 8 * 1024**2,
        "gcloud.timeout": 15.0,
    }
    assert settings.for_collection("blog", "articles").randomize is False
    assert registry.attachments.files.url("blog/a.txt") == "blog/a.txt"
    assert registry.api_capabilities["attachments"]["base_url"] == "https://cdn.example.com/"


def test_settings_of_buckets_and_collections(start):
    settings = start("per_collection").attachments.settings
    names = ("folder", "randomize", "keep_old_files", "max_size_bytes")
    articles = settings.for_collection("blog", "articles")
    assert attributes(articles, *names) == ["blog-assets", True, True, 5 * 1024**2]
    others = settings.for_collection("blog", "others")
    assert attributes(others, *names) == ["blog-assets", False, False, 0]
    assert attributes(settings.defaults, *names) == ["all", True, False, 0]


def test_compressed_files(start):
    registry = start("gzip")
    settings = registry.attachments.settings
    assert settings.defaults.gzipped is True
    assert settings.for_collection("blog", "articles").gzipped is True
    assert settings.for_collection("blog", "others").gzipped is False
    assert registry.api_capabilities["attachments"]["gzipped"] is True


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("max_size", "10485760", "did you mean kinto.attachment.max_size_bytes?"),
        (
            "resources.blog.max_size",
            "5242880",
            "did you mean kinto.attachment.resources.blog.max_size_bytes?",
        ),
        ("use_content_encoding", "true", "has no effect: remove it."),
        ("resources.blog.use_content_encoding", "true", "has no effect: remove it."),
        ("resources.blog_articles.use_content_encoding", "true", "has no effect: remove it."),
        ("resources.default.randomize", "false", "Set kinto.attachment.randomize, for all"),
        ("resources.default.articles.folder", "x", "Set kinto.attachment.folder, for all"),
        ("aws.bucket", "files", "did you mean kinto.attachment.aws.bucket_name?"),
        ("aws.acl", "private", "or remove kinto.attachment.aws.acl"),
    ],
)
def test_what_cannot_be_honoured_stops_the_server_and_says_what_to_write_instead(
    start, name, value, instead
):
    with pytest.raises(ConfigurationError) as refusal:
        start("folder", **{name: value})
    message = str(refusal.value)
    assert message.startswith(f"kinto.attachment.{name} ")
    assert instead in message


@pytest.mark.parametrize(("name", "cloud"), [("s3", "aws"), ("gcs", "gcloud")])
def test_a_folder_beside_a_bucket_stops_the_server_and_says_what_to_remove(
    start, tmp_path, name, cloud
):
    (tmp_path / "key.json").touch()
    with pytest.raises(ConfigurationError) as refusal:
        start(name, base_path="%(here)s/files")
    assert str(refusal.value).endswith(
        ": to keep the files of kinto.attachment.base_path, as earlier plugins did, "
        f"remove kinto.attachment.{cloud}.bucket_name"
    )


def test_a_withdrawn_name_in_the_environment_stops_the_server(start, monkeypatch):
    monkeypatch.setenv("KINTO_ATTACHMENT_USE_CONTENT_ENCODING", "true")
    expected = r"^KINTO_ATTACHMENT_USE_CONTENT_ENCODING \(in the environment\) has no effect"
    with pytest.raises(ConfigurationError, match=expected):
        start("folder")
