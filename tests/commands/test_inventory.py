"""All that ``check`` reads: every page, while it changes, and what it cannot compare."""

import os
import random
import threading
from types import SimpleNamespace

import requests

from kinto_attachment.commands import problems, rows
from kinto_attachment.storage.contract import StorageError, StoredFile
from tests.support.commands import COLLECTION, Deployment, Folder, in_pages
from tests.support.faults import ORPHAN, is_sound, location, lose_link, make_link_legacy
from tests.support.postgresql import postgresql_backends
from tests.support.s3 import eventually
from tests.support.settings import unprefixed
from tests.support.users import ALICE


def test_an_upload_in_progress_is_reported_and_left(either):
    storage = either.app.registry.attachments.files
    staged = storage.stage(ORPHAN, "text/plain", unique=True)
    staged.write(b"x" * 11 * 1024**2)
    code, found = either.check()
    assert (code, list(found)) == (0, [problems.INCOMPLETE_UPLOAD.name])
    assert either.repair("--delete-files")[0] == 0
    assert staged.publish() == ORPHAN
    assert either.files()[ORPHAN] == b"x" * 11 * 1024**2
    either.store.remove(ORPHAN)


def test_a_storage_that_lists_no_incomplete_uploads_is_no_fault(deployment, monkeypatch):
    deployment.upload()
    lose_link(deployment)
    storage = deployment._open_once(deployment.ini).files

    def incomplete_uploads():
        yield StoredFile(".staging/a", 1, 0.0)
        raise StorageError("not implemented")

    monkeypatch.setattr(storage, "incomplete_uploads", incomplete_uploads)
    code, output = deployment.run("check", "--grace", "0")
    assert (code, [one["what"] for one in output]) == (
        1,
        [
            problems.MISSING_LINK.name,
            problems.INCOMPLETE_UPLOAD.name,
            problems.INCOMPLETE_UPLOADS_UNKNOWN.name,
            "summary",
        ],
    )
    assert output[2]["because"] == "not implemented"
    assert deployment.repair() == (0, {"repaired": [problems.MISSING_LINK.name]})
    assert list(deployment.check()[1]) == [
        problems.INCOMPLETE_UPLOAD.name,
        problems.INCOMPLETE_UPLOADS_UNKNOWN.name,
    ]


def test_attachments_that_are_not_in_this_storage_are_counted(deployment):
    url = f"{COLLECTION}/records/foreign"
    elsewhere = {"location": "https://example.org/cat.jpg", "hash": "0" * 64, "size": 1}
    deployment.app.put_json(url, {"data": {"attachment": elsewhere}}, headers=ALICE)
    deployment.app.put_json(f"{url}2", {"data": {"attachment": "text"}}, headers=ALICE)
    code, output = deployment.run("check", "--grace", "0")
    assert code == 0
    assert [one["what"] for one in output] == ["summary"]
    assert output[0]["unlocated"] == 2


ODD_ATTACHMENTS = [
    *(None, {}, [], "", 0, 0.0, False, True, 7, "text", ["location"], [["location", "a.txt"]]),
    *(
        {"location": odd}
        for odd in (None, 5, "", "/", "a.txt", ["a.txt"], {"a": 1}, "h//a%20b.txt")
    ),
    *({"location": "a.txt", "size": odd} for odd in (1, 1.0, -1, True, "1", 2**63, 1e3, [1], None)),
    *({"location": "a.txt", "hash": odd} for odd in ("0", 0, None, ["0"], '\\ "é\n\t|', "")),
    {"location": "a.txt", "mimetype": 5, "filename": "\N{SNOWMAN} \\N"},
]


