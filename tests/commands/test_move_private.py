"""Moving files into private/, or out of it, with ``kinto-attachment move-private``."""

import signal
import subprocess
import sys
from unittest import mock

import pytest
import transaction
from kinto.core.storage.exceptions import BackendError

from kinto_attachment import deletions, retention
from kinto_attachment.commands import move_private
from kinto_attachment.commands.main import main
from kinto_attachment.deletions import Deletions
from kinto_attachment.links import Links
from kinto_attachment.storage.contract import StorageError
from tests.support.commands import COLLECTION, FILES_URL, write_ini
from tests.support.users import ALICE


API = "http://localhost:80/v1"
STORY = b"once upon a time"


class Killed(BaseException):
    """What ends a command at once, as a kill does."""


@pytest.fixture
def public(make_switched):
    """A deployment with public files, of which the collection becomes private."""
    return make_switched()


def locations(deployment, *records):
    return [deployment.record(one)["attachment"]["location"] for one in records]


def key_of(deployment, record="first"):
    uri = f"{COLLECTION}/records/{record}"
    (key,) = [one["location"] for one in deployment.links() if one["record_uri"] == uri]
    return key


def is_consistent(deployment):
    """Return whether a check finds nothing, and nothing waits for its deletion."""
    return deployment.check() == (0, {}) and deployment.app.released() == []


@pytest.mark.parametrize("place", ["folder", "S3", "GCS"])
def test_files_of_a_collection_that_became_private_are_moved(make_switched, place, external):
    deployment = make_switched(place)
    before = deployment.upload()
    record, key = deployment.record(), key_of(deployment)
    code, output = deployment.run("move-private")
    assert (code, output[-1]["counts"]) == (0, {"moved": 1})
    assert deployment.files() == {f"private/{key}": STORY}
    location = f"{API}{COLLECTION}/records/first/attachment"
    after = deployment.record()
    assert after["attachment"] == {**before, "location": location}
    assert after["last_modified"] > record["last_modified"]
    assert [one["attachment"] for one in deployment.links()] == [after["attachment"]]
    assert is_consistent(deployment)


@pytest.mark.parametrize("place", ["folder", "S3", "GCS"])
def test_files_of_a_collection_that_became_public_are_moved(make_switched, place, external):
    deployment = make_switched(place, is_private=True)
    before = deployment.upload()
    key = key_of(deployment)
    assert key.startswith("private/")
    code, output = deployment.run("move-private")
    assert (code, output[-1]["counts"]) == (0, {"moved": 1})
    public_key = key.removeprefix("private/")
    assert deployment.files() == {public_key: STORY}
    after = deployment.record()["attachment"]
    assert after == {**before, "location": FILES_URL + public_key}
    assert is_consistent(deployment)


def test_other_collections_stay_as_they_are(make_switched):
    deployment = make_switched(attachment__resources__blog__photos__downloads="public")
    deployment.upload()
    before = deployment.state()
    code, output = deployment.run("move-private")
    assert (code, output[-1]["counts"]) == (0, {})
    assert deployment.state() == before


def test_a_dry_run_reports_and_changes_nothing(public):
    public.upload()
    key, before = key_of(public), public.state()
    code, output = public.run("move-private", "--dry-run")
    assert (code, output[-1]["counts"]) == (0, {"to move": 1})
    assert (output[0]["key"], output[0]["to"]) == (key, f"private/{key}")
    assert public.state() == before


def test_a_second_run_changes_nothing(public):
    for number in range(7):
        public.upload(f"r{number}", b"%d" % number)
    public.run("move-private")
    before = public.state()
    code, output = public.run("move-private", "--jobs", "1")
    assert (code, output[-1]["counts"]) == (0, {})
    assert public.state() == before


