"""The settings: their values, and how the server refuses to start with wrong ones."""

import pytest
from pyramid.exceptions import ConfigurationError

from kinto_attachment.settings.read import read_settings


def read(**settings):
    """Return the settings as Kinto passes them on: each with and without prefix."""
    from_file = {"base_path": "/srv/files"} | settings
    values = {f"attachment.{name}": value for name, value in from_file.items()}
    values |= {f"kinto.attachment.{name}": value for name, value in from_file.items()}
    return read_settings({"settings_prefix": "kinto", "http_port": 8888, **values})


def test_a_folder_is_all_that_is_needed():
    settings = read()
    assert settings.base_path == "/srv/files"
    assert settings.base_url == settings.advertised_base_url == ""
    assert settings.defaults.folder == ""
    assert settings.defaults.filename_pattern == "{filename}"
    assert settings.defaults.randomize and settings.fsync
    assert not settings.serve_files
    assert settings.max_field_size_bytes == 1024 * 1024


@pytest.mark.parametrize("value", [True, "true", "True", "yes", "on", "1", 1, "T", "y", " yes "])
def test_every_word_for_yes_is_true(value):
    assert read(serve_files=value).serve_files is True


@pytest.mark.parametrize("value", [False, "false", "False", "no", "off", "0", 0, "F", "n"])
def test_every_word_for_no_is_false(value):
    assert read(randomize=value).defaults.randomize is False


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://cdn.test", "https://cdn.test/"),
        ("https://cdn.test/a/", "https://cdn.test/a/"),
        ("/files", "/files/"),
        ("//cdn.test/files", "//cdn.test/files/"),
        ("HTTP://[::1]:8080/a%20b", "HTTP://[::1]:8080/a%20b/"),
        ("", ""),
    ],
)
def test_the_base_url_ends_in_a_slash(given, expected):
    assert read(base_url=given).base_url == expected


def test_the_extra_base_url_is_advertised():
    settings = read(base_url="https://in.test", **{"extra.base_url": "https://cdn.test"})
    assert settings.base_url == "https://in.test/"
    assert settings.advertised_base_url == "https://cdn.test/"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        ("a/b/", "a/b"),
        ("{bucket_id}/{collection_id}", "blog/photos"),
        ("x-{bucket_id}", "x-blog"),
        ("1.10", "1.10"),
        (2024, "2024"),
    ],
)
def test_the_folder_may_name_bucket_and_collection(given, expected):
    assert read(folder=given).defaults.folder_of("blog", "photos") == expected


@pytest.mark.parametrize(
    ("extensions", "allowed", "refused"),
    [
        ("default", ["a.JPG", "a.txt", "a.pdf", "a.csv"], ["a.exe", "a", ".jpg", "a.js"]),
        ("images", ["a.png", "a.b.png"], ["a.txt", "a.png.txt"]),
        ("images+audio", ["a.png", "a.mp3"], ["a.txt"]),
        ("images + .TXT md", ["a.png", "a.txt", "a.md"], ["a.exe"]),
        ("pdf,jpg", ["a.pdf", "a.jpg"], ["a.txt"]),
        ("images, .7z\ntex", ["a.png", "a.7z", "a.tex"], ["a.txt"]),
        (".images", ["a.images"], ["a.png"]),
        ("tex dat txt", ["a.tex", "a.dat", "a.txt"], ["a.pdf"]),
        (7, ["a.7"], ["a.txt"]),
        ("any", ["a.exe", "a", "a.", ".profile"], []),
        ("images+any", ["a.exe"], []),
        ("Images", ["a.png"], ["a.images"]),
    ],
)
def test_the_last_extension_decides(extensions, allowed, refused):
    settings = read(extensions=extensions)
    assert [name for name in allowed + refused if settings.defaults.allows(name)] == allowed


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("0", 0), (90, 90), ("90s", 90), ("30m", 1800), ("12h", 43200), ("7d", 7 * 86400)],
)
def test_a_time_has_a_unit_or_is_in_seconds(given, seconds):
    assert read(delete_after=given).defaults.delete_after == seconds


def test_mimetypes_are_found_by_extension():
    settings = read(mimetypes=".FTL:application/vnd.fluent; db:application/vnd.sqlite3;")
    assert settings.defaults.mimetypes == {
        ".ftl": "application/vnd.fluent",
        ".db": "application/vnd.sqlite3",
    }


