"""Creation, with a length or without one, and with data or without any."""

import pytest

from tests.tus.client import TYPE, encoded, read_metadata


CONTENT = b"0123456789" * 10

needs = pytest.mark.extension


def test_a_server_with_creation_must_say_so(tus):
    assert "creation" in tus.options().headers["Tus-Extension"].split(",")


def test_a_successful_creation_must_be_201_with_the_url_in_location(tus):
    response = tus.post(len(CONTENT))
    assert response.status == 201
    upload = tus.location(response)
    assert tus.offset(upload) == 0
    assert tus.patch(upload, 0, CONTENT).status == 204
    assert tus.content(upload) == CONTENT


def test_every_creation_makes_another_upload(tus):
    first, second = tus.create(1), tus.create(1)
    assert first != second
    tus.patch(first, 0, b"x")
    assert tus.offset(second) == 0


def test_a_creation_must_include_a_length_or_defer_it(tus):
    assert tus.post().status == 400


def test_an_upload_of_length_0_is_complete_when_it_is_created(tus):
    upload = tus.create(0)
    response = tus.head(upload)
    assert (response.offset, response.headers["Upload-Length"]) == (0, "0")
    assert tus.content(upload) == b""


def test_a_length_above_the_maximum_must_be_413(tus):
    assert tus.post(tus.target.max_size + 1).status == 413
    assert tus.post(tus.target.max_size).status == 201


# Metadata


METADATA = {
    "text": {"note": "once upon a time"},
    "UTF-8": {"note": "ä☃"},
    "bytes": {"note": b"\0\r\n\xff"},
    "empty": {"note": ""},
    "without a value": {"is_confidential": None},
    "several": {"one": "1", "two": "2", "three": None},
}


@pytest.mark.parametrize("pairs", METADATA.values(), ids=METADATA)
def test_head_must_include_the_metadata_as_the_client_specified_it(tus, pairs):
    upload = tus.create(1, metadata=pairs)
    found = read_metadata(tus.head(upload).headers["Upload-Metadata"])
    expected = {**tus.target.metadata, **pairs}
    as_bytes = {k: v.encode() if isinstance(v, str) else v or b"" for k, v in expected.items()}
    assert found == as_bytes


def test_head_of_an_upload_with_data_must_include_its_metadata(tus):
    upload = tus.create(len(CONTENT), metadata={"note": "x"})
    tus.patch(upload, 0, CONTENT[:70])
    assert read_metadata(tus.head(upload).headers["Upload-Metadata"])["note"] == b"x"


WRONG_METADATA = {
    "not Base64": f"filename {encoded('a.txt')},note ***",
    "no key": f"filename {encoded('a.txt')}, ",
    "two spaces": f"filename {encoded('a.txt')},a b {encoded('x')}",
    "the same key twice": f"filename {encoded('a.txt')},filename {encoded('b.txt')}",
}


@pytest.mark.parametrize("header", WRONG_METADATA.values(), ids=WRONG_METADATA)
def test_metadata_must_be_unique_keys_with_values_in_base64(tus, header):
    assert tus.post(1, Upload_Metadata=header).status == 400


# Deferred length


@needs("creation-defer-length")
def test_a_server_that_supports_deferring_length_must_say_so(tus):
    assert "creation-defer-length" in tus.options().headers["Tus-Extension"].split(",")


@needs("creation-defer-length")
def test_head_must_say_that_the_length_is_deferred_as_long_as_it_is_not_known(tus):
    upload = tus.create(Upload_Defer_Length=1)
    for offset in (0, 30):
        headers = tus.head(upload).headers
        assert headers["Upload-Defer-Length"] == "1"
        assert "Upload-Length" not in headers
        assert tus.patch(upload, offset, CONTENT[offset : offset + 30]).status == 204
    assert tus.patch(upload, 60, CONTENT[60:], Upload_Length=100).status == 204
    assert tus.content(upload) == CONTENT


@needs("creation-defer-length")
def test_the_length_is_set_by_a_patch(tus):
    upload = tus.create(Upload_Defer_Length=1)
    assert tus.patch(upload, 0, CONTENT[:70], Upload_Length=100).status == 204
    headers = tus.head(upload).headers
    assert headers["Upload-Length"] == "100"
    assert "Upload-Defer-Length" not in headers


@needs("creation-defer-length")
def test_a_patch_of_nothing_may_set_the_length_and_complete_the_upload(tus):
    upload = tus.create(Upload_Defer_Length=1)
    tus.patch(upload, 0, CONTENT)
    response = tus.patch(upload, 100, b"", Upload_Length=100)
    assert (response.status, response.offset) == (204, 100)
    assert tus.content(upload) == CONTENT


