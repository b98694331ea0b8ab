"""Workers that are killed at every step of an upload.

Each is a fork of the process of the tests, which shares its database and its files.
"""

import gzip

import pytest

from kinto_attachment.http.record import Record
from kinto_attachment.resumable import completion, upload
from kinto_attachment.resumable.completion import Completion
from kinto_attachment.resumable.uploads import Uploads
from kinto_attachment.storage import filesystem
from kinto_attachment.storage.partial import LocalPartialFile
from tests.support.app import RECORD, App
from tests.support.forks import expire_all, killed
from tests.support.postgresql import postgresql_backends
from tests.support.resumable import CONTENT, Client, states
from tests.support.users import ALICE


BEFORE_THE_END = {
    "begun": (Uploads, "add"),
    "taken over": (Uploads, "take_over"),
    "written": (LocalPartialFile, "write"),
}
AT_THE_END = {
    "on the disk": (LocalPartialFile, "flush"),
    "claimed": (completion, "in_background"),
    "read again": (Completion, "_describe"),
    "key chosen": (Uploads, "save", "phase"),
    "named twice": (filesystem.os, "link"),
    "published": (LocalPartialFile, "publish"),
    "record written": (Record, "write"),
    "done": (Completion, "_attach"),
    "committed": (Completion, "_store", "transaction"),
}


@pytest.fixture(scope="module", params=["false", "true"], ids=["plain", "gzipped"])
def app(request, postgresql, tmp_path_factory):
    settings = {**postgresql_backends(postgresql()), "kinto.attachment.gzipped": request.param}
    return App(tmp_path_factory.mktemp("kills") / "files", **settings)


@pytest.fixture
def client(app, monkeypatch):
    # Whoever waits for the claim of a killed worker waits no longer.
    monkeypatch.setattr(completion, "CLAIM_SECONDS", 0)
    app.reset()
    app.create_collection()
    return Client(app)


def content(app, attachment):
    stored = app.stored(attachment)
    return gzip.decompress(stored) if "original" in attachment else stored


@pytest.mark.parametrize("step", AT_THE_END)
def test_no_byte_is_lost_at_the_end(app, client, step):
    path = client.begun()
    client.patch(path, 0, CONTENT[:5])
    killed(app, AT_THE_END[step], lambda: client.patch(path, 5, CONTENT[5:]))
    assert client.offset(path) == (16 if step == "committed" else 15)
    if step != "committed":
        app.get(RECORD, headers=ALICE, status=404)
        client.patch(path, 15, CONTENT[15:])
    attachment = app.record()["attachment"]
    assert content(app, attachment) == CONTENT
    assert attachment["location"] in app.files()
    assert len(app.links()) == 1
    only_file_is_left(app, attachment["location"])


def only_file_is_left(app, *names):
    expire_all(app)
    assert (sorted(app.files()), states(app)) == (sorted(names), [])


@pytest.mark.parametrize("step", BEFORE_THE_END | AT_THE_END)
def test_nothing_is_left_after_the_expiry(app, client, step):
    if step == "begun":
        killed(app, BEFORE_THE_END[step], client.begin)
    else:
        path = client.begun()
        client.patch(path, 0, CONTENT[:5])
        steps = BEFORE_THE_END | AT_THE_END
        killed(app, steps[step], lambda: client.patch(path, 5, CONTENT[5:]))
    location = [app.record()["attachment"]["location"]] if step == "committed" else []
    only_file_is_left(app, *location)


@pytest.mark.parametrize("step", ["taken over", "written"])
def test_an_upload_goes_on_where_it_was(app, client, step):
    path = client.begun()
    client.patch(path, 0, CONTENT[:5])
    killed(app, BEFORE_THE_END[step], lambda: client.patch(path, 5, CONTENT[5:10]))
    offset = client.offset(path)
    assert offset == {"taken over": 5, "written": 10}[step]
    client.patch(path, offset, CONTENT[offset:])
    assert content(app, app.record()["attachment"]) == CONTENT


@pytest.mark.parametrize("step", ["begun", "taken over", "published"])
def test_a_request_with_all_bytes_that_is_killed_leaves_nothing(app, client, step):
    killed(app, (BEFORE_THE_END | AT_THE_END)[step], lambda: client.begin(body=CONTENT))
    only_file_is_left(app)


def test_a_claim_ends_with_its_worker(app, client, monkeypatch):
    monkeypatch.setattr(completion, "CLAIM_SECONDS", 6)
    path = client.begun()
    killed(app, AT_THE_END["claimed"], lambda: client.patch(path, 0, CONTENT))
    client.head(path, status=423)
    client.patch(path, 15, b"e", status=423)
    now = upload.now()
    monkeypatch.setattr(upload, "now", lambda: now + 6000)
    assert client.offset(path) == 15
    client.patch(path, 15, CONTENT[15:])
    assert content(app, app.record()["attachment"]) == CONTENT