def test_odd_attachments_have_the_same_rows_in_pages(make_deployment):
    """Also those of other links, of records that were deleted, and of records without parents."""
    deployment = make_deployment(attachment__base_url="https://example.org/")
    deployment.upload()
    deployment.upload("second")
    for number, attachment in enumerate(ODD_ATTACHMENTS):
        body = {"data": {"attachment": attachment}}
        deployment.app.put_json(f"{COLLECTION}/records/odd{number}", body, headers=ALICE)
    make_link_legacy(deployment)
    deployment.app.create_collection(collection="gone")
    deployment.app.delete("/buckets/blog/collections/gone", headers=ALICE)
    deployment.sql(
        "INSERT INTO objects (id, parent_id, resource_name, data, deleted) "
        "SELECT 'left', '/buckets/blog/collections/gone', resource_name, data, FALSE "
        "FROM objects WHERE id = 'second'"
    )
    deployment.app.delete(f"{COLLECTION}/records/odd8", headers=ALICE)
    server = deployment._open_once(deployment.ini)
    streamed = list(rows.links(server)), list(rows.records(server))
    with in_pages():
        paged = list(rows.links(server)), list(rows.records(server))
    assert [comparable(found) for found in paged] == [comparable(found) for found in streamed]
    assert len(paged[0]) == 2
    assert len(paged[1]) == 2 + len([one for one in ODD_ATTACHMENTS if one]) - 1
    assert list(deployment.check()[1]) == [problems.LEGACY_LINK.name]


def comparable(found):
    """Return rows in an order, with numbers for the texts of the same attachment."""
    found = sorted(found, key=lambda row: row[1])
    texts = list(dict.fromkeys(row[2] for row in found))
    return [
        (*row[:2], row[2] and texts.index(row[2]), *row[3:-1], round(row[-1], 2)) for row in found
    ]


def test_a_record_without_file_and_link_is_unverified(make_deployment):
    deployment = make_deployment(attachment__base_url="https://example.org/")
    deployment.upload()
    name = location(deployment)
    deployment.store.remove(name)
    lose_link(deployment)
    assert deployment.check() == (0, {problems.UNVERIFIED_ATTACHMENT.name: [name]})


def test_all_pages_are_read(deployment, monkeypatch):
    monkeypatch.setattr("kinto_attachment.paging.PAGE_SIZE", 3)
    for number in range(8):
        deployment.upload(f"r{number}")
    deployment.sql(
        "UPDATE objects SET resource_name = '', parent_id = '__attachments__' WHERE id IN "
        "(SELECT id FROM objects WHERE resource_name = 'attachments' ORDER BY id LIMIT 4)"
    )
    code, output = deployment.run("check", "--grace", "0")
    assert output[-1] | {"links": 8, "records": 8, "files": 8} == output[-1]


def test_all_links_to_one_file_are_read(deployment, monkeypatch):
    """They have the same id, which continues on the next page."""
    monkeypatch.setattr("kinto_attachment.paging.PAGE_SIZE", 3)
    deployment.upload()
    for number in range(7):
        deployment.copy("first", f"copy{number}")
    code, output = deployment.run("check", "--grace", "0")
    assert (code, output[-1]["links"], output[-1]["records"]) == (0, 8, 8)


def test_all_is_found_if_kinto_returns_less_than_a_page(make_deployment):
    """All lists, also that of legacy links, are longer."""
    old, new = "https://old.example.org/", "https://new.example.org/"
    deployment = make_deployment(storage_max_fetch_size="10", attachment__base_url=old)
    uris = [f"{COLLECTION}/records/r{number}" for number in range(26)]
    for uri in uris:
        deployment.upload(uri.rpartition("/")[2])
    deployment.sql(
        "UPDATE objects SET parent_id = '__attachments__', data = data - 'attachment' - 'origin' "
        "WHERE resource_name = 'attachments'"
    )
    code, output = deployment.run("relocate", "--base-url", old, new)
    assert (code, output[-1]["counts"]) == (0, {"relocated": 26})
    code, found = deployment.check("--hash")
    assert (code, {kind: len(names) for kind, names in found.items()}) == (
        0,
        {problems.LEGACY_LINK.name: 26},
    )
    assert deployment.repair() == (0, {"repaired": [problems.LEGACY_LINK.name] * 26})
    assert deployment.sql("DELETE FROM objects WHERE resource_name = 'attachments'") == 26
    code, done = deployment.repair()
    assert (code, done) == (0, {"repaired": [problems.MISSING_LINK.name] * 26})
    assert deployment.sql("DELETE FROM objects WHERE resource_name = 'record'") == 26
    code, done = deployment.repair()
    assert (code, done) == (0, {"repaired": [problems.STALE_LINK.name] * 26})
    assert (deployment.files(), deployment.check()) == ({}, (0, {}))