@pytest.mark.parametrize("name", ["KINTO_ATTACHMENT_FOLDER", "ATTACHMENT_FOLDER"])
def test_the_environment_overrides_the_file(monkeypatch, name):
    monkeypatch.setenv(name, "from-environment")
    assert read(folder="from-file").defaults.folder == "from-environment"
    assert read().defaults.folder == "from-environment"


def test_the_environment_may_choose_the_storage(monkeypatch):
    monkeypatch.setenv("KINTO_ATTACHMENT_BASE_PATH", "/srv/elsewhere")
    monkeypatch.setenv("KINTO_ATTACHMENT_EXTRA_BASE_URL", "https://cdn.test")
    settings = read_settings({"settings_prefix": "kinto"})
    assert settings.base_path == "/srv/elsewhere"
    assert settings.advertised_base_url == "https://cdn.test/"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("randomize", "maybe"),
        ("randomize", ""),
        ("fsync", "2"),
        ("serve_files", "None"),
        ("base_path", "a\0b"),
        ("base_path", "/"),
        ("base_path", "//"),
        ("base_path", "/.."),
        ("base_path", "/srv/.."),
        ("base_path", "/proc/self/root"),
        ("base_path", "/etc"),
        ("base_path", "/etc/"),
        ("base_path", "/usr/../var"),
        ("base_url", "files"),
        ("base_url", "www.example.com/files"),
        ("base_url", "ftp://example.com/"),
        ("base_url", "https:/example.com/"),
        ("base_url", "https://"),
        ("base_url", "https:///files"),
        ("base_url", "https://example.com/?file="),
        ("base_url", "https://example.com/#"),
        ("base_url", "https://example.com/my files"),
        ("base_url", "/files?x"),
        ("base_url", "None"),
        ("extra.base_url", "files"),
        ("folder", "/etc"),
        ("folder", "/"),
        ("folder", "a\nb"),
        ("folder", "x" * 256),
        ("folder", "é" * 128),
        ("folder", "{bucket}"),
        ("folder", "{bucket_id.x}"),
        ("folder", "{bucket_id!r}"),
        ("folder", "{"),
        ("folder", "a/../b"),
        ("folder", ".hidden"),
        ("folder", "a//b"),
        ("folder", "a\\b"),
        ("folder", "a" + "/b" * 15),
        ("folder", "private"),
        ("folder", "Private/{bucket_id}"),
        ("downloads", "secret"),
        ("downloads", ""),
        ("deliver", "nginx"),
        ("accel_prefix", "internal"),
        ("accel_prefix", "//internal"),
        ("accel_prefix", "/internal?"),
        ("link_secret", "x" * 15),
        ("link_max_seconds", "0"),
        ("link_max_seconds", "604801"),
        ("filename_pattern", ""),
        ("filename_pattern", "{name}"),
        ("filename_pattern", "{}"),
        ("filename_pattern", "{filename:>9}"),
        ("filename_pattern", "{filename!r}"),
        ("filename_pattern", "{filename.x}"),
        ("filename_pattern", "{filename"),
        ("filename_pattern", "../{filename}"),
        ("filename_pattern", "{{filename}}"),
        ("filename_pattern", "x" * 145 + "{filename}"),
        ("filename_pattern", "{rid}{rid}"),
        ("extensions", ""),
        ("extensions", "+"),
        ("extensions", "images+"),
        ("extensions", "pdf,,jpg"),
        ("extensions", "*"),
        ("extensions", "*.jpg"),
        ("extensions", "jpg;png"),
        ("extensions", "tar.gz"),
        ("extensions", "images+.tar.gz"),
        ("extensions", "imagez"),
        ("extensions", "image"),
        ("extensions", "default+documents+archive"),
        ("mimetypes", ".ftl"),
        ("mimetypes", ".tar.gz:application/gzip"),
        ("mimetypes", "*:text/plain"),
        ("mimetypes", ".ftl:nonsense"),
        ("mimetypes", ":text/plain"),
        ("max_size_bytes", "-1"),
        ("max_size_bytes", "1.5"),
        ("delete_after", "-1"),
        ("delete_after", "a week"),
        ("delete_after", "1.5d"),
        ("delete_after", "3651d"),
        ("gzipped", "maybe"),
        ("gzip_level", "0"),
        ("gzip_level", "10"),
        ("max_field_size_bytes", "many"),
        ("max_field_size_bytes", "0"),
        ("max_field_size_bytes", "1_000"),
        ("max_size_bytes", "\u0661"),
        ("aws.cache_control", "public,\nmax-age=1"),
        ("aws.content_disposition", "é"),
    ],
)
def test_a_wrong_value_stops_the_server(name, value):
    with pytest.raises(ConfigurationError, match=rf"^kinto\.attachment\.{name} = "):
        read(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("extensions", "imagez", "did you mean the group images?"),
        ("extensions", "*", "all extensions are allowed by any"),
        ("extensions", "tar.gz", "the last extension of a name decides, which is gz"),
        ("extensions", "images+", "joined by +, or any"),
        ("mimetypes", ".tar.gz:a/b", "the last extension of a name decides, which is gz"),
        ("max_field_size_bytes", "many", "should be a whole number from 1"),
        ("gzip_level", "10", "should be a whole number from 1 to 9"),
        ("delete_after", "7 days", "should be a time like 90s, 30m, 12h or 7d"),
        ("aws.timeout", "soon", "should be a number of seconds larger than 0"),
        ("base_url", "files", "should be like https://files.example.com/ or /files/"),
        ("base_path", "/", "should be a folder for nothing else"),
        ("base_path", "~/files", "should be an absolute path"),
        ("folder", "/etc", "should be a path inside of the storage, like a/b"),
    ],
)
def test_the_message_says_what_is_expected(name, value, message):
    with pytest.raises(ConfigurationError) as refusal:
        read(**{name: value})
    assert message in str(refusal.value)
    assert "literal" not in str(refusal.value)


