"""Who holds a file by a copy of its metadata: who may read a record that has it."""

import pytest
from kinto.core.events import ACTIONS

from tests.support.app import RECORD, App
from tests.support.forms import file_part
from tests.support.postgresql import postgresql_backends
from tests.support.settings import unprefixed
from tests.support.users import ALICE, BOB


COPY = "/buckets/bob/collections/photos/records/copy"


@pytest.fixture
def attached(app):
    """A Kinto with a private record of Alice's, and a collection of Bob's."""
    app.create_collection("bob", headers=BOB)
    app.upload()
    return app


def copy(app, attachment, headers=BOB, **kwargs):
    return app.put_json(COPY, {"data": {"attachment": attachment}}, headers=headers, **kwargs)


def share(app, permissions, url=RECORD):
    app.patch_json(url, {"permissions": permissions}, headers=ALICE)


def bob(app):
    return app.get("/", headers=BOB).json["user"]["id"]


class TestStrangers:
    def test_a_copy_of_a_private_attachment_does_not_hold_the_file(self, attached):
        attachment = attached.record()["attachment"]
        copy(attached, attachment, status=201)
        assert [link["record_uri"] for link in attached.links()] == [RECORD]
        attached.delete(RECORD, headers=ALICE)
        assert (attached.files(), attached.links()) == ({}, [])

    def test_a_right_guess_is_answered_like_a_wrong_one(self, make_app, postgresql):
        app = make_app(**unprefixed(postgresql_backends(postgresql())))
        app.create_collection("bob", headers=BOB)
        app.upload()
        attachment = app.record()["attachment"]
        app.upload(file_part(b"his own"), url=f"{COPY}/attachment", headers=BOB)
        for guess in (attachment, {**attachment, "size": 1}):
            copy(app, guess, status=400)
        app.delete(f"{COPY}/attachment", headers=BOB)
        for guess in (attachment, {**attachment, "size": 1}):
            copy(app, guess, status=200)
            app.patch_json(COPY, {"data": {"attachment": {"a": 1}}}, headers=BOB, status=200)

    def test_a_guess_in_a_batch_does_not_hold_the_file_either(self, attached):
        attachment = attached.record()["attachment"]
        body = {"data": {"attachment": attachment}}
        requests = [
            {"method": "PATCH", "path": RECORD, "body": {"data": {"title": "a"}}},
            {"method": "PUT", "path": COPY, "body": body, "headers": dict(BOB)},
        ]
        answers = attached.post_json("/batch", {"requests": requests}, headers=ALICE).json
        # The batch itself may change the record: who sends it has the password of who may.
        assert [one["status"] for one in answers["responses"]] == [200, 201]
        assert len(attached.links()) == 2

    def test_what_another_plugin_changes_for_a_user_gives_no_permission(self, attached):
        """Such as kinto-signer, which writes the state of a collection when a record changes."""
        attachment = attached.record()["attachment"]
        collection = attached.get(RECORD.rsplit("/", 2)[0], headers=ALICE).json["data"]

        def sign(event):
            if event.payload["resource_name"] == "record":
                event.request.notify_resource_event(
                    parent_id="/buckets/blog",
                    timestamp=collection["last_modified"],
                    data={**collection, "status": "signed"},
                    action=ACTIONS.UPDATE,
                    old=collection,
                    resource_name="collection",
                    resource_data={**collection, "bucket_id": "blog"},
                )

        attached.listen(sign)
        # At the second change, the plugin has followed the first.
        requests = [
            {"method": "PUT", "path": COPY, "body": {"data": {"attachment": attachment}}},
            {"method": "PATCH", "path": COPY, "body": {"data": {"title": "a"}}},
        ]
        attached.post_json("/batch", {"requests": requests}, headers=BOB)
        assert [link["record_uri"] for link in attached.links()] == [RECORD]


@pytest.mark.parametrize("permission", ["read", "write"])
@pytest.mark.parametrize("url", [RECORD, RECORD.rsplit("/", 2)[0], "/buckets/blog"])
def test_a_copy_by_who_may_read_the_record_holds_the_file(attached, url, permission):
    share(attached, {permission: [bob(attached)]}, url)
    copy(attached, attached.record()["attachment"], status=201)
    attached.delete(RECORD, headers=ALICE)
    assert list(attached.files().values()) == [b"once upon a time"]
    attached.delete(COPY, headers=BOB)
    assert (attached.files(), attached.links()) == ({}, [])