@pytest.mark.parametrize("value", ["0", "2", "true", ""])
@needs("creation-defer-length")
def test_upload_defer_length_of_another_value_than_1_should_be_400(tus, value):
    assert tus.post(Upload_Defer_Length=value).status == 400


@needs("creation-defer-length")
def test_a_creation_has_either_a_length_or_a_deferred_one(tus):
    assert tus.post(100, Upload_Defer_Length=1).status == 400


def test_upload_defer_length_must_be_omitted_if_the_length_is_not_deferred(tus):
    assert "Upload-Defer-Length" not in tus.head(tus.create(100)).headers


@needs("creation-defer-length")
def test_a_deferred_length_must_not_be_changed_once_it_is_set(tus):
    upload = tus.create(Upload_Defer_Length=1)
    tus.patch(upload, 0, CONTENT[:30], Upload_Length=100)
    assert tus.patch(upload, 30, CONTENT[30:70], Upload_Length=70).status == 400
    headers = tus.head(upload).headers
    assert (headers["Upload-Offset"], headers["Upload-Length"]) == ("30", "100")


def test_the_length_of_a_creation_must_not_be_changed(tus):
    upload = tus.create(100)
    assert tus.patch(upload, 0, CONTENT[:70], Upload_Length=70).status == 400
    headers = tus.head(upload).headers
    assert (headers["Upload-Offset"], headers["Upload-Length"]) == ("0", "100")


@needs("creation-defer-length")
def test_a_deferred_length_above_the_maximum_must_be_413(tus):
    upload = tus.create(Upload_Defer_Length=1)
    response = tus.patch(upload, 0, CONTENT, Upload_Length=tus.target.max_size + 1)
    assert response.status == 413
    assert tus.offset(upload) == 0


@needs("creation-defer-length")
def test_a_deferred_length_is_not_less_than_what_is_there(tus):
    upload = tus.create(Upload_Defer_Length=1)
    tus.patch(upload, 0, CONTENT[:70])
    response = tus.patch(upload, 70, b"", Upload_Length=69)
    assert response.status in range(400, 500)
    assert tus.offset(upload) == 70


# Creation with upload


@needs("creation-with-upload")
def test_a_server_with_creation_with_upload_must_say_so_and_have_creation(tus):
    assert {"creation", "creation-with-upload"} <= set(
        tus.options().headers["Tus-Extension"].split(",")
    )


@needs("creation-with-upload")
def test_a_creation_may_include_all_data(tus):
    response = tus.post(100, CONTENT)
    assert (response.status, response.offset) == (201, 100)
    upload = tus.location(response)
    assert tus.offset(upload) == 100
    assert tus.content(upload) == CONTENT


@needs("creation-with-upload")
def test_a_creation_may_include_a_part_of_the_data(tus):
    response = tus.post(100, CONTENT[:70])
    assert (response.status, response.offset) == (201, 70)
    upload = tus.location(response)
    assert tus.offset(upload) == 70
    assert tus.patch(upload, 70, CONTENT[70:]).status == 204
    assert tus.content(upload) == CONTENT


@needs("creation-with-upload")
@needs("creation-defer-length")
def test_a_creation_with_data_may_defer_the_length(tus):
    response = tus.post(None, CONTENT[:70], Upload_Defer_Length=1)
    assert (response.status, response.offset) == (201, 70)
    upload = tus.location(response)
    tus.patch(upload, 70, CONTENT[70:], Upload_Length=100)
    assert tus.content(upload) == CONTENT


@needs("creation-with-upload")
def test_data_of_another_content_type_must_not_be_taken(tus):
    response = tus.post(100, CONTENT[:70], Content_Type="text/plain")
    assert response.status == 415 or tus.offset(tus.location(response)) == 0


@needs("creation-with-upload")
def test_a_creation_with_more_data_than_its_length_is_refused(tus):
    assert tus.post(70, CONTENT).status in range(400, 500)


@needs("creation-with-upload")
def test_a_client_that_expects_100_gets_early_feedback(tus):
    usual = {"Content_Type": TYPE, "Upload_Metadata": metadata_of(tus)}
    accepted = tus.expect("POST", tus.creation_url, {**usual, "Upload_Length": 100}, CONTENT)
    assert accepted == [100, 201]
    too_large = {**usual, "Upload_Length": tus.target.max_size + 1}
    assert tus.expect("POST", tus.creation_url, too_large, CONTENT) == [413]


def metadata_of(tus):
    return ",".join(f"{key} {encoded(value)}" for key, value in tus.target.metadata.items()) or None
