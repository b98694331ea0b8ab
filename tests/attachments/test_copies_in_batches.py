"""A batch that copies an attachment and changes what it copies: the copy has the file.

So has a record that gets its own attachment back, and a copy that another user changes.
"""

import pytest

from tests.support.app import ATTACHMENT, RECORD, App
from tests.support.legacy import make_legacy
from tests.support.postgresql import postgresql_backends
from tests.support.users import ALICE, BOB


COLLECTION = RECORD.rsplit("/", 2)[0]
BUCKET = "/buckets/blog"
COPIES = "/buckets/other/collections/photos/records"

OF_RECORDS = {
    "deletes it": [("DELETE", RECORD, None)],
    "deletes all records": [("DELETE", f"{COLLECTION}/records", None)],
    "detaches it": [("DELETE", ATTACHMENT, None)],
    "sets it to null": [("PATCH", RECORD, {"attachment": None})],
    "replaces its record": [("PUT", RECORD, {"title": "no attachment"})],
    "deletes it and makes it again": [("DELETE", RECORD, None), ("PUT", RECORD, {})],
}
OF_PARENTS = {
    "deletes its collection": [("DELETE", COLLECTION, None)],
    "deletes all collections": [("DELETE", f"{BUCKET}/collections", None)],
    "deletes its bucket": [("DELETE", BUCKET, None)],
    "deletes its bucket and sets it to null": [
        ("DELETE", BUCKET, None),
        ("PATCH", RECORD, {"attachment": None}),
    ],
    "deletes its bucket and makes it again": [
        ("DELETE", BUCKET, None),
        ("PUT", BUCKET, None),
        ("PUT", COLLECTION, None),
    ],
}
CASES = [
    pytest.param(user, steps, id=f"{user} {change}")
    for user, changes in (
        ("who may write the record", OF_RECORDS),
        ("who may write the bucket", OF_RECORDS | OF_PARENTS),
    )
    for change, steps in changes.items()
]


@pytest.fixture(
    scope="module", params=["memory", pytest.param("postgresql", marks=pytest.mark.external)]
)
def server(request, tmp_path_factory):
    settings = {}
    if request.param == "postgresql":
        settings = postgresql_backends(request.getfixturevalue("postgresql")())
    return App(tmp_path_factory.mktemp("batches") / "files", **settings)


@pytest.fixture
def user(request, server):
    """Bob, who attaches a file: to a record of his own, or with the permission on the bucket."""
    server.reset()
    server.create_collection()
    server.create_collection("other", headers=BOB)
    bob = server.get("/", headers=BOB).json["user"]["id"]
    if request.param == "who may write the record":
        url, permissions = COLLECTION, {"record:create": [bob]}
    else:
        url, permissions = BUCKET, {"write": [bob]}
    server.patch_json(url, {"permissions": permissions}, headers=ALICE)
    server.upload(headers=BOB)
    yield request.param
    server.reset()


def batch(server, steps):
    """Return the statuses of the responses to requests of Bob, or of whom they name."""
    requests = [
        {
            "method": method,
            "path": path,
            "headers": headers[0] if headers else {},
            **({} if data is None else {"body": {"data": data}}),
        }
        for method, path, data, *headers in steps
    ]
    answers = server.post_json("/batch", {"requests": requests}, headers=BOB).json["responses"]
    server.wait_for_deletions()
    return [one["status"] for one in answers]


def copying(server, headers=BOB):
    """Return the step that copies the attachment."""
    attachment = server.get(RECORD, headers=headers).json["data"]["attachment"]
    return "PUT", f"{COPIES}/copy", {"attachment": attachment}


@pytest.mark.parametrize("is_legacy", [False, True], ids=["link", "link of an earlier plugin"])
@pytest.mark.parametrize("is_first", [True, False], ids=["after the copy", "before the copy"])
@pytest.mark.parametrize(("user", "steps"), CASES, indirect=["user"])
def test_the_copy_has_the_file(server, user, steps, is_first, is_legacy):
    copy = copying(server)
    if is_legacy:
        make_legacy(server)
    assert set(batch(server, [copy, *steps] if is_first else [*steps, copy])) <= {200, 201, 204}
    assert list(server.files().values()) == [b"once upon a time"]
    assert [link["record_uri"] for link in server.links()] == [f"{COPIES}/copy"]
    server.delete(f"{COPIES}/copy", headers=BOB)
    server.wait_for_deletions()
    assert (server.files(), server.links()) == ({}, [])


@pytest.mark.parametrize("is_legacy", [False, True], ids=["link", "link of an earlier plugin"])
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("change", OF_RECORDS)
@pytest.mark.parametrize("user", ["who may write the bucket"], indirect=True)
def test_a_record_gets_its_attachment_back(server, user, change, method, is_legacy):
    attachment = server.get(RECORD, headers=BOB).json["data"]["attachment"]
    if is_legacy:
        make_legacy(server)
    if method == "PATCH" and change.startswith("deletes"):
        method = "PUT"
    back = method, RECORD, {"attachment": attachment}
    assert set(batch(server, [*OF_RECORDS[change], back])) <= {200, 201, 204}
    assert list(server.files().values()) == [b"once upon a time"]
    server.delete(RECORD, headers=BOB)
    server.wait_for_deletions()
    assert (server.files(), server.links()) == ({}, [])


@pytest.mark.parametrize("is_legacy", [False, True], ids=["link", "link of an earlier plugin"])
@pytest.mark.parametrize("is_new", [False, True], ids=["existing record", "new record"])
@pytest.mark.parametrize("is_first", [True, False], ids=["after the copy", "before the copy"])
@pytest.mark.parametrize("user", ["who may write the record"], indirect=True)
def test_who_may_not_read_the_record_may_change_its_copy(server, user, is_first, is_new, is_legacy):
    server.delete(RECORD, headers=BOB)
    server.upload(headers=ALICE)
    alice = server.get("/", headers=ALICE).json["user"]["id"]
    server.patch_json("/buckets/other", {"permissions": {"write": [alice]}}, headers=BOB)
    if not is_new:
        server.put_json(f"{COPIES}/copy", headers=BOB)
    copy = (*copying(server, headers=ALICE), ALICE)
    if is_legacy:
        make_legacy(server)
    method = "PUT" if is_new and not is_first else "PATCH"
    change = method, f"{COPIES}/copy", {"title": "a"}
    assert set(batch(server, [copy, change] if is_first else [change, copy])) <= {200, 201}
    server.delete(RECORD, headers=ALICE)
    server.wait_for_deletions()
    assert list(server.files().values()) == [b"once upon a time"]
    assert [link["record_uri"] for link in server.links()] == [f"{COPIES}/copy"]


@pytest.mark.parametrize("is_legacy", [False, True], ids=["link", "link of an earlier plugin"])
@pytest.mark.parametrize("user", ["who may write the record"], indirect=True)
def test_who_may_not_change_the_record_gets_no_link_by_trying(server, user, is_legacy):
    server.delete(RECORD, headers=BOB)
    server.upload(headers=ALICE)
    copy = copying(server, headers=ALICE)
    if is_legacy:
        make_legacy(server)
    assert batch(server, [("PATCH", RECORD, {"title": "a"}), copy]) == [403, 201]
    assert [link["record_uri"] for link in server.links()] == [RECORD]
    server.delete(RECORD, headers=ALICE)
    server.wait_for_deletions()
    assert server.files() == {}
