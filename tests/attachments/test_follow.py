"""Metadata that cannot be forged, copies, files of earlier plugins: what decides are the links."""

import pytest
from pyramid.events import NewRequest

from kinto_attachment import metadata
from tests.support.app import ATTACHMENT, RECORD
from tests.support.forms import file_part, part
from tests.support.users import ALICE


SECOND = "/buckets/blog/collections/photos/records/second"
REFUSED = "Attachment metadata cannot be modified"
FORGED = {"filename": "a", "hash": "b", "location": "c", "mimetype": "d/e", "size": 1}
JSON_PATCH = {**ALICE, "Content-Type": "application/json-patch+json"}
MERGE_PATCH = {**ALICE, "Content-Type": "application/merge-patch+json"}


@pytest.fixture
def attached(app):
    app.upload(file_part(), part("data", '{"title": "Spring"}'))
    return app


def batch(app, *requests):
    body = {
        "requests": [
            {"method": method, "path": path, **({"body": {"data": data}} if data else {})}
            for method, path, data in requests
        ]
    }
    return app.post_json("/batch", body, headers=ALICE, status="*")


def contents(app):
    return sorted(app.files().values())


BEHAVIORS = ["full", "light", "diff"]


@pytest.mark.parametrize("behavior", BEHAVIORS)
class TestResponseBehavior:
    """Clients that want only a part of the changed record, which is all that listeners are told."""

    def test_other_attributes_may_be_changed(self, attached, behavior):
        headers = {**ALICE, "Response-Behavior": behavior}
        attachment = attached.record()["attachment"]
        attached.patch_json(RECORD, {"data": {"title": "Summer"}}, headers=headers, status=200)
        assert attached.record()["attachment"] == attachment
        assert contents(attached) == [b"once upon a time"]
        attached.put_json(SECOND, {"data": {"title": "Autumn"}}, headers=ALICE)
        attached.patch_json(SECOND, {"data": {"title": "Winter"}}, headers=headers, status=200)

    def test_a_file_is_replaced_and_detached(self, attached, behavior):
        headers = {**ALICE, "Response-Behavior": behavior}
        answer = attached.upload(file_part(b"second"), headers=headers, status=200).json
        assert answer == attached.record()["attachment"]
        assert contents(attached) == [b"second"]
        attached.delete(ATTACHMENT, headers=headers, status=204)
        assert (contents(attached), attached.links()) == ([], [])

    def test_a_file_goes_with_its_metadata(self, attached, behavior):
        headers = {**ALICE, "Response-Behavior": behavior}
        attached.patch_json(RECORD, {"data": {"attachment": None}}, headers=headers, status=200)
        assert (contents(attached), attached.links()) == ([], [])

    def test_a_copy_holds_the_file(self, attached, behavior):
        headers = {**ALICE, "Response-Behavior": behavior}
        copied = {"data": {"attachment": attached.record()["attachment"]}}
        attached.put_json(SECOND, {"data": {}}, headers=ALICE)
        attached.patch_json(SECOND, copied, headers=headers, status=200)
        attached.delete(RECORD, headers=ALICE)
        assert contents(attached) == [b"once upon a time"]

    def test_a_record_may_go_in_the_same_batch(self, attached, behavior):
        headers = {"Response-Behavior": behavior}
        change = {"method": "PATCH", "path": RECORD, "headers": headers}
        requests = [
            {**change, "body": {"data": {"title": "Summer"}}},
            {"method": "DELETE", "path": RECORD},
        ]
        answers = attached.post_json("/batch", {"requests": requests}, headers=ALICE).json
        assert [one["status"] for one in answers["responses"]] == [200, 200]
        assert (contents(attached), attached.links()) == ([], [])