def test_downloads_are_public_and_streamed_by_default():
    settings = read()
    assert not settings.defaults.is_private and not settings.has_private_files
    assert (settings.deliver, settings.accel_prefix) == ("stream", "")
    assert settings.link_max_seconds == 3600


def test_downloads_of_a_collection_may_be_private():
    name = "resources.blog.photos.downloads"
    settings = read(**{name: "private"}, link_secret="x" * 16)
    assert settings.has_private_files and not settings.defaults.is_private
    assert settings.for_collection("blog", "photos").is_private


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("", "private"),
        ("a/b", "private/a/b"),
        ("{bucket_id}/{collection_id}", "private/private/photos"),
    ],
)
def test_private_files_have_a_folder_of_their_own(folder, expected):
    own = read(folder=folder, downloads="private", link_secret="x" * 16).defaults
    assert own.folder_of("private", "photos") == expected


@pytest.mark.parametrize("bucket", ["private", "PRIVATE"])
def test_no_bucket_has_its_public_files_among_the_private_ones(bucket):
    own = read(folder="{bucket_id}/{collection_id}").defaults
    assert own.folder_of(bucket, "photos") == f"_{bucket}/photos"
    assert own.folder_of("private-too", "photos") == "private-too/photos"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deliver": "redirect"}, "deliver = redirect is for the files in kinto"),
        ({"accel_prefix": "/internal"}, "accel_prefix needs kinto.attachment.deliver = accel"),
        ({"downloads": "private"}, "needs kinto.attachment.link_secret or kinto.userid_hmac_"),
        (
            {"base_path": "", "aws.bucket_name": "files", "deliver": "accel"},
            "deliver = accel is for the files in kinto.attachment.base_path",
        ),
        (
            {"base_path": "", "backend": "pyramid_storage.local", "downloads": "private"},
            "cannot be combined with kinto.attachment.backend",
        ),
    ],
)
def test_downloads_that_cannot_be_delivered_stop_the_server(settings, message):
    with pytest.raises(ConfigurationError) as refusal:
        read(**settings)
    assert message in str(refusal.value)


@pytest.mark.parametrize("bucket", ["aws.bucket_name", "gcloud.bucket_name"])
def test_a_bucket_may_be_redirected_to(bucket):
    assert read(base_path="", deliver="redirect", **{bucket: "files"}).deliver == "redirect"


def test_a_web_server_may_send_local_files():
    assert read(deliver="accel", accel_prefix="/internal").accel_prefix == "/internal/"


def test_the_secret_of_links_is_made_from_that_of_kinto():
    def secret(**kinto):
        return read_settings({"attachment.base_path": "/srv/files", **kinto}).link_secret

    made = secret(userid_hmac_secret="for users")
    assert made == secret(**{"kinto.userid_hmac_secret": "for users"})
    assert len(made) == 64 and "for users" not in made
    assert made != secret(userid_hmac_secret="for others")
    assert secret() is secret(userid_hmac_secret="") is None
    assert read(link_secret="my own secret, long").link_secret == "my own secret, long"


