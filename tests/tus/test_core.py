"""The core protocol."""

import re

import pytest

from tests.tus.client import TYPE, another, wait_for


CONTENT = b"0123456789" * 10

NO_NUMBERS = {"negative": "-1", "word": "x", "fraction": "1.5", "hexadecimal": "0x1", "empty": ""}


@pytest.fixture
def upload(tus):
    """The URL of an upload of 100 bytes, of which none is there yet."""
    return tus.create(len(CONTENT))


def not_numbers():
    return pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)


# Headers


@not_numbers()
def test_upload_offset_must_be_a_non_negative_integer(tus, upload, value):
    response = tus.patch(upload, 0, CONTENT[:10], Upload_Offset=value)
    assert response.status == 400
    assert tus.offset(upload) == 0


@not_numbers()
def test_upload_length_must_be_a_non_negative_integer(tus, value):
    assert tus.post(Upload_Length=value).status == 400


def test_tus_version_must_be_a_comma_separated_list_of_versions(tus):
    versions = tus.options().headers["Tus-Version"].split(",")
    assert "1.0.0" in versions
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)


def created(tus):
    return tus.create(len(CONTENT))


RESPONSES = {
    "created": lambda tus: tus.post(1),
    "head": lambda tus: tus.head(created(tus)),
    "patched": lambda tus: tus.patch(created(tus), 0, CONTENT[:10]),
    "completed": lambda tus: tus.patch(created(tus), 0, CONTENT),
    "deleted": lambda tus: tus.delete(created(tus)),
    "length missing": lambda tus: tus.post(),
    "too large": lambda tus: tus.post(tus.target.max_size + 1),
    "unknown": lambda tus: tus.head(another(created(tus))),
    "wrong offset": lambda tus: tus.patch(created(tus), 10, CONTENT[10:]),
    "wrong type": lambda tus: tus.patch(created(tus), 0, CONTENT, Content_Type="text/plain"),
    "wrong version": lambda tus: tus.head(created(tus), Tus_Resumable="0.2.2"),
}


@pytest.mark.parametrize("respond", RESPONSES.values(), ids=RESPONSES)
def test_tus_resumable_must_be_included_in_every_response(tus, respond):
    assert respond(tus).headers["Tus-Resumable"] == "1.0.0"


VERSIONS = {"older": "0.2.2", "newer": "2.0.0"}

REQUESTS = {
    "POST": lambda tus, url, version: tus.post(1, Tus_Resumable=version),
    "HEAD": lambda tus, url, version: tus.head(url, Tus_Resumable=version),
    "PATCH": lambda tus, url, version: tus.patch(url, 0, CONTENT, Tus_Resumable=version),
    "DELETE": lambda tus, url, version: tus.delete(url, Tus_Resumable=version),
}

each_method = pytest.mark.parametrize("send", REQUESTS.values(), ids=REQUESTS)
each_version = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)


@each_version
@each_method
def test_an_unsupported_version_must_be_412(tus, upload, send, version):
    assert send(tus, upload, version).status == 412


@each_version
@each_method
def test_the_response_to_an_unsupported_version_must_include_tus_version(
    tus, upload, send, version
):
    assert "1.0.0" in send(tus, upload, version).headers["Tus-Version"].split(",")


@each_method
def test_tus_resumable_must_be_included_in_every_request(tus, upload, send):
    assert send(tus, upload, None).status == 412
    assert tus.offset(upload) == 0


def test_a_request_of_an_unsupported_version_must_not_be_processed(tus, upload):
    tus.patch(upload, 0, CONTENT[:10], Tus_Resumable="0.2.2")
    assert tus.offset(upload) == 0
    tus.delete(upload, Tus_Resumable="0.2.2")
    assert tus.head(upload).status == 200


def test_tus_extension_must_be_a_comma_separated_list_of_the_extensions(tus):
    extensions = tus.options().headers["Tus-Extension"].split(",")
    assert tus.target.extensions <= set(extensions)
    assert all(re.fullmatch("[a-z-]+", extension) for extension in extensions)


def test_tus_max_size_must_be_a_non_negative_integer(tus):
    assert tus.options().headers["Tus-Max-Size"] == str(tus.target.max_size)


def test_the_method_must_be_that_of_x_http_method_override(tus, upload):
    patched = tus.request(
        "POST",
        upload,
        {"X_HTTP_Method_Override": "PATCH", "Content_Type": TYPE, "Upload_Offset": "0"},
        CONTENT[:70],
    )
    assert (patched.status, patched.offset) == (204, 70)
    deleted = tus.request("POST", upload, {"X_HTTP_Method_Override": "DELETE"})
    assert deleted.status == 204
    assert tus.head(upload).status in (404, 410)


def test_the_actual_method_must_be_ignored(tus, upload):
    head = tus.request("DELETE", upload, {"X_HTTP_Method_Override": "HEAD"})
    assert head.offset == 0
    assert tus.head(upload).status == 200