def test_every_link_of_a_record_is_checked(make_deployment):
    """Earlier plugins may not have removed them."""
    deployment = make_deployment(storage_max_fetch_size="2")
    deployment.upload()
    for number in range(5):
        deployment.sql(
            "INSERT INTO objects (id, parent_id, resource_name, data, deleted) "
            "SELECT :id, '__attachments__', 'attachments', data - 'attachment' - 'origin' "
            "|| jsonb_build_object('location', :id), FALSE FROM objects "
            "WHERE resource_name = 'attachments' AND parent_id != '__attachments__'",
            id=f"old{number}.txt",
        )
    code, found = deployment.check()
    assert (code, len(found[problems.DANGLING_LINK.name])) == (1, 5)
    assert deployment.repair() == (0, {"repaired": [problems.DANGLING_LINK.name] * 5})
    assert is_sound(deployment)


def test_a_check_during_changes_finds_nothing(serve, database, tmp_path, capsys):
    """Files are stored and deleted continually, many of them older than the grace period."""
    server = serve("granian", **unprefixed(postgresql_backends(database)))
    app = SimpleNamespace(settings=postgresql_backends(database))
    deployment = Deployment(app, tmp_path, Folder(tmp_path / "files").files, capsys)
    deployment.ini = str(server.ini)
    url = f"{server.url}{COLLECTION}"
    auth = ("alice", "secret")
    requests.put(f"{server.url}/buckets/blog", auth=auth, timeout=30).raise_for_status()
    requests.put(url, auth=auth, timeout=30).raise_for_status()
    stop = threading.Event()
    done, deleted = [], []

    def work(number):
        with requests.Session() as session:
            session.auth = auth
            while not stop.is_set():
                # Rarely the same one, so that deleted files are older than the grace period.
                at = f"{url}/records/{number}-{random.randrange(40)}"
                files = {"attachment": ("a.txt", os.urandom(100), "text/plain")}
                done.append(session.post(f"{at}/attachment", files=files, timeout=30).status_code)
                done.append(session.get(at, timeout=30).status_code)
                if len(done) % 3 == 0:
                    deleted.append(session.delete(at, timeout=30).status_code)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert eventually(lambda: len(done) > 100)
        compared = 0
        for _ in range(3):
            seen = len(done)
            code, output = deployment.run("check", "--grace", "1s", "--hash")
            assert code == 0
            # A pending deletion is reported, and no fault.
            assert {one["what"] for one in output} <= {problems.PENDING_DELETION.name, "summary"}
            compared += output[-1]["files"]
            assert eventually(lambda seen=seen: len(done) > seen + 10)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(done) <= {200, 201}
        # Kinto answers 409 if two changes of a collection get the same timestamp.
        assert set(deleted) <= {200, 409}
        assert compared > 30
        # The server deletes after it has answered.
        queued = "SELECT FROM objects WHERE resource_name = 'attachment-releases' AND NOT deleted"
        assert eventually(lambda: deployment.sql(queued) == 0)
        assert deployment.check("--hash") == (0, {})
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        deployment.close()


def test_changes_while_the_inventory_is_read_are_no_problems(deployment, monkeypatch):
    """What was read before a change does not match what is read after it."""
    for record in ("replaced", "deleted", "replaced-later", "deleted-later"):
        deployment.upload(record)

    def change_before(name, suffix):
        original = getattr(rows, name)

        def changed(server):
            thread = threading.Thread(target=change, args=[suffix])
            thread.start()
            thread.join()
            return original(server)

        monkeypatch.setattr(rows, name, changed)

    def change(suffix):
        deployment.upload(f"replaced{suffix}", b"another")
        deployment.app.delete(f"{COLLECTION}/records/deleted{suffix}", headers=ALICE)
        # What waits for the next batch of deletions is reported.
        deployment.app.wait_for_deletions()

    change_before("links", "")
    change_before("records", "-later")
    code, output = deployment.run("check", "--grace", "0", "--hash")
    assert (code, [one["what"] for one in output]) == (0, ["summary"])
    assert is_sound(deployment)