@pytest.mark.parametrize("name", ["aws.access_key", "aws.secret_key"])
def test_one_key_alone_stops_the_server(name):
    with pytest.raises(ConfigurationError, match=r"go together: set both or none"):
        read(base_path="", **{"aws.bucket_name": "files", name: "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("aws.access_key", "x"),
        ("aws.acl", "private"),
        ("aws.region", "eu-central-1"),
        ("aws.endpoint_url", "https://s3.test"),
        ("aws.timeout", "5"),
    ],
)
def test_a_setting_for_a_bucket_stops_a_server_without_one(name, value):
    expected = rf"^kinto\.attachment\.{name} is for the bucket kinto\.attachment\.aws\.bucket_name"
    with pytest.raises(ConfigurationError, match=expected):
        read(**{name: value})


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("KINTO_ATTACHMENT_BASE_PTH", "KINTO_ATTACHMENT_BASE_PATH"),
        ("KINTO_ATTACHMENT_RANDOMISE", "KINTO_ATTACHMENT_RANDOMIZE"),
        ("KINTO_ATTACHMENT_aws_region", "KINTO_ATTACHMENT_AWS_REGION"),
        ("kinto_attachment_folder", "KINTO_ATTACHMENT_FOLDER"),
        ("KINTO_ATTACHMENT_AWSS_PORT", "KINTO_ATTACHMENT_AWS_PORT"),
        ("KINTO_ATTACHMENT_FOLDER_PORT", "KINTO_ATTACHMENT_FOLDER"),
    ],
)
def test_an_unknown_variable_stops_the_server(monkeypatch, variable, nearest):
    monkeypatch.setenv(variable, "x")
    with pytest.raises(ConfigurationError, match=rf"^{variable} .* did you mean {nearest}\?$"):
        read()


def test_a_variable_for_a_collection_that_is_not_in_the_file_stops_the_server(monkeypatch):
    monkeypatch.setenv("KINTO_ATTACHMENT_RESOURCES_BLOG_FOLDER", "x")
    with pytest.raises(ConfigurationError, match=r"^KINTO_ATTACHMENT_RESOURCES_BLOG_FOLDER .*file"):
        read()
    assert read(**{"resources.blog.folder": "y"}).for_collection("blog", "photos").folder == "x"


@pytest.mark.parametrize(
    "variable",
    [
        "KINTO_ATTACHMENT_SERVICE_HOST",
        "KINTO_ATTACHMENT_SERVICE_PORT_HTTP",
        "KINTO_ATTACHMENT_PORT",
        "KINTO_ATTACHMENT_PORT_8888_TCP_ADDR",
        "KINTO_ATTACHMENT_MINIO_SERVICE_HOST",
        "KINTO_ATTACHMENT_MINIO_SERVICE_PORT_HTTP",
        "KINTO_ATTACHMENT_MINIO_PORT_9000_TCP",
        "KINTO_ATTACHMENTS_BASE_PTH",
        "KINTO_STORAGE_URL",
    ],
)
def test_a_variable_of_something_else_does_not_stop_the_server(monkeypatch, variable):
    for service in ("KINTO_ATTACHMENT", "KINTO_ATTACHMENT_MINIO"):
        monkeypatch.setenv(f"{service}_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv(variable, "x")
    assert read().base_path == "/srv/files"


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("base_pth", "base_path"),
        ("BASE_PATH", "base_path"),
        ("extra.base_uri", "extra.base_url"),
        ("mimetype", "mimetypes"),
    ],
)
def test_an_unknown_name_stops_the_server(unknown, nearest):
    message = rf"^kinto\.attachment\.{unknown} is not a known .*kinto\.attachment\.{nearest}\?$"
    with pytest.raises(ConfigurationError, match=message):
        read(**{unknown: "x"})


def test_the_nearest_setting_wins():
    settings = read(
        **{
            "folder": "server-wide",
            "extensions": "images",
            "resources.blog.folder": "of-the-bucket",
            "resources.blog.randomize": "false",
            "resources.blog.photos.folder": "of-the-collection",
            "resources.news.photos.extensions": "any",
        }
    )

    def effective(bucket, collection):
        found = settings.for_collection(bucket, collection)
        return found.folder, found.randomize, found.allows("x.exe")

    assert effective("blog", "photos") == ("of-the-collection", False, False)
    assert effective("blog", "others") == ("of-the-bucket", False, False)
    assert effective("news", "photos") == ("server-wide", True, True)
    assert effective("news", "others") == ("server-wide", True, False)
    assert effective("photos", "blog") == ("server-wide", True, False)


