"""Refused requests: each with Kinto's JSON error, and without any change."""

import errno
import io
import logging
import os

import pytest
import transaction

from kinto_attachment.storage import filesystem, staging
from kinto_attachment.storage.small import MAX_SMALL_BYTES
from tests.support.app import ATTACHMENT, RECORD
from tests.support.forms import BOUNDARY, file_part, multipart, part
from tests.support.users import ALICE, BOB


MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture(params=["no record yet", "a record with a file"])
def state(request, share_app):
    """An application that must not have changed when the test is over."""
    app = share_app(
        attachment__max_field_size_bytes="1000",
        experimental_collection_schema_validation="true",
    )
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}}
    app.create_collection(schema=schema)
    if request.param == "a record with a file":
        app.upload(file_part(b"what was there before"))
    before = app.state()
    yield app
    assert app.state() == before


def refused(response, status, number, message):
    """Check that this is one of Kinto's JSON errors."""
    assert response.content_type == "application/json"
    assert response.status_code == response.json["code"] == status
    assert response.json["errno"] == number
    assert message in response.json.get("message", "")
    return response


REFUSED_FORMS = {
    "no attachment": ([part("data", "{}")], 400, 109, "Attachment missing."),
    "no part at all": ([], 400, 109, "Attachment missing."),
    "no filename": ([part("attachment", "x")], 400, 107, "body: Filename is required."),
    "empty filename": ([file_part(filename="")], 400, 107, "body: Filename is required."),
    "only a path": ([file_part(filename="a/b/")], 400, 107, "body: Filename is required."),
    "parent folder": ([file_part(filename="a/..")], 400, 107, "body: Filename is required."),
    "two attachments": (
        [file_part(), file_part()],
        400,
        109,
        "body: attachment should be sent once",
    ),
    "data twice": (
        [part("data", "{}"), part("data", "{}"), file_part()],
        400,
        109,
        "body: data should be sent once",
    ),
    "another field": (
        [file_part(), part("my_field", "x")],
        400,
        109,
        "body: 'my_field' not in ('data', 'permissions'), and the file goes in 'attachment'",
    ),
    "another file": (
        [file_part(), part("my_field", "x", "x.txt")],
        400,
        109,
        "body: 'my_field' not in ('data', 'permissions'), and the file goes in 'attachment'",
    ),
    "data as a file": (
        [file_part(), part("data", "{}", "data.json")],
        400,
        109,
        "body: data should be passed as form data, not files",
    ),
    "permissions as a file": (
        [file_part(), part("permissions", "{}", "p.json")],
        400,
        109,
        "body: permissions should be passed as form data, not files",
    ),
    "data not JSON": (
        [file_part(), part("data", "{nonsense}")],
        400,
        109,
        "body: data is not valid JSON (",
    ),
    "permissions not JSON": (
        [file_part(), part("permissions", "{nonsense}")],
        400,
        109,
        "body: permissions is not valid JSON (",
    ),
    "data not an object": (
        [file_part(), part("data", "[]")],
        400,
        109,
        "body: data is not valid JSON (should be an object)",
    ),
    "data empty": ([file_part(), part("data", "")], 400, 109, "body: data is not valid JSON ("),
    "data with NaN": (
        [file_part(), part("data", '{"a": NaN}')],
        400,
        109,
        "body: data is not valid JSON (",
    ),
    "data with a lone surrogate": (
        [file_part(), part("data", r'{"a": "\ud800"}')],
        400,
        109,
        "body: data is not valid JSON (",
    ),
    "data with NUL": (
        [file_part(), part("data", r'{"a": ["\u0000"]}')],
        400,
        109,
        "body: data is not valid JSON (contains a NUL character)",
    ),
    "data not UTF-8": (
        [file_part(), part("data", b'{"a": "\xff"}')],
        400,
        109,
        "body: data is not valid JSON (not UTF-8)",
    ),
    "data nested too deep": (
        [file_part(), part("data", '{"a": ' * 101 + "1" + "}" * 101)],
        400,
        109,
        "body: data is not valid JSON (nested deeper than 100 levels)",
    ),
    "data for another id": (
        [file_part(), part("data", '{"id": "other"}')],
        400,
        107,
        "Object id does not match existing object",
    ),
    "unknown permission": (
        [file_part(), part("permissions", '{"execute": []}')],
        400,
        107,
        "permissions in body",
    ),
    "principals not a list": (
        [file_part(), part("permissions", '{"read": "system.Everyone"}')],
        400,
        107,
        "permissions.read in body",
    ),
    "principals not strings": (
        [file_part(), part("permissions", '{"read": [{}]}')],
        400,
        107,
        "permissions.read.0 in body",
    ),
    "refused by the JSON schema": (
        [file_part(), part("data", '{"year": "last"}')],
        400,
        107,
        "year in body: 'last' is not of type 'integer'",
    ),
    "data too large": (
        [file_part(), part("data", '{"a": "%s"}' % ("x" * 1000))],
        413,
        113,
        "body: data is larger than 1000 bytes",
    ),
    "too many parts": (
        [file_part(), *(part(f"field{i}", "x") for i in range(16))],
        413,
        113,
        "Maximum part count exceeded",
    ),
    "extension not allowed": (
        [file_part(filename="virus.exe")],
        400,
        107,
        "body: File extension is not allowed.",
    ),
    "no extension": (
        [file_part(filename="README")],
        400,
        107,
        "body: File extension is not allowed.",
    ),
    "last extension decides": (
        [file_part(filename="photo.jpg.exe")],
        400,
        107,
        "body: File extension is not allowed.",
    ),
    "header too long": (
        [part("attachment", "x", "x" * 30_000 + ".txt")],
        413,
        113,
        "header length exceeded",
    ),
}


