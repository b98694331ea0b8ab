"""Ranges and conditions of downloads, compared with an oracle that is written another way."""

import hashlib
import time
from email.utils import formatdate

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kinto_attachment.http.byte_range import Unsatisfiable, requested_range
from kinto_attachment.http.conditions import Outcome, evaluate, range_applies
from tests.support.app import ATTACHMENT
from tests.support.users import ALICE


CONTENT = b"once upon a time"
TAG = hashlib.sha256(CONTENT).hexdigest()
DAY = 24 * 3600


def oracle(header, content):
    """Return the status and the bytes, found by looking at each position of the file."""
    if not header.lower().startswith("bytes="):
        return 200, content
    first, dash, last = header[6:].partition("-")
    if not dash or not (first + last).isdigit():
        return 200, content
    if not first:
        chosen = range(max(0, len(content) - int(last)), len(content))
        if int(last) and not content:
            return 200, content
    elif last and int(last) < int(first):
        return 200, content
    else:
        chosen = [at for at in range(len(content)) if int(first) <= at and at <= int(last or at)]
    found = bytes(content[at] for at in chosen)
    return (206, found) if found else (416, b"")


NUMBERS = st.integers(0, 20).map(str) | st.sampled_from(["", "007", "9" * 30, "x", "-1"])
RANGES = st.builds(
    "{}{}-{}".format, st.sampled_from(["bytes=", "Bytes=", "lines="]), NUMBERS, NUMBERS
)


@given(RANGES, st.binary(max_size=18))
def test_a_range_is_that_of_the_oracle(header, content):
    status, expected = oracle(header, content)
    try:
        found = requested_range(header, len(content))
    except Unsatisfiable:
        assert status == 416
        return
    if found is None:
        assert (status, expected) == (200, content)
    else:
        assert status == 206
        assert content[found.first : found.first + found.length] == expected
        assert len(expected) == found.length


@given(header=RANGES)
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_server_answers_as_the_oracle(app, header):
    if not app.files():
        app.upload()
    status, expected = oracle(header, CONTENT)
    response = app.get(ATTACHMENT, headers={**ALICE, "Range": header}, status=status)
    if status != 416:
        assert response.body == expected
        assert response.headers["Content-Length"] == str(len(expected))


MODIFIED = 1_800_000_000
EARLIER, EXACTLY, LATER = (formatdate(MODIFIED + s, usegmt=True) for s in (-DAY, 0, DAY))
SAME, WEAK, OTHER = f'"{TAG}"', f'W/"{TAG}"', '"other"'

CONDITIONS = [
    ({}, Outcome.PROCEED),
    ({"If-Match": SAME}, Outcome.PROCEED),
    ({"If-Match": f"{OTHER}, {SAME}"}, Outcome.PROCEED),
    ({"If-Match": "*"}, Outcome.PROCEED),
    ({"If-Match": OTHER}, Outcome.FAILED),
    ({"If-Match": WEAK}, Outcome.FAILED),
    ({"If-Match": TAG}, Outcome.FAILED),
    ({"If-Match": SAME, "If-Unmodified-Since": EARLIER}, Outcome.PROCEED),
    ({"If-Unmodified-Since": EARLIER}, Outcome.FAILED),
    ({"If-Unmodified-Since": EXACTLY}, Outcome.PROCEED),
    ({"If-Unmodified-Since": LATER}, Outcome.PROCEED),
    ({"If-Unmodified-Since": "yesterday"}, Outcome.PROCEED),
    ({"If-None-Match": SAME}, Outcome.NOT_MODIFIED),
    ({"If-None-Match": WEAK}, Outcome.NOT_MODIFIED),
    ({"If-None-Match": "*"}, Outcome.NOT_MODIFIED),
    ({"If-None-Match": f"{OTHER},{SAME}"}, Outcome.NOT_MODIFIED),
    ({"If-None-Match": OTHER}, Outcome.PROCEED),
    ({"If-None-Match": '"1234"'}, Outcome.PROCEED),
    ({"If-None-Match": OTHER, "If-Modified-Since": LATER}, Outcome.PROCEED),
    ({"If-Modified-Since": EARLIER}, Outcome.PROCEED),
    ({"If-Modified-Since": EXACTLY}, Outcome.NOT_MODIFIED),
    ({"If-Modified-Since": LATER}, Outcome.NOT_MODIFIED),
    ({"If-Modified-Since": "Fri, 15 Jan 2027 99:00:00 GMT"}, Outcome.PROCEED),
    ({"If-Modified-Since": "Friday, 15-Jan-27 08:00:00 GMT"}, Outcome.NOT_MODIFIED),
    ({"If-Modified-Since": "Fri Jan 15 08:00:00 2027"}, Outcome.NOT_MODIFIED),
    ({"If-Modified-Since": "Fri, 15 Jan 2027 08:00:00 +0000"}, Outcome.PROCEED),
    ({"If-Match": OTHER, "If-None-Match": SAME}, Outcome.FAILED),
]


@pytest.mark.parametrize(("headers", "expected"), CONDITIONS)
def test_conditions_in_the_order_of_the_standard(headers, expected):
    assert evaluate(headers, TAG, MODIFIED) is expected


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [
        (SAME, True),
        (WEAK, False),
        (OTHER, False),
        (EXACTLY, True),
        (EARLIER, False),
        (LATER, False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_a_range_may_be_of_this_file_only(if_range, expected):
    assert range_applies({"If-Range": if_range}, TAG, MODIFIED) is expected
    assert range_applies({}, TAG, MODIFIED)


def test_a_client_that_has_the_file_is_told_so(app):
    app.upload()
    got = app.get(ATTACHMENT, headers=ALICE).headers
    for condition in ({"If-None-Match": got["ETag"]}, {"If-Modified-Since": got["Last-Modified"]}):
        for method in ("GET", "HEAD"):
            response = app.request(
                ATTACHMENT, method=method, headers={**ALICE, **condition}, status=304
            )
            assert response.body == b""
            for name in ("ETag", "Last-Modified", "Cache-Control", "Vary"):
                assert response.headers[name] == got[name]
            assert "Content-Type" not in response.headers


def test_no_storage_is_asked_for_what_the_client_has(app, monkeypatch):
    app.upload()
    monkeypatch.setattr(app.registry.attachments.files, "open_range", None)
    app.get(ATTACHMENT, headers={**ALICE, "If-None-Match": SAME}, status=304)
    app.get(ATTACHMENT, headers={**ALICE, "Range": "bytes=99-"}, status=416)


def test_a_client_that_has_another_file_is_told_so(app):
    app.upload()
    for condition in (
        {"If-Match": OTHER},
        {"If-Unmodified-Since": formatdate(time.time() - DAY, usegmt=True)},
    ):
        response = app.get(ATTACHMENT, headers={**ALICE, **condition}, status=412)
        assert response.json["errno"] == 114


def test_a_download_is_resumed_if_the_file_is_the_same(app):
    app.upload()
    headers = {**ALICE, "Range": "bytes=5-"}
    tag = app.get(ATTACHMENT, headers=ALICE).headers["ETag"]
    assert app.get(ATTACHMENT, headers={**headers, "If-Range": tag}, status=206).body == CONTENT[5:]
    assert app.get(ATTACHMENT, headers={**headers, "If-Range": OTHER}, status=200).body == CONTENT


def test_the_tag_of_a_record_is_not_that_of_its_file(app):
    app.upload()
    record = app.get("/buckets/blog/collections/photos/records/first", headers=ALICE).headers
    assert app.get(ATTACHMENT, headers={**ALICE, "If-None-Match": record["ETag"]}).body == CONTENT
