"""Checksums."""

import hashlib
import re

import pytest

from tests.tus.client import encoded


pytestmark = pytest.mark.extension("checksum")

CONTENT = b"0123456789" * 10
ALGORITHMS = ("sha1", "sha256", "sha512", "md5")


@pytest.fixture
def upload(tus):
    return tus.create(len(CONTENT))


def checksum(content, algorithm="sha1"):
    return f"{algorithm} {encoded(hashlib.new(algorithm, content).digest())}"


def test_a_server_with_checksum_must_say_so(tus):
    assert "checksum" in tus.options().headers["Tus-Extension"].split(",")


def test_options_must_include_the_algorithms_in_lower_case_with_sha1_among_them(tus):
    algorithms = tus.options().headers["Tus-Checksum-Algorithm"].split(",")
    assert set(ALGORITHMS) <= set(algorithms)
    assert all(re.fullmatch(r"[!-@\[-~]+", algorithm) for algorithm in algorithms)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checksum_that_matches_is_204(tus, upload, algorithm):
    first = tus.patch(upload, 0, CONTENT[:70], Upload_Checksum=checksum(CONTENT[:70], algorithm))
    assert (first.status, first.offset) == (204, 70)
    last = tus.patch(upload, 70, CONTENT[70:], Upload_Checksum=checksum(CONTENT[70:], algorithm))
    assert (last.status, last.offset) == (204, 100)
    assert tus.content(upload) == CONTENT


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_mismatch_is_460_and_the_chunk_must_be_discarded(tus, upload, algorithm):
    tus.patch(upload, 0, CONTENT[:30])
    wrong = tus.patch(upload, 30, b"x" * 40, Upload_Checksum=checksum(CONTENT[30:70], algorithm))
    assert wrong.status == 460
    assert tus.offset(upload) == 30
    right = tus.patch(
        upload, 30, CONTENT[30:70], Upload_Checksum=checksum(CONTENT[30:70], algorithm)
    )
    assert (right.status, right.offset) == (204, 70)
    tus.patch(upload, 70, CONTENT[70:])
    assert tus.content(upload) == CONTENT


def test_a_mismatch_of_the_last_chunk_does_not_complete_the_upload(tus, upload):
    wrong = tus.patch(upload, 0, b"x" * 100, Upload_Checksum=checksum(CONTENT))
    assert wrong.status == 460
    assert tus.offset(upload) == 0
    assert tus.patch(upload, 0, CONTENT, Upload_Checksum=checksum(CONTENT)).status == 204
    assert tus.content(upload) == CONTENT


def test_an_unsupported_algorithm_is_400_and_the_chunk_must_be_discarded(tus, upload):
    response = tus.patch(upload, 0, CONTENT, Upload_Checksum=f"crc7 {encoded(b'x')}")
    assert response.status == 400
    assert tus.offset(upload) == 0


@pytest.mark.parametrize("header", ["sha1", "sha1 ***", "sha1 eA=", ""])
def test_upload_checksum_must_be_an_algorithm_and_a_checksum_in_base64(tus, upload, header):
    response = tus.patch(upload, 0, CONTENT, Upload_Checksum=header)
    assert response.status == 400
    assert tus.offset(upload) == 0