def test_names_that_are_not_random_stay_distinct(make_switched):
    deployment = make_switched(attachment__randomize=False, attachment__folder="f")
    deployment.upload("first", b"1")
    deployment.upload("second", b"2")
    deployment.store.put("private/f/story.txt", b"of somebody else")
    deployment.run("move-private")
    files = deployment.files()
    assert len(files) == 3
    assert files.pop("private/f/story.txt") == b"of somebody else"
    assert {name.startswith("private/f/story-") for name in files} == {True}
    assert files[key_of(deployment, "first")] == b"1"
    assert files[key_of(deployment, "second")] == b"2"


def test_records_that_share_a_file_get_one_each(public):
    public.upload("first")
    public.copy("first", "second")
    public.run("move-private")
    files = public.files()
    assert files == {key_of(public, "first"): STORY, key_of(public, "second"): STORY}
    assert len(files) == 2
    assert is_consistent(public)


def test_a_shared_file_stays_for_the_record_of_a_public_collection(make_switched):
    settings = {"attachment__resources__blog__press__downloads": "public"}
    deployment = make_switched(**settings)
    attachment = deployment.upload("first")
    deployment.app.create_collection(collection="press")
    copy = "/buckets/blog/collections/press/records/first"
    deployment.app.put_json(copy, {"data": {"attachment": attachment}}, headers=ALICE)
    key = key_of(deployment, "first")
    deployment.run("move-private")
    assert deployment.files() == {key: STORY, f"private/{key}": STORY}
    assert deployment.app.record(copy)["attachment"] == attachment
    assert is_consistent(deployment)


def test_old_file_goes_at_once_whatever_is_kept_of_others(make_switched):
    deployment = make_switched(attachment__delete_after="1d", attachment__keep_old_files=True)
    deployment.upload()
    key = key_of(deployment)
    deployment.run("move-private")
    assert deployment.files() == {f"private/{key}": STORY}


def test_large_file_is_moved_in_a_fixed_amount_of_memory(public):
    content = bytes(range(256)) * (64 << 12)
    public.upload("first", content)
    sizes = []
    chunks_of = move_private.chunks_of

    def noted(files, key):
        for chunk in chunks_of(files, key):
            sizes.append(len(chunk))
            yield chunk

    with mock.patch.object(move_private, "chunks_of", noted):
        public.run("move-private")
    assert public.files() == {key_of(public): content}
    assert (sum(sizes), max(sizes)) == (len(content), 256 * 1024)


# Faults


def dying(step, is_before):
    """Return a context in which the command is killed before or after a step, once."""
    owner, name = step
    function = getattr(owner, name)

    def die(*args, **kwargs):
        if not is_before:
            function(*args, **kwargs)
        # What a kill leaves of the transaction.
        transaction.abort()
        raise Killed

    return mock.patch.object(owner, name, die)


STEPS = {
    "queued": (move_private.Mover, "_queue"),
    "copied": (move_private.Mover, "_copy"),
    "reclaimed": (Deletions, "reclaim"),
    "linked": (Links, "change"),
    "written": (move_private.Mover, "_write"),
}


@pytest.mark.parametrize("is_before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_private", [False, True], ids=["to private", "to public"])
def test_run_that_is_killed_is_continued_by_the_next(make_switched, step, is_before, is_private):
    deployment = make_switched(is_private=is_private)
    deployment.upload("first", b"1")
    deployment.upload("second", b"2")
    with (
        dying(STEPS[step], is_before),
        # A process that was killed cleans nothing up.
        mock.patch.object(move_private.Mover, "_delete_unlinked"),
        pytest.raises(Killed),
    ):
        deployment.run("move-private", "--jobs", "1")
    # Nothing is lost in between.
    for record, content in (("first", b"1"), ("second", b"2")):
        assert deployment.files()[key_of(deployment, record)] == content
    code, _ = deployment.run("move-private")
    assert code == 0
    files = deployment.files()
    assert sorted(files.values()) == [b"1", b"2"]
    assert {name.startswith("private/") for name in files} == {not is_private}
    assert files[key_of(deployment, "first")] == b"1"
    assert is_consistent(deployment)


