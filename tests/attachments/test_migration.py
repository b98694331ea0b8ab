"""``kinto migrate``: links of earlier plugins become ours, whenever and however often it runs."""

import pytest
import sqlalchemy
import transaction
from kinto.core.events import ResourceChanged
from kinto.core.scripts import migrate

from kinto_attachment import listeners, migration
from kinto_attachment.background import in_background
from tests.support.app import RECORD, App
from tests.support.legacy import make_legacy
from tests.support.postgresql import postgresql_backends, wait_for_lock
from tests.support.users import ALICE


RECORDS = "/buckets/blog/collections/photos/records"


@pytest.fixture
def app(tmp_path, postgresql, monkeypatch):
    monkeypatch.setattr(migration, "BATCH_SIZE", 2)
    app = App(tmp_path / "files", **postgresql_backends(postgresql()))
    app.create_collection()
    return app


def legacy(app):
    transaction.abort()
    found = [link for page in app.registry.attachments.links.legacy.pages() for link in page]
    transaction.abort()
    return found


def run(app, caplog, dry_run=False):
    caplog.clear()
    # Commands that other tests run set how much the plugin logs.
    caplog.set_level("INFO", migration.__name__)
    migrate({"registry": app.registry}, dry_run=dry_run)
    return [one.getMessage() for one in caplog.records if one.name == migration.__name__]


@pytest.mark.parametrize("resource", ["attachments", ""])
def test_all_links_become_ours(app, caplog, resource):
    for number in range(5):
        app.upload(url=f"{RECORDS}/{number}/attachment")
    before = sorted(app.links(), key=lambda link: link["record_uri"])
    make_legacy(app, resource)
    assert run(app, caplog)[-1] == "5 links of earlier plugins were migrated"
    assert legacy(app) == []
    after = sorted(app.links(), key=lambda link: link["record_uri"])
    without_time = [
        [{k: v for k, v in link.items() if k != "last_modified"} for link in links]
        for links in (before, after)
    ]
    assert without_time[0] == without_time[1]


def test_several_links_of_a_record_to_its_file_become_one(app, caplog):
    app.upload()
    expected = make_legacy(app)
    (link,) = legacy(app)
    again = {name: value for name, value in link.items() if name not in ("id", "last_modified")}
    app.registry.storage.create("attachments", "__attachments__", again)
    transaction.commit()
    assert run(app, caplog)[-1] == "2 links of earlier plugins were migrated"
    assert [link["record_uri"] for link in app.links()] == expected


def test_links_of_several_collections_are_migrated_together(app, caplog):
    app.create_collection(collection="others")
    for collection in ("photos", "others"):
        app.upload(url=f"/buckets/blog/collections/{collection}/records/first/attachment")
    make_legacy(app)
    assert run(app, caplog)[-1] == "2 links of earlier plugins were migrated"
    described = {link["record_uri"]: link["attachment"] for link in app.links()}
    assert described == {uri: app.record(uri)["attachment"] for uri in described}
    assert len(described) == 2


def test_a_dry_run_changes_nothing_and_says_what_would_be(app, caplog):
    app.upload()
    make_legacy(app)
    assert run(app, caplog, dry_run=True)[-1] == "1 links of earlier plugins would be migrated"
    assert len(legacy(app)) == 1


def test_a_link_whose_record_refers_to_no_file_stays(app, caplog):
    app.upload()
    make_legacy(app)
    app.registry.storage.update("record", RECORDS.removesuffix("/records"), "first", {"a": 1})
    transaction.commit()
    assert "1 links of earlier plugins stay" in run(app, caplog)[-1]
    assert len(legacy(app)) == 1


def test_it_goes_on_where_it_was_interrupted(app, caplog, monkeypatch):
    for number in range(5):
        app.upload(url=f"{RECORDS}/{number}/attachment")
    expected = make_legacy(app)
    upgrade, batches = app.registry.attachments.links.upgrade, []

    def interrupted(described):
        batches.append(described)
        if len(batches) == 2:
            upgrade(described)
            raise KeyboardInterrupt
        return upgrade(described)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(app.registry.attachments.links, "upgrade", interrupted)
        run(app, caplog)
    assert len(legacy(app)) == 3
    assert run(app, caplog)[-1] == "3 links of earlier plugins were migrated"
    assert sorted(link["record_uri"] for link in app.links()) == expected


def test_a_file_goes_with_its_record_after_the_migration(app, caplog):
    app.upload()
    make_legacy(app)
    run(app, caplog)
    app.delete(RECORD, headers=ALICE)
    assert (app.files(), app.links(), legacy(app)) == ({}, [], [])


def test_a_simulation_on_an_empty_database_is_no_failure(tmp_path, postgresql, caplog):
    app = App(tmp_path / "files", **postgresql_backends(postgresql()))
    with app.registry.storage.client.connect(force_commit=True) as session:
        session.execute(sqlalchemy.text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    assert run(app, caplog, dry_run=True) == []


def test_a_read_only_server_is_not_migrated(app, caplog, tmp_path):
    app.upload()
    make_legacy(app)
    reading = App(tmp_path / "files", **app.settings | {"kinto.readonly": "true"})
    assert run(reading, caplog) == []
    assert len(legacy(app)) == 1


class TestBesideRunningServers:
    """A change that begins within a batch waits for its end, and then sees the migrated links."""

    @pytest.fixture
    def migrate_beside(self, app, caplog, monkeypatch):
        def migrate_beside(change):
            app.upload()
            attachment = app.record()["attachment"]
            make_legacy(app)
            upgrade, changing = app.registry.attachments.links.upgrade, []

            def upgrade_slowly(described):
                changing.append(in_background(lambda: change(attachment)))
                wait_for_lock(app)
                return upgrade(described)

            monkeypatch.setattr(app.registry.attachments.links, "upgrade", upgrade_slowly)
            run(app, caplog)
            changing[0].result(60)
            return attachment

        return migrate_beside

    def test_a_copy_by_code_on_the_server_keeps_the_file(self, app, migrate_beside):
        def copy(attachment):
            request = app.app.request_factory.blank("/v1/")
            request.registry, request.bound_data = app.registry, {}
            request._attachment_auto_save = True
            with transaction.manager:
                new = {"id": "other", "attachment": attachment}
                collection_uri = RECORDS.removesuffix("/records")
                app.registry.storage.update("record", collection_uri, "other", dict(new))
                payload = {"bucket_id": "blog", "collection_id": "photos", "action": "create"}
                payload["resource_name"] = "record"
                listeners.on_records_changed(ResourceChanged(payload, [{"new": new}], request))

        attachment = migrate_beside(copy)
        app.delete(RECORD, headers=ALICE)
        assert [link["record_uri"] for link in app.links()] == [f"{RECORDS}/other"]
        assert list(app.files()) == [attachment["location"]]

    @pytest.mark.parametrize("url", ["/buckets/blog", "/buckets/blog/collections/photos", RECORD])
    def test_a_deletion_leaves_neither_file_nor_link(self, app, migrate_beside, url):
        migrate_beside(lambda attachment: app.delete(url, headers=ALICE))
        transaction.abort()
        assert (app.files(), app.links(), app.released()) == ({}, [], [])