class TestForgery:
    @pytest.mark.parametrize("behavior", BEHAVIORS)
    @pytest.mark.parametrize(
        ("method", "body", "headers"),
        [
            ("put", {"data": {"attachment": FORGED}}, ALICE),
            ("patch", {"data": {"attachment": FORGED}}, ALICE),
            ("patch", {"data": {"attachment": "text"}}, ALICE),
            ("patch", {"data": {"attachment": {"size": 1}}}, MERGE_PATCH),
            ("patch", {"data": {"attachment": {"location": "a"}}}, MERGE_PATCH),
            (
                "patch",
                [{"op": "replace", "path": "/data/attachment/hash", "value": "0"}],
                JSON_PATCH,
            ),
        ],
    )
    def test_changed_metadata_is_refused(self, attached, method, body, headers, behavior):
        before = attached.state()
        request = getattr(attached, f"{method}_json")
        headers = {**headers, "Response-Behavior": behavior}
        response = request(RECORD, body, headers=headers, status=400)
        assert response.json["message"] == REFUSED
        assert attached.files() == before[1]

    @pytest.mark.parametrize(
        "requests",
        [
            [("PATCH", RECORD, {"attachment": FORGED})],
            [("PATCH", RECORD, {"title": "a"}), ("PATCH", RECORD, {"attachment": FORGED})],
            [("PATCH", RECORD, {"attachment": FORGED}), ("DELETE", ATTACHMENT, None)],
            [("DELETE", f"{SECOND}/attachment", None), ("PUT", RECORD, {"attachment": FORGED})],
        ],
    )
    def test_changed_metadata_is_refused_in_a_batch(self, attached, requests):
        attached.upload(url=f"{SECOND}/attachment")
        response = batch(attached, *requests)
        assert (response.status_code, response.json["message"]) == (400, REFUSED)
        assert len(attached.files()) == 2

    @pytest.mark.parametrize(
        ("method", "path", "data"),
        [
            ("PATCH", RECORD, {"attachment": None}),
            ("PUT", RECORD, {"title": "a"}),
            ("DELETE", RECORD, None),
            ("DELETE", RECORD.rpartition("/")[0], None),
            ("DELETE", ATTACHMENT, None),
        ],
    )
    @pytest.mark.parametrize("later", [(), [("PATCH", RECORD, {"title": "a"})]])
    def test_metadata_that_comes_back_changed_in_a_batch_is_refused(
        self, attached, method, path, data, later
    ):
        forged = {**FORGED, "location": attached.record()["attachment"]["location"]}
        back = "PUT", RECORD, {"attachment": forged}
        response = batch(attached, (method, path, data), back, *later)
        assert (response.status_code, response.json["message"]) == (400, REFUSED)
        assert contents(attached) == [b"once upon a time"]

    def test_what_is_no_file_of_ours_may_take_the_place_of_one_in_a_batch(self, attached):
        requests = ("DELETE", ATTACHMENT, None), ("PATCH", RECORD, {"attachment": FORGED})
        batch(attached, *requests)
        assert attached.record()["attachment"] == FORGED
        assert (attached.files(), attached.links()) == ({}, [])

    def test_unchanged_metadata_is_fine(self, attached):
        record = {**attached.record(), "title": "Summer"}
        before = attached.files(), attached.links()
        attached.put_json(RECORD, {"data": record}, headers=ALICE, status=200)
        assert (attached.files(), attached.links()) == before

    def test_a_record_without_a_file_of_ours_may_carry_anything(self, app):
        for attachment in (FORGED, "text", 1, [1], {"location": 2}, {}, None):
            body = {"data": {"attachment": attachment}}
            app.put_json(RECORD, body, headers=ALICE)
            assert app.record()["attachment"] == attachment
        assert app.links() == []

    def test_a_location_alone_gives_no_power_over_its_file(self, attached):
        location = attached.record()["attachment"]["location"]
        before = attached.state()
        forged = {"data": {"attachment": {**FORGED, "location": location}}}
        attached.put_json(SECOND, forged, headers=ALICE)
        attached.delete(SECOND, headers=ALICE)
        assert attached.state() == before

    @pytest.fixture
    def integrated(self, attached):
        def integration(request):
            if request.headers.get("Integration"):
                request._attachment_auto_save = True

        attached.registry.registerHandler(lambda e: integration(e.request), (NewRequest,))
        return attached

    def test_what_an_integration_wrote_may_be_copied_in_the_same_batch(self, integrated):
        changed = {**integrated.record()["attachment"], "note": "signed"}
        body = {"data": {"attachment": changed}}
        copy = "/buckets/preview/collections/photos/records/copy"
        integrated.create_collection("preview")
        requests = [
            {"method": "PATCH", "path": RECORD, "body": body, "headers": {"Integration": "1"}},
            {"method": "PUT", "path": copy, "body": body},
            {"method": "DELETE", "path": RECORD},
        ]
        integrated.post_json("/batch", {"requests": requests}, headers=ALICE)
        assert contents(integrated) == [b"once upon a time"]
        assert [link["record_uri"] for link in integrated.links()] == [copy]

    def test_a_server_side_integration_may_write_metadata(self, integrated):
        attached = integrated
        changed = {**attached.record()["attachment"], "note": "signed"}
        headers = {**ALICE, "Integration": "1"}
        body = {"data": {"attachment": changed}}
        attached.patch_json(RECORD, body, headers=headers, status=200)
        assert attached.record()["attachment"] == changed
        (link,) = attached.links()
        assert link["attachment"] == changed
        attached.delete(RECORD, headers=ALICE)
        assert attached.files() == {}


