"""What is sent in the background for a file that comes in pieces, when its request ends."""

import time

import pytest

from kinto_attachment.background import in_background
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.gcs import partial as gcs_partial
from kinto_attachment.storage.s3 import partial as s3_partial
from kinto_attachment.storage.s3.storage import S3Storage
from tests.support.gcs import gcs_storage
from tests.support.s3 import PART_BYTES
from tests.support.storage_contract import SavedPartial


pytestmark = pytest.mark.external

KNOWN = b"once"


def begun_s3(bucket):
    return S3Storage.from_settings(bucket.options, ""), s3_partial, bucket


def begun_gcs(bucket):
    return gcs_storage(bucket.options), gcs_partial, bucket


@pytest.fixture(params=["bucket", "gcs_bucket"], ids=["S3", "GCS"])
def place(request):
    """Return a storage, the module of its partial files, and its bucket to look into."""
    make = begun_s3 if request.param == "bucket" else begun_gcs
    return make(request.getfixturevalue(request.param))


@pytest.fixture
def sent(place, monkeypatch):
    """Return the results of what is sent in the background, which takes a while to begin."""
    results = []

    def slowly(send):
        def work():
            time.sleep(0.3)
            return send()

        results.append(in_background(work))
        return results[-1]

    monkeypatch.setattr(place[1], "in_background", slowly)
    return results


@pytest.fixture
def saved(place):
    saved = SavedPartial(place[0])
    saved.append(KNOWN)
    return saved


ENDS = {
    "rewind": lambda file, saved: file.rewind(len(KNOWN), saved.state),
    "close": lambda file, saved: file.close(),
}


@pytest.mark.parametrize("end", ENDS)
def test_nothing_arrives_after_the_end_of_its_request(place, saved, sent, end):
    file = saved.resume()
    file.write(b"x" * (PART_BYTES + 1))
    assert not sent[-1].done()
    ENDS[end](file, saved)
    assert sent[-1].done()
    saved.append(b" upon")
    _, _, bucket = place
    if end == "rewind":
        # What the next one has sent, and for S3 the end that it replaces.
        assert len(bucket.keys()) == 2
    assert saved.publish("story.txt")
    saved.discard()
    assert bucket.content("story.txt") == b"once upon"


@pytest.mark.parametrize("end", ENDS)
def test_what_could_not_be_sent_is_no_error_at_the_end(place, saved, monkeypatch, end):
    def fail(*args):
        raise StorageError("not today")

    owner, method = {
        s3_partial: ("S3PartialFile", "_upload_part"),
        gcs_partial: ("GCSPartialFile", "_put"),
    }[place[1]]
    file = saved.resume()
    with monkeypatch.context() as context:
        context.setattr(getattr(place[1], owner), method, fail)
        file.write(b"x" * (PART_BYTES + 1))
        ENDS[end](file, saved)
    saved.append(b" upon")
    assert saved.publish("story.txt")
