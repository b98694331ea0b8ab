"""Expiration."""

import email.utils
import re
import time

import pytest

from tests.tus.client import Tus


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


def expiry(response):
    expires = response.headers["Upload-Expires"]
    assert FIXDATE.fullmatch(expires)
    return email.utils.parsedate_to_datetime(expires)


def is_valid(response):
    return expiry(response).timestamp() > time.time()


def test_a_server_with_expiration_must_say_so(expiring):
    assert "expiration" in expiring.options().headers["Tus-Extension"].split(",")


def test_the_response_to_a_creation_must_include_the_date_if_it_is_known(expiring):
    assert is_valid(expiring.post(100))


def test_every_response_to_a_patch_must_include_the_date_in_the_format_of_rfc_7231(expiring):
    upload = expiring.create(100)
    assert is_valid(expiring.patch(upload, 0, CONTENT[:30]))
    assert is_valid(expiring.patch(upload, 30, CONTENT[30:70]))


def test_an_expired_upload_should_be_404_or_410(expiring):
    created = expiring.post(100)
    upload = expiring.location(created)
    # A request in the meantime could be taken for activity. The header has no fractions.
    time.sleep(expiry(created).timestamp() + 1 - time.time())
    head = expiring.head(upload)
    assert head.status in (404, 410)
    assert "Upload-Offset" not in head.headers
    assert expiring.patch(upload, 0, CONTENT).status in (404, 410)