# HEAD


def test_head_must_include_the_offset_even_if_it_is_0(tus, upload):
    response = tus.head(upload)
    assert response.status in (200, 204)
    assert response.headers["Upload-Offset"] == "0"


def test_head_must_include_the_offset_even_if_the_upload_is_completed(tus, upload):
    tus.patch(upload, 0, CONTENT)
    response = tus.head(upload)
    assert response.status in (200, 204)
    assert response.offset == len(CONTENT)


def test_head_must_include_the_length_if_it_is_known(tus, upload):
    assert tus.head(upload).headers["Upload-Length"] == str(len(CONTENT))


def test_head_of_what_is_not_found_should_be_404_410_or_403_without_offset(tus, upload):
    response = tus.head(another(upload))
    assert response.status in (404, 410, 403)
    assert "Upload-Offset" not in response.headers


def test_head_must_not_be_cached(tus, upload):
    assert "no-store" in tus.head(upload).headers["Cache-Control"]


# PATCH


def test_patch_should_apply_the_bytes_at_the_offset(tus, upload):
    tus.patch(upload, 0, CONTENT[:70])
    assert tus.offset(upload) == 70
    tus.patch(upload, 70, CONTENT[70:])
    assert tus.content(upload) == CONTENT


@pytest.mark.parametrize("mimetype", ["application/octet-stream", "text/plain", None])
def test_patch_of_another_content_type_should_be_415(tus, upload, mimetype):
    assert tus.patch(upload, 0, CONTENT[:70], Content_Type=mimetype).status == 415
    assert tus.offset(upload) == 0


@pytest.mark.parametrize("offset", [0, 69, 71, 100, 1 << 40])
def test_patch_at_another_offset_must_be_409_and_must_not_modify_the_upload(tus, upload, offset):
    tus.patch(upload, 0, CONTENT[:70])
    assert tus.patch(upload, offset, b"x" * 30).status == 409
    assert tus.offset(upload) == 70
    tus.patch(upload, 70, CONTENT[70:])
    assert tus.content(upload) == CONTENT


def test_patch_without_an_offset_must_not_modify_the_upload(tus, upload):
    assert tus.patch(upload, 0, CONTENT, Upload_Offset=None).status in range(400, 500)
    assert tus.offset(upload) == 0


def test_a_client_may_use_multiple_small_requests_successively(tus, upload):
    for start in range(0, 100, 7):
        response = tus.patch(upload, start, CONTENT[start : start + 7])
        assert response.status == 204
    assert tus.content(upload) == CONTENT


def test_successful_patch_must_be_204_with_the_sum_of_offset_and_received_bytes(tus, upload):
    first = tus.patch(upload, 0, CONTENT[:70])
    assert (first.status, first.offset) == (204, 70)
    last = tus.patch(upload, 70, CONTENT[70:])
    assert (last.status, last.offset) == (204, 100)


def test_patch_of_nothing_leaves_the_offset(tus, upload):
    tus.patch(upload, 0, CONTENT[:70])
    response = tus.patch(upload, 70, b"")
    assert (response.status, response.offset) == (204, 70)


def test_patch_may_come_in_chunks_of_http(tus, upload):
    chunks = iter([CONTENT[:30], CONTENT[30:70]])
    response = tus.patch(upload, 0, chunks, Transfer_Encoding="chunked")
    assert (response.status, response.offset) == (204, 70)
    tus.patch(upload, 70, CONTENT[70:])
    assert tus.content(upload) == CONTENT


def test_patch_never_makes_an_upload_longer_than_its_length(tus, upload):
    tus.patch(upload, 0, CONTENT[:70])
    response = tus.patch(upload, 70, b"x" * 31)
    assert response.status in range(400, 500)
    assert tus.offset(upload) <= 100


def test_patch_of_what_does_not_exist_should_be_404(tus, upload):
    assert tus.patch(another(upload), 0, CONTENT).status == 404


def test_received_data_should_be_stored_also_if_the_client_vanishes(tus):
    content = CONTENT * 10_000
    upload = tus.create(len(content))
    tus.patch_and_vanish(upload, 0, content, after=700_000)
    offset = wait_for(lambda: tus.offset(upload), lambda offset: offset > 0)
    assert 0 < offset <= 700_000
    assert tus.patch(upload, offset, content[offset:]).status == 204
    assert tus.content(upload) == content


# OPTIONS


def test_options_must_be_204_or_200_with_tus_version(tus, upload):
    for url in (tus.creation_url, upload):
        response = tus.options(url)
        assert response.status in (200, 204)
        assert "1.0.0" in response.headers["Tus-Version"].split(",")


@pytest.mark.parametrize("version", ["1.0.0", "0.2.2", "x"])
def test_options_must_ignore_tus_resumable(tus, version):
    response = tus.options(Tus_Resumable=version)
    assert response.status in (200, 204)
    assert "1.0.0" in response.headers["Tus-Version"].split(",")
