"""What the plugin adds to the server around the attachment of a record."""

import io
import os
import threading
import time

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from kinto.core.metrics import IMetricsService, NoOpMetricsService
from pyramid.request import Request

from kinto_attachment import __version__
from kinto_attachment.http.capability import base_url_to_advertise
from kinto_attachment.settings.read import read_settings
from tests.support.app import ATTACHMENT, App
from tests.support.forms import file_part
from tests.support.resumable import Client
from tests.support.settings import prefixed
from tests.support.users import ALICE


@pytest.mark.parametrize(
    ("settings", "base_url"),
    [
        ({}, ""),
        ({"attachment__base_url": "https://cdn.test/files"}, "https://cdn.test/files/"),
        (
            {
                "attachment__base_url": "https://in.test",
                "attachment__extra__base_url": "https://cdn.test",
            },
            "https://cdn.test/",
        ),
        ({"attachment__extra__base_url": "https://cdn.test"}, "https://cdn.test/"),
        ({"attachment__serve_files": "true"}, ""),
        # Locations begin with the path, and a client appends them.
        ({"attachment__base_url": "/files/"}, "http://localhost"),
        (
            {"attachment__base_url": "/", "http_scheme": "https", "http_host": "kinto.test:8443"},
            "https://kinto.test:8443",
        ),
        (
            {"attachment__base_url": "/files/", "attachment__extra__base_url": "https://cdn.test"},
            "https://cdn.test",
        ),
        (
            {"attachment__base_url": "/files/", "attachment__extra__base_url": "/files"},
            "http://localhost",
        ),
        (
            {"attachment__base_url": "/files/", "attachment__extra__base_url": "/mirror"},
            "http://localhost/mirror",
        ),
        ({"attachment__extra__base_url": "/files"}, "http://localhost/files/"),
        ({"attachment__extra__base_url": "//cdn.test"}, "http://cdn.test/"),
        ({"attachment__base_url": "//cdn.test/files"}, "http:"),
    ],
)
def test_the_base_url_for_clients_follows_from_the_settings(settings, base_url):
    read = read_settings(
        {"settings_prefix": "kinto", "kinto.attachment.base_path": "/srv/files"}
        | prefixed(settings)
    )
    shown = base_url_to_advertise(read.base_url, read.advertised_base_url or read.base_url)
    origin = f"{settings.get('http_scheme', 'http')}://{settings.get('http_host', 'localhost')}"
    request = Request.blank("/v1/", base_url=origin)
    assert (shown if isinstance(shown, str) else shown.__json__(request)) == base_url


@pytest.mark.parametrize(
    ("settings", "base_url", "gzipped"),
    [
        ({}, "", False),
        ({"attachment__gzipped": "true"}, "", True),
        ({"attachment__resources__blog__photos__gzipped": "true"}, "", False),
        (
            {
                "attachment__base_url": "/files/",
                "http_scheme": "https",
                "http_host": "kinto.test:8443",
            },
            "https://kinto.test:8443",
            False,
        ),
    ],
)
def test_the_capability_shows_the_base_url_and_whether_files_are_compressed(
    share_app, settings, base_url, gzipped
):
    capability = share_app(**settings).get("/").json["capabilities"]["attachments"]
    names = {
        "version",
        "description",
        "url",
        "base_url",
        "gzipped",
        "resumable",
        "link_max_seconds",
    }
    assert capability.keys() == names
    assert capability["version"] == __version__
    assert capability["base_url"] == base_url
    assert capability["gzipped"] is gzipped


def heartbeat(app, status=200):
    return app.get("/__heartbeat__", status=status).json["attachments"]


@pytest.mark.parametrize("base_url", ["", "https://cdn.test/some/path", "/files"])
def test_the_heartbeat_is_true_and_leaves_nothing(share_app, base_url):
    app = share_app(attachment__base_url=base_url, attachment__extensions="images")
    assert heartbeat(app) is True
    assert app.files() == {}