class TestCopies:
    def test_the_file_goes_with_its_last_holder(self, attached):
        attached.create_collection("preview", "photos")
        copy = "/buckets/preview/collections/photos/records/copy"
        body = {"data": {"attachment": attached.record()["attachment"]}}
        attached.put_json(copy, body, headers=ALICE)
        attached.delete("/buckets/blog", headers=ALICE)
        assert len(attached.files()) == 1
        attached.delete("/buckets/preview/collections/photos", headers=ALICE)
        assert (attached.files(), attached.links()) == ({}, [])

    def test_a_record_with_a_file_may_take_that_of_another(self, attached):
        attached.upload(file_part(b"second"), url=f"{SECOND}/attachment")
        body = {"data": {"attachment": attached.record(SECOND)["attachment"]}}
        attached.patch_json(RECORD, body, headers=ALICE, status=200)
        assert contents(attached) == [b"second"]
        assert len(attached.links()) == 2

    def test_a_file_moves_to_another_record_in_a_batch(self, attached):
        attachment = attached.record()["attachment"]
        batch(attached, ("DELETE", RECORD, None), ("PUT", SECOND, {"attachment": attachment}))
        assert attached.stored(attached.record(SECOND)["attachment"]) == b"once upon a time"
        assert [link["record_uri"] for link in attached.links()] == [SECOND]

    def test_a_record_made_anew_in_a_batch_keeps_its_file(self, attached):
        attachment = attached.record()["attachment"]
        batch(attached, ("DELETE", RECORD, None), ("PUT", RECORD, {"attachment": attachment}))
        assert attached.stored(attached.record()["attachment"]) == b"once upon a time"
        assert len(attached.links()) == 1

    def test_a_record_detached_and_rolled_back_in_a_batch_keeps_its_file(self, attached):
        attachment = attached.record()["attachment"]
        requests = ("DELETE", ATTACHMENT, None), ("PATCH", RECORD, {"attachment": attachment})
        batch(attached, *requests)
        assert attached.stored(attached.record()["attachment"]) == b"once upon a time"
        assert len(attached.links()) == 1

    def test_two_records_may_swap_their_files(self, attached):
        attached.upload(file_part(b"other"), url=f"{SECOND}/attachment")
        first, second = (attached.record(url)["attachment"] for url in (RECORD, SECOND))
        response = batch(
            attached,
            ("PATCH", RECORD, {"attachment": second}),
            ("PATCH", SECOND, {"attachment": first}),
        )
        assert [one["status"] for one in response.json["responses"]] == [200, 200]
        assert attached.stored(attached.record()["attachment"]) == b"other"
        assert attached.stored(attached.record(SECOND)["attachment"]) == b"once upon a time"
        assert {link["record_uri"]: link["location"] for link in attached.links()} == {
            RECORD: second["location"],
            SECOND: first["location"],
        }