def test_a_copy_of_a_public_attachment_holds_the_file(attached):
    share(attached, {"read": ["system.Everyone"]})
    copy(attached, attached.record()["attachment"], status=201)
    assert len(attached.links()) == 2


def test_who_may_read_one_of_many_records_may_copy(attached):
    attachment = attached.record()["attachment"]
    body = {"data": {"attachment": attachment}}
    for start in range(0, 120, 20):
        urls = [f"{RECORD}-{number:03}" for number in range(start, start + 20)]
        requests = [{"method": "PUT", "path": url, "body": body} for url in urls]
        attached.post_json("/batch", {"requests": requests}, headers=ALICE)
    share(attached, {"read": [bob(attached)]}, f"{RECORD}-119")
    copy(attached, attachment, status=201)
    assert len(attached.links()) == 122


def test_settings_may_let_all_read_records(make_app):
    app = make_app(record_read_principals="system.Authenticated")
    app.create_collection("bob", headers=BOB)
    app.upload()
    copy(app, app.record()["attachment"], status=201)
    assert len(app.links()) == 2


def test_a_batch_may_copy_one_attachment_to_several_records(attached):
    body = {"data": {"attachment": attached.record()["attachment"]}}
    urls = [f"{RECORD}-{number}" for number in range(3)]
    requests = [{"method": "PUT", "path": url, "body": body} for url in urls]
    answers = attached.post_json("/batch", {"requests": requests}, headers=ALICE).json["responses"]
    assert [one["status"] for one in answers] == [201] * 3
    assert sorted(link["record_uri"] for link in attached.links()) == [RECORD, *urls]
    attached.delete(RECORD, headers=ALICE)
    assert list(attached.files().values()) == [b"once upon a time"]


class TestManyAtOnce:
    """More records in a transaction than Kinto returns of a query."""

    MANY = 25

    @pytest.fixture
    def app(self, postgresql, tmp_path):
        settings = {"kinto.storage_max_fetch_size": "10", **postgresql_backends(postgresql())}
        app = App(tmp_path / "files", **settings)
        app.create_collection()
        self.urls = [f"{RECORD}-{number}" for number in range(self.MANY)]
        for url in self.urls:
            app.upload(file_part(url.encode()), url=f"{url}/attachment")
        return app

    def batch(self, app, method, **data):
        body = {"body": {"data": data}} if data else {}
        requests = [{"method": method, "path": url, **body} for url in self.urls]
        answers = app.post_json("/batch", {"requests": requests}, headers=ALICE).json["responses"]
        assert {one["status"] for one in answers} == {200}

    def test_a_change_of_many_records_keeps_their_files(self, app):
        self.batch(app, "PATCH", title="a")
        assert sorted(app.files().values()) == sorted(url.encode() for url in self.urls)
        assert app.released() == []

    def test_many_records_take_their_files_with_them(self, app):
        self.batch(app, "DELETE")
        assert (app.files(), app.links()) == ({}, [])

    def test_links_of_earlier_plugins_are_all_found(self, app):
        storage = app.registry.storage
        for link in every_link(storage):
            storage.delete("attachments", f"__attachments__{link['record_uri']}", link["id"])
            old = {name: link[name] for name in ("location", "record_uri", "collection_uri")}
            old["bucket_uri"] = link["bucket_uri"]
            storage.create("attachments", "__attachments__", old)
        self.batch(app, "PATCH", title="a")
        assert len(app.files()) == self.MANY
        self.batch(app, "DELETE")
        assert app.files() == {}

    def test_a_copy_finds_the_record_behind_those(self, app):
        app.upload()
        body = {"data": {"attachment": app.record()["attachment"]}}
        requests = [{"method": "PUT", "path": f"{url}-copy", "body": body} for url in self.urls]
        app.post_json("/batch", {"requests": requests}, headers=ALICE)
        app.delete(RECORD, headers=ALICE)
        requests = [{"method": "DELETE", "path": f"{url}-copy"} for url in self.urls]
        app.post_json("/batch", {"requests": requests[:-1]}, headers=ALICE)
        assert b"once upon a time" in app.files().values()
        app.delete(f"{self.urls[-1]}-copy", headers=ALICE)
        assert b"once upon a time" not in app.files().values()


def every_link(storage):
    """Return all links, which Kinto lists no more than ten of at once."""
    found = {}
    for number in range(TestManyAtOnce.MANY):
        parent = f"__attachments__{RECORD}-{number}"
        found |= {link["id"]: link for link in storage.list_all("attachments", parent)}
    return list(found.values())