def test_the_heartbeat_really_writes_reads_and_deletes(app, monkeypatch):
    storage = app.registry.attachments.files
    done = []
    for verb in ("stage", "open", "delete"):
        monkeypatch.setattr(storage, verb, recorder(verb, getattr(storage, verb), done))
    assert heartbeat(app) is True
    assert done == ["stage", "open", "delete"]


def recorder(name, function, done):
    def recording(*args, **kwargs):
        done.append(name)
        return function(*args, **kwargs)

    return recording


def test_the_heartbeat_is_false_if_nothing_can_be_written(make_app, caplog):
    app = make_app()
    os.rmdir(app.folder / ".staging")
    os.rmdir(app.folder)
    app.folder.write_text("in the way")
    assert heartbeat(app, status=503) is False
    assert "The attachments storage does not work" in caplog.text


def test_the_heartbeat_is_false_if_other_bytes_are_read(app, monkeypatch):
    storage = app.registry.attachments.files
    monkeypatch.setattr(storage, "open", lambda name: io.BytesIO(b"others"))
    assert heartbeat(app, status=503) is False
    assert app.files() == {}


def test_the_heartbeat_does_not_write_on_a_read_only_server(tmp_path):
    app = App(tmp_path / "nowhere", **{"kinto.readonly": "true"})
    assert heartbeat(app) is True
    assert not (tmp_path / "nowhere").exists()


def test_the_heartbeat_responds_if_the_storage_hangs(app, monkeypatch):
    freed = threading.Event()
    storage = app.registry.attachments.files
    stage = storage.stage
    calls = []

    def hanging(*args, **kwargs):
        calls.append(args)
        freed.wait()
        return stage(*args, **kwargs)

    monkeypatch.setattr(storage, "stage", hanging)
    monkeypatch.setattr("kinto_attachment.storage.heartbeat.HEARTBEAT_TIMEOUT_SECONDS", 0.1)
    assert [heartbeat(app, status=503) for _ in range(2)] == [False, False]
    assert len(calls) == 1, "a storage that hangs should block one thread and no more"
    freed.set()
    monkeypatch.undo()
    wait_until(lambda: heartbeat(app, status="*"))
    assert app.files() == {}


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Metrics(NoOpMetricsService):
    def __init__(self):
        self.counted = []
        self.timed = []

    def count(self, key, count=1, unique=None):
        self.counted.append((key, count))

    def timer(self, key, value=None, labels=()):
        self.timed.append((key, dict(labels).get("method")))
        return super().timer(key)


@pytest.fixture
def metrics(monkeypatch):
    metrics = Metrics()
    monkeypatch.setattr("kinto.core.metrics.NoOpMetricsService", lambda: metrics)
    return metrics


def test_uploads_and_their_bytes_are_counted(metrics, make_app):
    app = make_app()
    app.upload(file_part(b"x" * 1000))
    app.upload(file_part(b"x" * 24))
    counted = [entry for entry in metrics.counted if entry[0].startswith("attachments")]
    assert counted == [
        ("attachments_uploads", 1),
        ("attachments_bytes", 1000),
        ("attachments_uploads", 1),
        ("attachments_bytes", 24),
    ]
    assert app.registry.queryUtility(IMetricsService) is metrics


def test_refused_and_undone_uploads_are_not_counted(metrics, make_app):
    app = make_app()
    app.upload(file_part(filename="virus.exe"), status=400)

    def refuse(event):
        raise RuntimeError("not today")

    app.listen(refuse)
    app.upload(status=500)
    assert [entry for entry in metrics.counted if entry[0].startswith("attachments")] == []


def test_the_storage_is_timed(metrics, make_app):
    app = make_app()
    assert ("backend.localstorage.seconds", "delete_many") in metrics.timed
    metrics.timed.clear()
    app.upload()
    assert ("backend.localstorage.seconds", "publish") in metrics.timed