class TestEqualIsNotTheSame:
    """What Python calls equal, or empty, is something else in JSON."""

    @pytest.fixture
    def attached(self, app):
        app.upload(file_part(b"a"))
        return app

    @pytest.mark.parametrize("method", ["put", "patch"])
    @pytest.mark.parametrize("size", [True, 1.0])
    def test_a_size_of_another_type_is_refused(self, attached, size, method):
        before = attached.state()
        body = {"data": {"attachment": {**attached.record()["attachment"], "size": size}}}
        response = getattr(attached, f"{method}_json")(RECORD, body, headers=ALICE, status=400)
        assert response.json["message"] == REFUSED
        assert attached.state()[1:] == before[1:]

    @pytest.mark.parametrize("method", ["put", "patch"])
    @pytest.mark.parametrize("empty", [{}, [], 0, False, ""])
    def test_only_null_and_absence_let_a_file_go(self, attached, empty, method):
        before = attached.state()
        body = {"data": {"attachment": empty}}
        response = getattr(attached, f"{method}_json")(RECORD, body, headers=ALICE, status=400)
        assert response.json["message"] == REFUSED
        assert attached.state()[1:] == before[1:]

    def test_a_copy_that_is_only_equal_does_not_hold_the_file(self, attached):
        attachment = {**attached.record()["attachment"], "size": True}
        attached.put_json(SECOND, {"data": {"attachment": attachment}}, headers=ALICE)
        assert [link["record_uri"] for link in attached.links()] == [RECORD]

    @pytest.mark.parametrize("empty", [{}, [], 0, False, ""])
    def test_what_is_no_file_may_be_detached_all_the_same(self, app, empty):
        app.put_json(RECORD, {"data": {"attachment": empty}}, headers=ALICE)
        app.delete(ATTACHMENT, headers=ALICE, status=204)
        assert app.record()["attachment"] is None


class TestPossibleLocations:
    @pytest.mark.parametrize(
        ("location", "expected"),
        [
            ("https://cdn/a/b.txt", ["b.txt", "a/b.txt", "cdn/a/b.txt"]),
            ("a%20b/c.txt", ["c.txt", "a%20b/c.txt", "a b/c.txt"]),
            ("x" * 4000 + "/a/b.txt", ["b.txt", "a/b.txt"]),
            ("a%00/b.txt", ["b.txt"]),
            ("/".join(["%41" * 20_000] * 16), []),
            ("/" * 1_000_000, []),
            (7, []),
        ],
    )
    def test_what_cannot_be_a_stored_name_is_not_looked_at(self, location, expected):
        assert metadata.possible_keys({"location": location}) == expected

    def test_a_name_in_the_deepest_folder_is(self):
        name = "/".join("abcdefghijklmnop")
        assert name in metadata.possible_keys({"location": f"https://cdn/{name}"})


class TestNeighbours:
    @pytest.mark.parametrize("path", ["", "/collections/a_b"])
    def test_files_of_a_similar_name_stay(self, app, path):
        for bucket, collection in (("x_y", "a_b"), ("x-y", "a_b"), ("x_y", "a-b")):
            app.create_collection(bucket, collection)
            url = f"/buckets/{bucket}/collections/{collection}/records/first/attachment"
            app.upload(file_part(f"{bucket} {collection}".encode()), url=url)
        app.delete(f"/buckets/x_y{path}", headers=ALICE)
        assert contents(app) == ([b"x-y a_b", b"x_y a-b"] if path else [b"x-y a_b"])
        assert len(app.links()) == len(app.files())


class TestManyFiles:
    @pytest.mark.parametrize("url", ["/records", ""])
    def test_links_are_read_in_pages(self, attached, url, monkeypatch):
        monkeypatch.setattr("kinto_attachment.paging.PAGE_SIZE", 2)
        monkeypatch.setattr("kinto_attachment.links.LINKS_PAGE_SIZE", 2)
        for number in range(6):
            record = f"/buckets/blog/collections/photos/records/{number}"
            attached.upload(url=f"{record}/attachment")
        attached.delete(f"/buckets/blog/collections/photos{url}", headers=ALICE)
        assert (attached.files(), attached.links()) == ({}, [])