DYING = """
import os, signal, sys
from kinto_attachment.commands import move_private
from kinto_attachment.commands.main import main
from kinto_attachment.deletions import Deletions
from kinto_attachment.links import Links
owners = {"Mover": move_private.Mover, "Deletions": Deletions, "Links": Links}
owner, name = owners[sys.argv[1]], sys.argv[2]
function = getattr(owner, name)

def die(*args, **kwargs):
    function(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, name, die)
main(["move-private", "--jobs", "1", "--ini", sys.argv[3]])
"""


@pytest.mark.parametrize("step", STEPS)
def test_process_that_is_killed_is_continued_by_another(public, step):
    public.upload("first", b"1")
    public.upload("second", b"2")
    owner, name = STEPS[step]
    command = [sys.executable, "-c", DYING, owner.__name__, name, public.ini]
    killed = subprocess.run(command, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for record, content in (("first", b"1"), ("second", b"2")):
        assert public.files()[key_of(public, record)] == content
    assert public.run("move-private")[0] == 0
    files = public.files()
    # A server deletes hidden ones, of killed writers, when it starts.
    files = {name: content for name, content in files.items() if not name.startswith(".")}
    assert files == {key_of(public, "first"): b"1", key_of(public, "second"): b"2"}
    assert all(name.startswith("private/") for name in files)
    code, found = public.check()
    assert (code, found.keys() <= {"incomplete-upload"}, public.app.released()) == (0, True, [])


def test_new_file_of_a_killed_run_is_deleted_without_another_run(public):
    public.upload()
    key = key_of(public)
    with (
        dying(STEPS["copied"], is_before=False),
        mock.patch.object(move_private.Mover, "_delete_unlinked"),
        pytest.raises(Killed),
    ):
        public.run("move-private", "--jobs", "1")
    assert public.files() == {key: STORY, f"private/{key}": STORY}
    # The server does that, an hour later.
    an_hour_later = retention.now() + 3_600_000
    with (
        mock.patch.object(retention, "now", lambda: an_hour_later),
        mock.patch.object(deletions, "SECONDS_BETWEEN_RETRIES", 0),
    ):
        public.app.registry.attachments.deletions.retry_pending()
        public.app.wait_for_deletions()
    assert public.files() == {key: STORY}


def test_record_that_changes_meanwhile_is_moved_as_it_is_then(public):
    public.upload()
    copy = move_private.Mover._copy
    changes = iter([lambda: public.upload("first", b"newer")])

    def change_meanwhile(self, *args):
        key = copy(self, *args)
        next(changes, lambda: None)()
        return key

    with mock.patch.object(move_private.Mover, "_copy", change_meanwhile):
        code, _ = public.run("move-private", "--jobs", "1")
    # The link of the new file is another one, of a later run.
    assert code == 0
    public.run("move-private")
    key = key_of(public)
    assert key.startswith("private/")
    assert public.files() == {key: b"newer"}
    assert is_consistent(public)


def test_fields_that_are_written_meanwhile_remain(public):
    public.upload()
    copy = move_private.Mover._copy

    def change_meanwhile(self, *args):
        key = copy(self, *args)
        url = f"{COLLECTION}/records/first"
        public.app.patch_json(url, {"data": {"title": "new"}}, headers=ALICE)
        return key

    with mock.patch.object(move_private.Mover, "_copy", change_meanwhile):
        assert public.run("move-private")[0] == 0
    assert public.record()["title"] == "new"
    assert public.files() == {key_of(public): STORY}


def test_record_that_is_deleted_meanwhile_leaves_nothing(public):
    public.upload()
    copy = move_private.Mover._copy

    def delete_meanwhile(self, *args):
        key = copy(self, *args)
        public.app.delete(f"{COLLECTION}/records/first", headers=ALICE)
        return key

    with mock.patch.object(move_private.Mover, "_copy", delete_meanwhile):
        assert public.run("move-private")[0] == 0
    assert public.files() == {}


@pytest.mark.parametrize("error", [StorageError("full"), BackendError(original=OSError("gone"))])
def test_error_leaves_the_file_where_it_was(public, error):
    public.upload()
    before = public.state()
    with mock.patch.object(Deletions, "reclaim", side_effect=error):
        code, output = public.run("move-private")
    assert (code, output[-1]["counts"]) == (1, {"left": 1})
    assert str(getattr(error, "original", error)) in output[0]["reason"]
    assert public.state() == before


def test_new_file_that_a_worker_deleted_is_noticed(public):
    public.upload()
    before = public.state()
    copy = move_private.Mover._copy

    def delete_meanwhile(self, *args):
        key = copy(self, *args)
        self.delete_leftovers()
        return key

    with mock.patch.object(move_private.Mover, "_copy", delete_meanwhile):
        assert public.run("move-private")[0] == 1
    assert public.state() == before
    assert public.run("move-private")[0] == 0


def test_damaged_file_is_left(public):
    public.upload()
    public.store.put(key_of(public), b"once upon a tim3")
    before = public.state()
    code, output = public.run("move-private")
    assert code == 1
    assert output[0]["reason"] == "the SHA-256 in the record is not the file's"
    assert public.state() == before


def test_missing_file_is_reported(public):
    public.upload()
    public.store.remove(key_of(public))
    code, output = public.run("move-private")
    assert (code, output[0]["reason"]) == (1, "the file does not exist")


def test_stale_link_is_left_to_a_repair(public):
    public.upload()
    public.sql("UPDATE objects SET data = data - 'attachment' WHERE resource_name = 'record'")
    before = public.state()
    code, output = public.run("move-private")
    assert code == 1
    assert "the record does not refer to it" in output[0]["reason"]
    assert public.state() == before


# Locations


def test_url_of_the_server_is_the_one_of_the_option(public):
    public.upload()
    public.run("move-private", "--server-url", "https://kinto.example.com/v1/")
    expected = f"https://kinto.example.com/v1{COLLECTION}/records/first/attachment"
    assert locations(public, "first") == [expected]


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_url_of_the_server_that_is_not_known_is_asked_for(public, capsys, dry_run):
    public.upload()
    write_ini(public.ini, public.app.settings | {"kinto.attachment.downloads": "private"})
    before = public.state()
    assert main(["move-private", "--ini", public.ini, *dry_run]) == 2
    assert "set --server-url" in capsys.readouterr().err
    assert public.state() == before


def test_url_of_the_server_is_that_of_the_files_that_it_serves(make_switched):
    deployment = make_switched(attachment__base_url="", attachment__serve_files=True)
    changed = {"kinto.attachment.downloads": "private"}
    write_ini(deployment.ini, deployment.app.settings | changed)
    before = deployment.upload()
    deployment.run("move-private")
    record = f"{COLLECTION}/records/first"
    (location,) = locations(deployment, "first")
    assert (
        location
        == deployment.app.upload(url=f"{record}/attachment")
        .json["location"]
        .split("/__files__/")[0]
        + f"{record}/attachment"
    )
    assert before["location"].split("/__files__/")[0] in location


@pytest.mark.parametrize("base_url", ["", "/files/"])
def test_relative_locations_stay_relative(make_switched, base_url):
    deployment = make_switched(attachment__base_url=base_url)
    before = deployment.upload()
    deployment.run("move-private")
    assert locations(deployment, "first") == [f"/v1{COLLECTION}/records/first/attachment"]
    write_ini(deployment.ini, deployment.app.settings | {"kinto.attachment.downloads": "public"})
    del deployment.app.opened
    deployment.run("move-private")
    assert locations(deployment, "first") == [before["location"]]
    assert is_consistent(deployment)


def test_option_without_a_scheme_is_wrong_usage(public):
    with pytest.raises(SystemExit) as error:
        main(["move-private", "--ini", public.ini, "--server-url", "kinto.example.com"])
    assert error.value.code == 2