@pytest.mark.parametrize("name", REFUSED_FORMS)
def test_a_form_is_refused(state, name):
    parts, status, number, message = REFUSED_FORMS[name]
    response = state.post(
        ATTACHMENT,
        multipart(*parts),
        headers={**ALICE, "Content-Type": MULTIPART},
        status=status,
    )
    refused(response, status, number, message)


@pytest.mark.parametrize("name", REFUSED_FORMS)
def test_a_form_is_refused_through_the_default_bucket(share_app, name):
    parts, status, number, message = REFUSED_FORMS[name]
    app = share_app(
        attachment__max_field_size_bytes="1000", experimental_collection_schema_validation="true"
    )
    default = app.get("/", headers=ALICE).json["user"]["bucket"]
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}}
    app.create_collection(default, "photos", schema=schema)
    url = "/buckets/default/collections/photos/records/first"
    app.upload(file_part(b"what was there before"), url=f"{url}/attachment")
    before = (app.record(url), app.files(), app.links())
    headers = {**ALICE, "Content-Type": MULTIPART}
    response = app.post(f"{url}/attachment", multipart(*parts), headers=headers, status=status)
    refused(response, status, number, message)
    assert (app.record(url), app.files(), app.links()) == before


REFUSED_BODIES = {
    "Content-Type is JSON": (b"{}", "application/json", "Content-Type should be multipart"),
    "no Content-Type": (b"{}", "", "Content-Type should be multipart/form-data"),
    "other multipart": (
        multipart(file_part()),
        MULTIPART.replace("form-data", "mixed"),
        "Content-Type should be multipart/form-data",
    ),
    "no boundary": (multipart(file_part()), "multipart/form-data", "has no boundary"),
    "another boundary": (
        multipart(file_part()),
        "multipart/form-data; boundary=xyz",
        "Invalid multipart/form-data: Unexpected end of multipart stream",
    ),
    "no last boundary": (
        multipart(file_part())[: -len(BOUNDARY) - 8],
        MULTIPART,
        "Invalid multipart/form-data: Unexpected end of multipart stream",
    ),
    "an empty body": (b"", MULTIPART, "Unexpected end of multipart stream"),
    "no disposition": (
        multipart(b"X-A: b\r\n\r\nx"),
        MULTIPART,
        "Missing Content-Disposition part header",
    ),
    "broken after the file": (
        multipart(file_part(), b"nonsense\r\n\r\n"),
        MULTIPART,
        "Malformed part header",
    ),
}


@pytest.mark.parametrize("name", REFUSED_BODIES)
def test_a_body_is_refused(state, name):
    body, content_type, message = REFUSED_BODIES[name]
    headers = {**ALICE, "Content-Type": content_type}
    refused(state.post(ATTACHMENT, body, headers=headers, status=400), 400, 107, message)