@pytest.mark.parametrize("resource", ["attachments", ""])
class TestEarlierLinks:
    """Links as earlier plugins wrote them: one parent for all, random ids, no metadata."""

    @pytest.fixture
    def earlier(self, attached, resource):
        storage = attached.registry.storage
        (link,) = attached.links()
        storage.delete_all("attachments", "__attachments__*", with_deleted=False)
        names = ("location", "record_uri", "collection_uri", "bucket_uri")
        storage.create(resource, "__attachments__", {name: link[name] for name in names})
        return attached

    def left(self, app, resource):
        return contents(app), [
            link
            for name in {resource, "attachments"}
            for link in app.registry.storage.list_all(name, "__attachments__*")
        ]

    def test_replacing_finds_them(self, earlier, resource):
        earlier.upload(file_part(b"new"))
        files, links = self.left(earlier, resource)
        assert files == [b"new"]
        assert [link["location"] for link in links] == list(earlier.files())

    @pytest.mark.parametrize(
        "url",
        [ATTACHMENT, RECORD, "/buckets/blog/collections/photos", "/buckets/blog", "/buckets"],
    )
    def test_deleting_finds_them(self, earlier, resource, url):
        earlier.delete(url, headers=ALICE)
        assert self.left(earlier, resource) == ([], [])

    def test_their_metadata_cannot_be_forged(self, earlier, resource):
        location = earlier.record()["attachment"]["location"]
        body = {"data": {"attachment": {**FORGED, "location": location}}}
        response = earlier.patch_json(RECORD, body, headers=ALICE, status=400)
        assert response.json["message"] == REFUSED

    def test_a_copy_of_their_metadata_holds_the_file(self, earlier, resource):
        body = {"data": {"attachment": earlier.record()["attachment"]}}
        earlier.put_json(SECOND, body, headers=ALICE)
        earlier.delete(RECORD, headers=ALICE)
        files, links = self.left(earlier, resource)
        assert files == [b"once upon a time"]
        assert [link["record_uri"] for link in links] == [SECOND]


def test_a_collection_may_keep_its_old_files_where_others_do_not(make_app):
    app = make_app(attachment__resources__blog__photos__keep_old_files="true")
    app.create_collection(collection="others")
    kept = app.upload().json
    other = "/buckets/blog/collections/others/records/first"
    app.upload(url=f"{other}/attachment")
    app.delete(RECORD, headers=ALICE)
    app.delete(other, headers=ALICE)
    assert list(app.files()) == [kept["location"]]
    assert app.links() == []


class TestWhatCannotBeTold:
    """Records whose links do not tell what metadata they have."""

    def written_behind_events(self, app, attachment):
        storage = app.registry.storage
        record = {**app.record(), "attachment": attachment}
        storage.update("record", RECORD.rsplit("/", 2)[0], record["id"], record)

    @pytest.mark.parametrize("method", ["put", "patch"])
    @pytest.mark.parametrize("changes", [{"note": "a"}, {"location": "elsewhere.txt"}])
    def test_metadata_that_was_changed_behind_events_may_be_written_back(
        self, attached, method, changes
    ):
        changed = {**attached.record()["attachment"], **changes}
        self.written_behind_events(attached, changed)
        body = {"data": {"title": "Summer", "attachment": changed}}
        getattr(attached, f"{method}_json")(RECORD, body, headers=ALICE, status=200)
        assert attached.record()["attachment"] == changed

    @pytest.mark.parametrize("headers", [ALICE, MERGE_PATCH])
    def test_it_cannot_be_changed_once_more(self, attached, headers):
        changed = {**attached.record()["attachment"], "note": "a"}
        self.written_behind_events(attached, changed)
        body = {"data": {"attachment": {**changed, "note": "b"}}}
        response = attached.patch_json(RECORD, body, headers=headers, status=400)
        assert response.json["message"] == REFUSED

    @pytest.mark.parametrize("changes", [{"size": 1}, {"location": "elsewhere.txt"}])
    @pytest.mark.parametrize("in_batch", [False, True])
    def test_a_merge_patch_cannot_change_what_an_earlier_plugin_linked(
        self, attached, changes, in_batch
    ):
        storage = attached.registry.storage
        (link,) = attached.links()
        storage.delete_all("attachments", "__attachments__*", with_deleted=False)
        names = ("location", "record_uri", "collection_uri", "bucket_uri")
        storage.create("", "__attachments__", {name: link[name] for name in names})
        body = {"data": {"attachment": changes}}
        if in_batch:
            headers = {"Content-Type": MERGE_PATCH["Content-Type"]}
            request = {"method": "PATCH", "path": RECORD, "body": body, "headers": headers}
            response = attached.post_json(
                "/batch", {"requests": [request, request]}, headers=ALICE, status=400
            )
        else:
            response = attached.patch_json(RECORD, body, headers=MERGE_PATCH, status=400)
        assert response.json["message"] == REFUSED
        title = {"data": {"title": "Summer"}}
        attached.patch_json(RECORD, title, headers=MERGE_PATCH, status=200)
