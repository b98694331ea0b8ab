"""Files that are not where their collections have them: what ``kinto-attachment check`` says."""

import itertools
import shlex
from unittest import mock

import pytest

from kinto_attachment.commands import check, problems
from kinto_attachment.commands.main import main
from kinto_attachment.commands.misplaced import record_ranges
from kinto_attachment.settings.read import read_settings
from tests.support.commands import COLLECTION, write_ini
from tests.support.faults import location, lose_link
from tests.support.forms import file_part
from tests.support.users import ALICE


MISPLACED = problems.MISPLACED_FILES.name


def misplaced(deployment):
    """Return ``{collection: (downloads, files)}`` of the findings of a check."""
    code, found = deployment.check()
    assert (code, set(found)) in ((0, set()), (0, {MISPLACED}))
    output = deployment.run("check", "--grace", "0")[1][:-1]
    assert all(one["severity"] == "informational" for one in output)
    return {one["collection"]: (one["downloads"], one["files"]) for one in output}


@pytest.mark.parametrize("place", ["folder", "S3", "GCS"])
@pytest.mark.parametrize("is_private", [False, True])
def test_files_of_a_collection_whose_setting_changed_are_counted_until_they_are_moved(
    make_switched, place, is_private, external
):
    deployment = make_switched(place, is_private)
    deployment.upload("first", b"12345")
    deployment.upload("second", b"1234567")
    after = "public" if is_private else "private"
    assert misplaced(deployment) == {COLLECTION: (after, 2)}
    (finding,) = deployment.run("check", "--grace", "0")[1][:-1]
    program, *command = shlex.split(finding["next"])
    assert (program, command) == ("kinto-attachment", ["move-private", "--ini", deployment.ini])
    assert deployment.run(*command)[1][-1]["counts"] == {"moved": 2}
    assert misplaced(deployment) == {}


def test_the_finding_names_the_next_command_and_no_restore(make_switched, capsys):
    deployment = make_switched()
    deployment.upload()
    with mock.patch.object(check, "open_server", deployment._open_once):
        assert main(["check", "--grace", "0", "--ini", deployment.ini]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line == (
        f"misplaced-files: folder {deployment.app.folder} (these files are not where the setting "
        f"downloads of their collection has them, collection {COLLECTION}, downloads private, "
        f"files 1); next: kinto-attachment move-private --ini {deployment.ini}"
    )


def test_files_are_counted_by_collection_as_move_private_moves_them(make_switched):
    buckets = ("blog", "blog0", "blog-x", "other")
    deployment = make_switched(attachment__resources__other__downloads="public")
    collections = [(b, c) for b in buckets for c in ("photos", "photos0", "photos-x")]
    for bucket, collection in collections:
        deployment.app.create_collection(bucket, collection)
        url = f"/buckets/{bucket}/collections/{collection}/records/first/attachment"
        deployment.app.upload(file_part(b"story"), url=url)
    changed = {
        "kinto.attachment.downloads": "private",
        "kinto.attachment.resources.blog.downloads": "public",
        "kinto.attachment.resources.blog.photos.downloads": "private",
        "kinto.attachment.resources.other.downloads": "public",
        "kinto.attachment.resources.other.photos0.downloads": "private",
    }
    write_ini(deployment.ini, deployment.app.settings | changed)
    expected = {("blog", "photos"), ("other", "photos0")}
    expected |= {(b, c) for b, c in collections if b in ("blog0", "blog-x")}
    assert misplaced(deployment) == {
        f"/buckets/{bucket}/collections/{collection}": ("private", 1)
        for bucket, collection in expected
    }
    to_move = deployment.run("move-private", "--dry-run", "--server-url", "https://k.example/v1")
    assert to_move[1][-1]["counts"] == {"to move": len(expected)}


def test_a_shared_file_is_misplaced_for_one_of_its_records(make_switched):
    deployment = make_switched(attachment__resources__blog__shown__downloads="public")
    attachment = deployment.upload()
    deployment.app.create_collection(collection="shown")
    body = {"data": {"attachment": attachment}}
    deployment.app.put_json("/buckets/blog/collections/shown/records/copy", body, headers=ALICE)
    assert misplaced(deployment) == {COLLECTION: ("private", 1)}


def test_a_file_without_a_link_is_not_counted_as_it_is_not_moved(make_switched):
    deployment = make_switched()
    deployment.upload("second")
    deployment.upload("first")
    lose_link(deployment)
    code, output = deployment.run("check", "--grace", "0")
    assert [one["what"] for one in output[:-1]] == [problems.MISSING_LINK.name, MISPLACED]
    assert output[1]["files"] == 1
    assert deployment.run("move-private", "--dry-run")[1][-1]["counts"] == {"to move": 1}


def test_young_files_are_counted_as_they_are_moved_too(make_switched):
    deployment = make_switched()
    deployment.upload()
    assert deployment.run("check")[1][0]["what"] == MISPLACED


def test_repair_says_nothing_of_them(make_switched):
    deployment = make_switched()
    deployment.upload()
    before = deployment.state()
    assert deployment.repair() == (0, {})
    assert deployment.state() == before


def test_key_is_private_in_upper_case_too(make_switched):
    deployment = make_switched(attachment__folder="earlier")
    deployment.upload()
    key = location(deployment)
    assert list(misplaced(deployment)) == [COLLECTION]
    deployment.sql(
        "UPDATE objects SET data = replace(data::text, 'earlier/', 'Private/')::jsonb "
        "WHERE data::text LIKE '%earlier/%'"
    )
    deployment.store.put(key.replace("earlier/", "Private/"), b"once upon a time")
    deployment.store.remove(key)
    assert misplaced(deployment) == {}


def test_ranges_of_records_have_the_setting_of_their_collections():
    names = ("a", "a0", "a-", "a_", "aa", "b")
    settings = read_settings(
        {
            "attachment.base_path": "/files",
            "attachment.downloads": "private",
            "attachment.resources.a.downloads": "public",
            "attachment.resources.a.a.downloads": "private",
            "attachment.resources.a.aa.downloads": "private",
            "attachment.resources.a0.a.downloads": "public",
            "attachment.resources.b.b.downloads": "public",
            "userid_hmac_secret": "for the tests",
        }
    )
    ranges = list(record_ranges(settings))
    for bucket, collection, record in itertools.product(names, names, ("-", "zz")):
        uri = f"/buckets/{bucket}/collections/{collection}/records/{record}"
        found = [downloads for first, end, downloads in ranges if first <= uri < end]
        assert found == [settings.for_collection(bucket, collection).downloads], uri