def test_a_request_that_ends_too_early_is_refused_and_logged_in_one_line(state, caplog):
    body = multipart(file_part(b"x" * 10_000))
    with caplog.at_level(logging.INFO, "kinto_attachment"):
        response = state.upload_raw(io.BytesIO(body[:5000]), len(body), status=400)
    refused(response, 400, 107, f"the request ended after 5000 of {len(body)} bytes")
    (line,) = [r for r in caplog.records if r.name.startswith("kinto_attachment")]
    assert (line.levelname, line.exc_info) == ("INFO", None)


def test_a_request_that_ends_after_its_last_boundary_is_refused_too(state):
    body = multipart(file_part())
    response = state.upload_raw(io.BytesIO(body), len(body) + 10, status=400)
    refused(response, 400, 107, f"the request ended after {len(body)} of {len(body) + 10} bytes")


def test_a_request_without_length_that_ends_too_early_is_refused(state):
    body = multipart(file_part(b"x" * 10_000))
    response = state.upload_raw(io.BytesIO(body[:5000]), None, status=400)
    refused(response, 400, 107, "the request ended after 5000 bytes")


def test_a_client_that_goes_away_leaves_only_a_line_in_the_log(state, caplog):
    class GoneAway(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 5000:
                raise OSError("Client disconnected")
            return super().read(3000)

    body = multipart(file_part(b"x" * 10_000))
    with caplog.at_level(logging.INFO, "kinto_attachment"):
        response = state.upload_raw(GoneAway(body), len(body), status=400)
    refused(response, 400, 107, "the request ended after 6000 of")
    (line,) = [r for r in caplog.records if r.name.startswith("kinto_attachment")]
    assert (line.levelname, line.exc_info) == ("INFO", None)


LARGE = 2_000_000
"""The size of a body that is not read before the checks."""


class Unread(io.BytesIO):
    """A body that must not be read: the refusal would then be that it is cut off."""

    def read(self, size=-1):
        raise OSError("The body was read")


REFUSED_UNREAD = {
    "bucket missing": ("/buckets/none/collections/photos/records/r", ALICE, {}, 404, 111),
    "collection missing": ("/buckets/blog/collections/none/records/r", ALICE, {}, 404, 111),
    "not authenticated": (RECORD, {}, {}, 401, 104),
    "not allowed": (RECORD, BOB, {}, 403, 121),
    "stale If-Match": (RECORD, ALICE, {"If-Match": '"123"'}, 412, 114),
    "bad If-Match": (RECORD, ALICE, {"If-Match": "123"}, 400, 107),
    "nearly If-None-Match": (RECORD, ALICE, {"If-None-Match": "*x"}, 400, 107),
    "endless If-Match": (RECORD, ALICE, {"If-Match": f'"{"9" * 5000}"'}, 400, 107),
    "bad record id": ("/buckets/blog/collections/photos/records/a+b", ALICE, {}, 400, 107),
}


@pytest.mark.parametrize("name", REFUSED_UNREAD)
def test_a_request_is_refused_before_its_body_is_read(state, name):
    url, user, headers, status, number = REFUSED_UNREAD[name]
    response = state.upload_raw(
        Unread(), LARGE, url=f"{url}/attachment", headers={**user, **headers}, status=status
    )
    refused(response, status, number, "")


def test_if_none_match_refuses_an_existing_record_before_the_body_is_read(app):
    app.upload(headers={**ALICE, "If-None-Match": "*"}, status=201)
    before = app.state()
    headers = {**ALICE, "If-None-Match": "*"}
    refused(app.upload_raw(Unread(), LARGE, headers=headers, status=412), 412, 114, "modified")
    assert app.state() == before


def test_if_match_accepts_the_current_version_and_no_other(app):
    etag = app.upload().headers["ETag"]
    app.upload(headers={**ALICE, "If-Match": etag}, status=200)
    before = app.state()
    refused(app.upload(headers={**ALICE, "If-Match": etag}, status=412), 412, 114, "modified")
    assert app.state() == before


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_record_changed_during_the_upload_fails_the_precondition(app, size):
    etag = app.upload().headers["ETag"]

    class ChangedMeanwhile(io.BytesIO):
        def read(self, size=-1):
            if self.tell() == 0:
                app.patch_json(RECORD, {"data": {"title": "x"}}, headers=ALICE)
            return super().read(size)

    body = multipart(file_part(b"x" * size))
    files = app.files()
    headers = {**ALICE, "If-Match": etag}
    response = app.upload_raw(ChangedMeanwhile(body), len(body), headers=headers, status=412)
    refused(response, 412, 114, "modified")
    assert app.files() == files


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_permission_that_is_withdrawn_during_the_upload_is_missing(app, size):
    """The permission to create records does not allow writing one that another user has created."""
    create = {"permissions": {"record:create": ["system.Authenticated"]}}
    app.patch_json("/buckets/blog/collections/photos", create, headers=ALICE)

    class CreatedMeanwhile(io.BytesIO):
        def read(self, size=-1):
            if self.tell() == 0:
                app.put_json(RECORD, {"data": {"by": "Alice"}}, headers=ALICE)
            return super().read(size)

    body = multipart(file_part(b"x" * size))
    response = app.upload_raw(CreatedMeanwhile(body), len(body), headers=BOB, status=403)
    refused(response, 403, 121, "cannot access")
    assert app.files() == {}
    assert "attachment" not in app.record()


LIMIT = 100_000


@pytest.fixture
def limited(share_app):
    return share_app(attachment__max_size_bytes=str(LIMIT))


def test_a_file_of_the_largest_size_is_accepted_with_any_fields(limited):
    data = part("data", '{"text": "%s"}' % ("x" * LIMIT))
    assert limited.upload(data, file_part(b"x" * LIMIT), status=201).json["size"] == LIMIT


def test_a_file_that_is_one_byte_too_large_is_refused_with_both_numbers(limited):
    response = limited.upload(file_part(b"x" * (LIMIT + 1)), status=413)
    refused(response, 413, 113, f"attachment has at least {LIMIT + 1} bytes, the limit is {LIMIT}")
    assert limited.files() == {}


def test_a_collection_has_a_limit_of_its_own(make_app):
    app = make_app(
        attachment__max_size_bytes="1", attachment__resources__blog__photos__max_size_bytes="0"
    )
    app.create_collection(collection="others")
    app.upload(status=201)
    other = "/buckets/blog/collections/others/records/first/attachment"
    app.upload(url=other, status=413)


def test_a_content_length_that_is_too_large_for_any_file_is_refused_unread(limited):
    response = limited.upload_raw(Unread(), 50_000_000, status=413)
    refused(response, 413, 113, f"bytes, the limit is {LIMIT}")


@pytest.mark.parametrize("length_is_known", [True, False])
def test_a_file_is_refused_as_soon_as_the_limit_is_passed(limited, length_is_known):
    body = multipart(file_part(b"x" * 2_000_000))
    reads = []

    class Counted(io.BytesIO):
        def read(self, size=-1):
            reads.append(len(limited.files()))
            return super().read(size)

    length = len(body) if length_is_known else None
    refused(limited.upload_raw(Counted(body), length, status=413), 413, 113, "the limit is")
    # Nothing is staged any more when the rest is read and discarded.
    assert set(reads[1:]) == {0}


def body_that_is_counted(length):
    class Counted(io.BytesIO):
        taken = 0

        def read(self, size=-1):
            chunk = b"x" * min(size, length - self.taken)
            self.taken += len(chunk)
            return chunk

    return Counted()


@pytest.mark.parametrize(
    ("length", "discarded"), [(50_000_000, 50_000_000), (100_000_000, 0), (None, 64 * 1024**2)]
)
def test_a_bounded_rest_of_a_refused_body_is_read_so_that_the_response_arrives(
    app, length, discarded
):
    body = body_that_is_counted(length or 1_000_000_000)
    app.upload_raw(body, length, headers=BOB, status=403)
    assert body.taken == discarded


def test_the_rest_of_a_refused_body_is_not_read_if_it_takes_too_long(app, monkeypatch):
    body = body_that_is_counted(50_000_000)
    monkeypatch.setattr("kinto_attachment.http.bodies.MAX_DISCARDING_SECONDS", 0)
    app.upload_raw(body, 50_000_000, headers=BOB, status=403)
    assert body.taken == 0


def test_a_rest_that_cannot_be_read_does_not_replace_the_response(app):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise RuntimeError("the server's own way to say that the client is gone")

    refused(app.upload_raw(Broken(), LARGE, headers=BOB, status=403), 403, 121, "cannot access")


def test_the_rest_is_read_when_the_transaction_has_ended(app):
    statuses = []

    class Rest(io.BytesIO):
        def read(self, size=-1):
            statuses.append(transaction.manager.manager._txn)
            return b""

    app.upload_raw(Rest(), LARGE, headers=BOB, status=403)
    assert statuses == [None]


@pytest.mark.parametrize("method", ["put", "patch"])
def test_other_methods_are_not_allowed(app, method):
    app.upload()
    before = app.state()
    for url in (ATTACHMENT, "/buckets/none/collections/none/records/none/attachment"):
        response = app.request(url, method=method.upper(), headers=ALICE, status=405)
        if method != "head":
            refused(response, 405, 115, "not allowed")
    assert app.state() == before


def test_a_refused_request_changes_nothing_for_those_that_follow(app):
    """Routes are shared by all threads: that of a refused request is unchanged."""
    app.upload(headers=BOB, status=403)
    app.upload(part("data", "nonsense"), status=400)
    app.upload(status=201)
    app.upload(headers=BOB, status=403)
    app.delete(ATTACHMENT, headers=BOB, status=403)
    app.delete(ATTACHMENT, headers=ALICE, status=204)


FULL_DISK = OSError(errno.ENOSPC, "No space left on device")


class FullFile:
    """A file that takes no bytes."""

    def __init__(self, file):
        self.fileno, self.close = file.fileno, file.close

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def write(self, chunk):
        raise FULL_DISK


def open_full(path, mode):
    return FullFile(open(path, mode))


@pytest.mark.parametrize("size", [1, MAX_SMALL_BYTES + 1])
@pytest.mark.parametrize("call", ["write", "sync", "name", "staging"])
def test_a_full_disk_is_a_503_and_logged_once(state, call, size, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise FULL_DISK

    if call in ("write", "staging"):
        for module in (filesystem, staging):
            opening = open_full if call == "write" else full
            monkeypatch.setattr(module, "open", opening, raising=False)
    elif call == "sync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(os, "link", full)
        monkeypatch.setattr(os, "rename", full)
    upload = state.upload(file_part(b"a" * size), status=503)
    response = refused(upload, 503, 201, "please retry later")
    assert int(response.headers["Retry-After"]) > 0
    monkeypatch.undo()
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info[1].__cause__ is FULL_DISK


@pytest.mark.parametrize("origin", ["https://app.test"])
def test_errors_can_be_read_by_pages_on_other_origins(app, origin):
    for response in (
        app.upload(part("data", "x"), headers={**ALICE, "Origin": origin}, status=400),
        app.upload(headers={**BOB, "Origin": origin}, status=403),
        app.upload(headers={**ALICE, "Origin": origin, "If-Match": '"1"'}, status=412),
        app.post(ATTACHMENT, "{}", headers={**ALICE, "Origin": origin}, status=400),
    ):
        assert response.headers["Access-Control-Allow-Origin"] in ("*", origin)
        exposed = response.headers["Access-Control-Expose-Headers"]
        assert {"ETag", "Last-Modified", "Location"} <= set(exposed.split(", "))


def test_a_preflight_has_the_same_response_whether_the_record_exists_or_not(app):
    app.upload()
    headers = {"Origin": "https://app.test", "Access-Control-Request-Method": "POST"}
    known = app.options(ATTACHMENT, headers=headers, status=200)
    unknown = app.options("/buckets/x/collections/y/records/z/attachment", headers=headers)
    assert known.status == unknown.status
    assert known.body == unknown.body
    assert "POST" in known.headers["Access-Control-Allow-Methods"]
    assert "ETag" not in known.headers
    names = set(known.headers) | set(unknown.headers)
    for name in names - {"Date", "Access-Control-Allow-Headers"}:
        assert known.headers[name] == unknown.headers[name]


def test_a_listener_that_raises_undoes_the_upload(make_app):
    app = make_app(storage_backend="kinto.core.storage.memory")
    app.upload(file_part(b"what was there before"))
    before = app.files()

    def refuse(event):
        raise RuntimeError("not today")

    app.listen(refuse)
    app.upload(status=500)
    assert app.files() == before
