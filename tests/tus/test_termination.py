"""Termination."""

import pytest

from tests.tus.client import another


pytestmark = pytest.mark.extension("termination")

CONTENT = b"0123456789" * 10


def test_a_server_with_termination_must_say_so(tus):
    assert "termination" in tus.options().headers["Tus-Extension"].split(",")


@pytest.mark.parametrize("size", [0, 70, 100])
def test_delete_of_a_completed_or_unfinished_upload_must_be_204(tus, size):
    upload = tus.create(100)
    tus.patch(upload, 0, CONTENT[:size])
    assert tus.delete(upload).status == 204


@pytest.mark.parametrize("size", [0, 70, 100])
def test_later_requests_should_be_404_or_410(tus, size):
    upload = tus.create(100)
    tus.patch(upload, 0, CONTENT[:size])
    tus.delete(upload)
    head = tus.head(upload)
    assert head.status in (404, 410)
    assert "Upload-Offset" not in head.headers
    assert tus.patch(upload, size, CONTENT[size:]).status in (404, 410)
    assert tus.delete(upload).status in (404, 410)


def test_delete_leaves_other_uploads(tus):
    kept, deleted = tus.create(100), tus.create(100)
    tus.delete(deleted)
    assert tus.patch(kept, 0, CONTENT).status == 204
    assert tus.content(kept) == CONTENT


def test_delete_of_what_does_not_exist_is_404(tus):
    assert tus.delete(another(tus.create(100))).status in (404, 410)