def test_a_resumable_upload_is_counted_and_timed_at_its_end(metrics, make_app):
    client = Client(make_app())
    path = client.begun(5)
    metrics.counted.clear()
    metrics.timed.clear()
    client.patch(path, 0, b"once")
    published = ("backend.localstorage.seconds", "publish")
    assert published not in metrics.timed
    client.patch(path, 4, b" ")
    assert metrics.timed.count(published) == 1
    counted = [entry for entry in metrics.counted if entry[0].startswith("attachments")]
    assert counted == [("attachments_uploads", 1), ("attachments_bytes", 5)]


def test_the_openapi_document_describes_the_endpoint(app):
    spec = app.get("/__api__").json
    path = "/buckets/{bucket_id}/collections/{collection_id}/records/{id}/attachment"
    post, delete = spec["paths"][path]["post"], spec["paths"][path]["delete"]
    assert post["tags"] == delete["tags"] == ["Attachments"]
    assert (post["operationId"], delete["operationId"]) == ("attach_file", "detach_file")
    assert post["consumes"] == ["multipart/form-data"]
    (body,) = [p for p in post["parameters"] if p["in"] == "body"]
    assert body["schema"]["properties"].keys() == {"attachment", "data", "permissions"}
    assert body["schema"]["required"] == ["attachment"]
    assert {"200", "201", "400", "401", "403", "404", "412", "413", "503"} <= set(post["responses"])
    attachment = post["responses"]["201"]["schema"]["properties"]
    described = {"filename", "hash", "mimetype", "size"}
    assert attachment.keys() == {"location", "original"} | described
    assert attachment["original"]["properties"].keys() == described
    assert "original" not in post["responses"]["201"]["schema"]["required"]
    assert {"204", "401", "403", "404", "412"} <= set(delete["responses"])


def test_other_plugins_find_the_storage_where_pyramid_storage_puts_it(app):
    from pyramid_storage.interfaces import IFileStorage

    assert app.registry.getUtility(IFileStorage) is app.registry.attachments.files


@pytest.fixture
def serving(share_app):
    return share_app(attachment__serve_files="true", attachment__extensions="any")


def get_file(app, location, status=200, **headers):
    path = location.removeprefix("http://localhost/v1")
    return app.get(
        path, headers={k.replace("_", "-"): v for k, v in headers.items()}, status=status
    )


def test_files_are_not_served_by_default(app):
    attachment = app.upload().json
    app.get(f"/__files__/{attachment['location']}", status=404)


def test_the_location_leads_to_the_served_file(serving):
    attachment = serving.upload().json
    assert attachment["location"].startswith("http://localhost/v1/__files__/")
    response = get_file(serving, attachment["location"])
    assert response.body == b"once upon a time"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Content-Length"] == "16"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"] == "sandbox"


def test_the_location_of_a_file_in_a_folder_leads_to_it(make_app):
    app = make_app(attachment__serve_files="true", attachment__folder="{bucket_id}/a b")
    location = app.upload().json["location"]
    assert location.startswith("http://localhost/v1/__files__/blog/a%20b/")
    assert get_file(app, location).body == b"once upon a time"


def test_a_base_url_takes_precedence_over_served_files(make_app):
    app = make_app(attachment__serve_files="true", attachment__base_url="https://cdn.test/")
    location = app.upload().json["location"]
    assert location.startswith("https://cdn.test/")
    name = location.removeprefix("https://cdn.test/")
    assert app.get(f"/__files__/{name}").body == b"once upon a time"


def test_a_range_of_a_file_is_served(serving):
    location = serving.upload().json["location"]
    response = get_file(serving, location, 206, Range="bytes=5-8")
    assert response.body == b"upon"
    assert response.headers["Content-Range"] == "bytes 5-8/16"
    assert get_file(serving, location, 206, Range="bytes=12-").body == b"time"
    assert get_file(serving, location, 206, Range="bytes=-4").body == b"time"
    assert get_file(serving, location, 416, Range="bytes=16-").headers["Content-Range"]


def test_an_end_that_is_longer_than_the_file_is_the_whole_file(serving):
    location = serving.upload().json["location"]
    for digits in ("17", "16", "00000000000000000000016", "9" * 5000):
        response = get_file(serving, location, 206, Range=f"bytes=-{digits}")
        assert response.body == b"once upon a time"
        assert response.headers["Content-Range"] == "bytes 0-15/16"


