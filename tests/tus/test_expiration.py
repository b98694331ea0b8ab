"""Expiration."""

import datetime
import email.utils
import re

import pytest

from tests.tus.client import Tus, wait_for


pytestmark = pytest.mark.extension("expiration")

CONTENT = b"0123456789" * 10

FIXDATE = re.compile(
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} "
    r"\d\d:\d\d:\d\d GMT"
)
"""The preferred form of RFC 7231, section 7.1.1.1."""


@pytest.fixture
def expiring(target):
    """A client whose uploads expire soon."""
    return Tus(target, target.expiring_url())


def check(response):
    expires = response.headers["Upload-Expires"]
    assert FIXDATE.fullmatch(expires)
    assert email.utils.parsedate_to_datetime(expires) > datetime.datetime.now(datetime.timezone.utc)


def test_a_server_with_expiration_must_say_so(expiring):
    assert "expiration" in expiring.options().headers["Tus-Extension"].split(",")


def test_the_response_to_a_creation_must_include_the_date_if_it_is_known(expiring):
    check(expiring.post(100))


def test_every_response_to_a_patch_must_include_the_date_in_the_format_of_rfc_7231(expiring):
    upload = expiring.create(100)
    check(expiring.patch(upload, 0, CONTENT[:30]))
    check(expiring.patch(upload, 30, CONTENT[30:70]))


def test_an_expired_upload_should_be_404_or_410(expiring):
    upload = expiring.create(100)
    status = wait_for(lambda: expiring.head(upload).status, lambda status: status != 200)
    assert status in (404, 410)
    assert "Upload-Offset" not in expiring.head(upload).headers
    assert expiring.patch(upload, 0, CONTENT).status in (404, 410)
