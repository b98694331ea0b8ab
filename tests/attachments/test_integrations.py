"""Code on the server that writes metadata itself, with ``request._attachment_auto_save = True``."""

import pytest
from kinto.core.events import ACTIONS, ResourceChanged
from kinto.core.utils import build_request
from pyramid.events import NewRequest
from pyramid.request import Request

from tests.support.app import RECORD
from tests.support.forms import file_part
from tests.support.users import ALICE


SECOND = "/buckets/blog/collections/photos/records/second"
PHOTOS = "/buckets/blog/collections/photos"
REFUSED = "Attachment metadata cannot be modified"


@pytest.fixture
def attached(app):
    app.upload()
    app.upload(file_part(b"second"), url=f"{SECOND}/attachment")
    return app


def signed(app, url):
    """Return the attachment of a record, as the integration changes it."""
    return {**app.record(url)["attachment"], "signed": True}


def batch(app, *urls, headers=({}, {})):
    """Change the metadata of records in one batch."""
    requests = [
        {
            "method": "PATCH",
            "path": url,
            "body": {"data": {"attachment": signed(app, url)}},
            "headers": own,
        }
        for url, own in zip(urls, headers, strict=True)
    ]
    return app.post_json("/batch", {"requests": requests}, headers=ALICE, status="*")


class TestRealRequests:
    @pytest.fixture(autouse=True)
    def integration(self, attached):
        def mark(event):
            if event.request.headers.get("Integration"):
                event.request._attachment_auto_save = True

        attached.registry.registerHandler(mark, (NewRequest,))

    def test_one_may_write_metadata(self, attached):
        body = {"data": {"attachment": signed(attached, RECORD)}}
        headers = {**ALICE, "Integration": "1"}
        attached.patch_json(RECORD, body, headers=headers, status=200)
        assert attached.record()["attachment"]["signed"]

    @pytest.mark.parametrize("order", [1, -1], ids=["before", "after"])
    def test_in_a_batch_it_opens_no_door_to_others(self, attached, order):
        headers = [{"Integration": "1"}, {}][::order]
        response = batch(attached, RECORD, SECOND, headers=headers)
        assert (response.status_code, response.json["message"]) == (400, REFUSED)

    def test_all_of_a_batch_may_where_all_are_marked(self, attached):
        marks = [{"Integration": "1"}, {"Integration": "1"}]
        response = batch(attached, RECORD, SECOND, headers=marks)
        assert [one["status"] for one in response.json["responses"]] == [200, 200]
        for url in (RECORD, SECOND):
            assert attached.record(url)["attachment"]["signed"]
        assert all(link["attachment"]["signed"] for link in attached.links())

    def test_what_it_wrote_may_be_sent_back_in_the_same_batch(self, attached):
        headers = [{"Integration": "1"}, {}]
        response = batch(attached, RECORD, RECORD, headers=headers)
        assert [one["status"] for one in response.json["responses"]] == [200, 200]


class TestFakeRequests:
    """A listener on collections writes records, as a signer does."""

    def write(self, request, attachment, notify):
        parent = PHOTOS
        storage = request.registry.storage
        old = storage.get("record", parent, "first")
        new = storage.update("record", parent, "first", {**old, "attachment": attachment})
        notify(old, new)

    def listen(self, app, make_request, is_marked, tell=None):
        attachment = signed(app, RECORD)

        def told_by_kinto(request, old, new):
            request.notify_resource_event(
                parent_id=PHOTOS,
                timestamp=new["last_modified"],
                data=new,
                old=old,
                action=ACTIONS.UPDATE,
                resource_name="record",
                resource_data={"bucket_id": "blog", "collection_id": "photos", "id": "first"},
            )

        def integration(event):
            if event.payload["resource_name"] == "collection":
                request = make_request(event.request)
                if is_marked:
                    request._attachment_auto_save = True
                notify = tell or told_by_kinto
                self.write(request, attachment, lambda old, new: notify(request, old, new))

        app.registry.registerHandler(integration, (ResourceChanged,))

    def real(self, request):
        return request

    def subrequest(self, request):
        fake = build_request(request, {"method": "PUT", "path": RECORD})
        fake.matchdict = {"bucket_id": "blog", "collection_id": "photos", "id": "first"}
        return fake

    def bare(self, request):
        fake = Request.blank("/")
        fake.registry = request.registry
        return fake

    def tell_listeners(self, request, old, new):
        payload = {
            "action": "update",
            "bucket_id": "blog",
            "collection_id": "photos",
            "resource_name": "record",
        }
        event = ResourceChanged(payload, [{"old": old, "new": new}], request)
        request.registry.notify(event)

    @pytest.mark.parametrize("is_marked", [True, False])
    @pytest.mark.parametrize(
        ("make_request", "tell"),
        [("real", None), ("subrequest", None), ("bare", "tell_listeners")],
    )
    def test_only_a_marked_one_may_write_metadata(self, attached, make_request, tell, is_marked):
        before = attached.files()
        make_request, tell = getattr(self, make_request), tell and getattr(self, tell)
        self.listen(attached, make_request, is_marked, tell)
        status = 200 if is_marked else 400
        response = attached.patch_json(PHOTOS, {"data": {"a": 1}}, headers=ALICE, status=status)
        assert attached.files() == before
        if is_marked:
            link = next(link for link in attached.links() if link["record_uri"] == RECORD)
            assert link["attachment"] == attached.record()["attachment"]
            assert link["attachment"]["signed"]
        else:
            assert response.json["message"] == REFUSED

    @pytest.mark.parametrize("make_request", ["real", "subrequest"])
    def test_what_it_writes_opens_no_door_to_the_batch_that_it_listens_to(
        self, attached, make_request
    ):
        self.listen(attached, getattr(self, make_request), is_marked=True)
        forged = signed(attached, SECOND)
        requests = [
            {"method": "PATCH", "path": PHOTOS, "body": {"data": {"a": 1}}},
            {"method": "PATCH", "path": SECOND, "body": {"data": {"attachment": forged}}},
        ]
        response = attached.post_json("/batch", {"requests": requests}, headers=ALICE, status=400)
        assert response.json["message"] == REFUSED