def test_a_range_goes_no_further_than_the_file(serving):
    location = serving.upload().json["location"]
    for last in ("16", "9" * 5000):
        response = get_file(serving, location, 206, Range=f"bytes=12-{last}")
        assert response.body == b"time"
        assert response.headers["Content-Range"] == "bytes 12-15/16"


def test_a_range_that_a_file_does_not_have_is_an_error_of_kinto(serving):
    location = serving.upload().json["location"]
    for asked in ("bytes=-0", "bytes=16-", "bytes=16-20", f"bytes={'9' * 5000}-"):
        response = get_file(serving, location, 416, Range=asked, Origin="https://app.test")
        assert response.headers["Content-Range"] == "bytes */16"
        assert response.content_type == "application/json"
        assert (response.json["code"], response.json["errno"]) == (416, 107)
        assert response.json["message"] == "Range: the file has 16 bytes"
        assert "Content-Range" in response.headers["Access-Control-Expose-Headers"]


NO_RANGES = ["", "bytes", "bytes=", "bytes=-", "bytes=--1", "bytes=x-y", "bytes=5-2", "bytes=0-1x"]
NO_RANGES += ["bytes=0-1,3-4", "lines=0-1", "bytes=\u0663-", "bytes=1-2-3"]


def test_an_invalid_or_multiple_range_is_ignored(serving):
    location = serving.upload().json["location"]
    for asked in NO_RANGES:
        assert get_file(serving, location, 200, Range=asked).body == b"once upon a time"


@pytest.mark.parametrize("gone_before", ["it is looked at", "it is opened"])
def test_a_file_that_is_deleted_during_the_request_is_not_found(serving, monkeypatch, gone_before):
    location = serving.upload().json["location"]
    files = serving.registry.attachments.files
    method = {"it is looked at": "path", "it is opened": "open_range"}[gone_before]
    real = getattr(files, method)

    def going(key, *args):
        path = files.path(key) if method != "path" else real(key)
        if os.path.exists(path):
            os.remove(path)
        return real(key, *args)

    monkeypatch.setattr(files, method, going)
    assert get_file(serving, location, 404).json["errno"] == 111


def test_the_end_of_an_empty_file_is_the_empty_file(serving):
    location = serving.upload(file_part(b"")).json["location"]
    assert get_file(serving, location, 200, Range="bytes=-5").body == b""
    get_file(serving, location, 416, Range="bytes=-0")


def test_served_files_have_the_mimetypes_of_the_settings(make_app):
    app = make_app(
        attachment__serve_files="true",
        attachment__extensions="any",
        attachment__mimetypes=".ftl:application/vnd.fluent",
    )
    location = app.upload(file_part(filename="Letter.FTL")).json["location"]
    assert get_file(app, location).headers["Content-Type"] == "application/vnd.fluent"


def test_a_file_that_the_client_has_is_not_sent_again(serving):
    location = serving.upload().json["location"]
    headers = get_file(serving, location).headers
    assert get_file(serving, location, 304, If_None_Match=headers["ETag"]).body == b""
    get_file(serving, location, 304, If_Modified_Since=headers["Last-Modified"])
    response = get_file(serving, location, 200, Range="bytes=5-8", If_Range='"another"')
    assert response.body == b"once upon a time"


NO_DATES = [
    "Fri, 31 Dec 99999 23:59:59 GMT",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "Fri, 31 Dec 0000 00:00:00 GMT",
    "Mon, 01 Jan 0001 00:00:00 +2359",
    "Fri, 99 Foo 2020 99:99:99 GMT",
    f"1 Jan {'9' * 400} 00:00:00 GMT",
    f"1 Jan {'9' * 5000} 00:00:00 GMT",
    f"{'9' * 40} Jan 2020 00:00:00 GMT",
    f"1 Jan 2020 {'9' * 30}:00:00 GMT",
    f"1 Jan 2020 00:00:{'9' * 30} GMT",
    f"1 Jan 2020 00:00:00 +{'9' * 300}",
    "x GMT",
    " GMT",
    "\x80\xff GMT",
    ", , ,",
    "-1",
    "9" * 5000,
]