def test_the_order_of_the_file_does_not_matter():
    names = ["resources.blog.photos.folder", "resources.blog.randomize", "resources.blog.folder"]
    for order in (names, names[::-1]):
        settings = read(**dict.fromkeys(order, "no")).for_collection("blog", "photos")
        assert (settings.folder, settings.randomize) == ("no", False)


def test_an_empty_folder_of_a_collection_overrides_its_parent():
    settings = read(**{"folder": "server-wide", "resources.blog.folder": ""})
    assert settings.for_collection("blog", "photos").folder == ""


def test_the_environment_overrides_the_setting_of_a_collection(monkeypatch):
    monkeypatch.setenv("KINTO_ATTACHMENT_RESOURCES_BLOG_PHOTOS_FOLDER", "from-environment")
    settings = read(**{"resources.blog.photos.folder": "from-file"})
    assert settings.for_collection("blog", "photos").folder == "from-environment"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("randomize", "maybe"),
        ("folder", "{rid}"),
        ("folder", ".."),
        ("extensions", ""),
        ("mimetypes", "nonsense"),
        ("filename_pattern", "{bucket_id}"),
    ],
)
@pytest.mark.parametrize("resource", ["blog", "blog.photos"])
def test_a_wrong_value_for_a_resource_stops_the_server_with_its_full_name(resource, name, value):
    full = f"resources.{resource}.{name}"
    with pytest.raises(ConfigurationError, match=rf"^kinto\.attachment\.{full} = "):
        read(**{full: value})


@pytest.mark.parametrize(
    "name",
    [
        "resources",
        "resources.randomize",
        "resources..randomize",
        "resources.blog.photos.first.randomize",
        "resources.blog..randomize",
        "resources.-blog.randomize",
        "resources.blog.photos/x.randomize",
        "resources.blog.randomise",
        "resources.blog.photos.RANDOMIZE",
        "resources.blog.base_path",
        "resources.blog.photos.fsync",
        "resources.blog.aws.region",
        "resources.default.randomize",
        "resources.default.photos.randomize",
    ],
)
def test_a_setting_of_no_resource_stops_the_server_with_its_full_name(name):
    with pytest.raises(ConfigurationError, match=rf"^kinto\.attachment\.{name} "):
        read(**{name: "true"})


def test_the_message_names_the_nearest_setting_of_the_same_collection():
    with pytest.raises(ConfigurationError, match=r"resources\.blog\.photos\.randomize\?$"):
        read(**{"resources.blog.photos.randomise": "true"})


@pytest.mark.parametrize("settings", [{}, {"attachment.base_path": ""}])
def test_no_storage_stops_the_server(settings):
    with pytest.raises(ConfigurationError, match=r"kinto\.attachment\.base_path"):
        read_settings({"settings_prefix": "kinto", **settings})


def test_the_server_does_not_start_with_a_wrong_setting(make_app):
    with pytest.raises(ConfigurationError, match=r"kinto\.attachment\.randomize"):
        make_app(attachment__randomize="maybe")


@pytest.mark.parametrize("base_path", ["/proc/files", "/dev/null/files"])
def test_the_server_does_not_start_if_it_cannot_write(make_app, base_path):
    with pytest.raises(ConfigurationError, match=r"kinto\.attachment\.base_path.*be written"):
        make_app(attachment__base_path=base_path)


def test_a_relative_folder_that_is_the_root_stops_the_server(monkeypatch):
    monkeypatch.chdir("/")
    with pytest.raises(ConfigurationError, match=r"kinto\.attachment\.base_path"):
        read(base_path=".")


def test_the_folder_is_created(make_app, tmp_path):
    make_app(attachment__base_path=str(tmp_path / "some" / "where"))
    assert (tmp_path / "some" / "where").is_dir()


@pytest.mark.parametrize("value", [False, "false"])
def test_a_kinto_without_transactions_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"kinto\.transaction_per_request = false"):
        read_settings({"kinto.attachment.base_path": "/srv", "transaction_per_request": value})
