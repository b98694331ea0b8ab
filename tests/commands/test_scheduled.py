"""What the commands do with files whose deletion is scheduled (``delete_after``)."""

import pytest

from kinto_attachment.commands import problems
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.local import LocalStorage
from tests.support.commands import COLLECTION
from tests.support.faults import lose_record
from tests.support.users import ALICE


SCHEDULED = problems.DELETION_SCHEDULED.name


@pytest.fixture
def deployment(make_deployment):
    """A deployment with two scheduled deletions, of files of 5 and 7 bytes, and one record."""
    deployment = make_deployment(attachment__delete_after="7d")
    for record, content in (("first", b"first"), ("second", b"another"), ("third", b"stays")):
        deployment.upload(record, content)
    for record in ("first", "second"):
        deployment.app.delete(f"{COLLECTION}/records/{record}", headers=ALICE)
    return deployment


WEEK = 7 * 24 * 60


def let_time_pass(deployment, minutes):
    deployment.sql(
        "UPDATE objects SET last_modified = last_modified - make_interval(mins => :minutes), "
        "data = jsonb_set(data, '{due}', to_jsonb((data->'due')::bigint - :minutes * 60000)) "
        "WHERE resource_name = 'attachment-releases'",
        minutes=minutes,
    )


def test_scheduled_deletions_are_counted_and_no_fault(deployment):
    code, output = deployment.run("check")
    assert code == 0
    (finding,) = output[:-1]
    assert (finding["what"], finding["files"], finding["size"]) == (SCHEDULED, 2, 12)
    assert finding["severity"] == "informational"
    assert finding["next"] == f"kinto-attachment repair --now --ini {deployment.ini}"


def test_a_file_to_which_a_record_refers_is_not_counted(deployment):
    deployment.copy("third", "copy")
    deployment.app.delete(f"{COLLECTION}/records/third", headers=ALICE)
    assert len(deployment.app.released()) == 3
    (finding,) = deployment.run("check")[1][:-1]
    assert finding["files"] == 2


def test_a_repair_leaves_them_for_their_time(deployment):
    before = deployment.state()
    assert deployment.repair() == (0, {"left": [SCHEDULED]})
    assert deployment.repair("--now", "--dry-run") == (0, {"to repair": [SCHEDULED]})
    assert deployment.state() == before


def test_a_repair_deletes_them_now_on_request(deployment):
    deployment.copy("third", "copy")
    deployment.app.delete(f"{COLLECTION}/records/third", headers=ALICE)
    assert deployment.repair("--now") == (0, {"repaired": [SCHEDULED]})
    assert list(deployment.files().values()) == [b"stays"]
    assert deployment.app.released() == []
    assert deployment.check() == (0, {})


def test_a_repair_says_which_files_cannot_be_deleted_now(deployment, monkeypatch, caplog):
    def fail(self, keys):
        return {key: StorageError("not today") for key in keys}

    monkeypatch.setattr(LocalStorage, "delete_many", fail)
    assert deployment.repair("--now") == (0, {"left": [SCHEDULED]})
    assert caplog.text.count("could not be deleted") == 2
    assert len(deployment.app.released()) == 2


def test_a_deletion_is_overdue_after_it_was_due(deployment):
    let_time_pass(deployment, minutes=WEEK + 30)
    code, output = deployment.run("check")
    assert (code, [one["what"] for one in output[:-1]]) == (0, ["pending-deletion"] * 2)
    let_time_pass(deployment, minutes=60)
    code, output = deployment.run("check")
    assert (code, [one["what"] for one in output[:-1]]) == (1, ["overdue-deletion"] * 2)
    assert deployment.run("repair")[0] == 0
    assert list(deployment.files().values()) == [b"stays"]


def test_retries_that_fail_do_not_hide_that_a_deletion_is_overdue(deployment, monkeypatch):
    def fail(keys):
        return {key: StorageError("not today") for key in keys}

    let_time_pass(deployment, minutes=WEEK + 120)
    with monkeypatch.context() as patch:
        patch.setattr(deployment.app.registry.attachments.files, "delete_many", fail)
        patch.setattr("kinto_attachment.deletions.SECONDS_BETWEEN_RETRIES", 0)
        deployment.app.retry_deletions()
    assert len(deployment.app.released()) == 2
    code, output = deployment.run("check")
    assert (code, [one["what"] for one in output[:-1]]) == (1, ["overdue-deletion"] * 2)


def test_the_file_of_a_lost_record_is_scheduled(deployment):
    deployment.repair("--now")
    deployment.upload("first", b"lost")
    lose_record(deployment)
    assert deployment.repair() == (0, {"repaired": ["stale-link"]})
    assert deployment.files() != {}
    assert list(deployment.check()[1]) == [SCHEDULED]