@pytest.mark.parametrize("date", NO_DATES)
def test_a_condition_with_an_invalid_date_is_ignored(serving, date):
    location = serving.upload().json["location"]
    for name in ("If_Modified_Since", "If_Unmodified_Since"):
        assert get_file(serving, location, 200, **{name: date}).body == b"once upon a time"
    part = get_file(serving, location, 206, If_Modified_Since=date, Range="bytes=5-8")
    assert part.body == b"upon"


@pytest.mark.parametrize("date", [date for date in NO_DATES if date.endswith(" GMT")])
def test_a_range_on_a_condition_with_an_invalid_date_is_the_whole_file(serving, date):
    location = serving.upload().json["location"]
    response = get_file(serving, location, 200, Range="bytes=5-8", If_Range=date)
    assert response.body == b"once upon a time"


ODD_CONDITIONS = st.text(alphabet='*"W/,- :+09aGMT\xa0\xff', max_size=60) | st.sampled_from(
    [
        *NO_DATES,
        "*",
        "*,*",
        'W/"',
        '"' + "x" * 9000 + '"',
        f'"{"9" * 5000}"',
        f"bytes={'9' * 5000}-",
    ]
)
CONDITIONS = ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"]


@given(st.dictionaries(st.sampled_from([*CONDITIONS, "Range"]), ODD_CONDITIONS, max_size=4))
@hypothesis.settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_condition_makes_the_server_fail(serving, headers):
    location = next(iter(serving.files()), None) or serving.upload().json["location"]
    path = f"/__files__/{location.rpartition('/')[2]}"
    assert serving.get(path, headers=headers, status="*").status_code in (200, 206, 304, 412, 416)
    url = ATTACHMENT.replace("first", "other")
    assert serving.upload(url=url, headers=ALICE | headers, status="*").status_code < 500
    assert serving.delete(url, headers=ALICE | headers, status="*").status_code < 500


def test_head_sends_only_the_headers(serving):
    location = serving.upload().json["location"]
    response = serving.head(location.removeprefix("http://localhost/v1"))
    assert response.headers["Content-Length"] == "16"
    assert response.body == b""


def test_compressed_files_are_served_as_they_are(serving):
    location = serving.upload(file_part(b"x", "data.csv.gz")).json["location"]
    response = get_file(serving, location)
    assert response.headers["Content-Type"] == "application/gzip"
    assert "Content-Encoding" not in response.headers


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        ".staging/x",
        "%2estaging/x",
        "",
        ".",
        "folder",
        "none.txt",
        "a%00b",
        "link.txt",
        "link/x",
        "hidden.txt",
    ],
)
def test_nothing_but_stored_files_is_served(serving, path):
    (serving.folder.parent / "secret.txt").write_text("secret")
    (serving.folder / ".staging" / "x").write_text("staged")
    (serving.folder / "folder").mkdir()
    (serving.folder / "link.txt").symlink_to(serving.folder.parent / "secret.txt")
    (serving.folder / "link").symlink_to(".staging")
    (serving.folder / "hidden.txt").symlink_to(".staging/x")
    response = serving.get(f"/__files__/{path}", status=(404, 307))
    assert "secret" not in response.text
    assert "staged" not in response.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_served_files_can_only_be_read(serving, method):
    location = serving.upload().json["location"]
    path = location.removeprefix("http://localhost/v1")
    serving.request(path, method=method, headers=ALICE, status=405)
    assert list(serving.files().values()) == [b"once upon a time"]


def test_pages_on_other_origins_may_fetch_files(serving):
    location = serving.upload().json["location"]
    response = get_file(serving, location, Origin="https://app.test")
    assert response.headers["Access-Control-Allow-Origin"] in ("*", "https://app.test")
