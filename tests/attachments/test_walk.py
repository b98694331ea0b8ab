"""A random walk over all that changes records, looking at all there is after every step."""

import contextlib
import hashlib
import itertools
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from kinto.core.events import ResourceChanged

from kinto_attachment.storage.names import is_private
from tests.support.app import App
from tests.support.forms import file_part
from tests.support.postgresql import postgresql_backends
from tests.support.resumable import Client, path_of
from tests.support.users import ALICE


WALKS = int(os.environ.get("WALKS", "5"))
STEPS = 40
"""How many walks, of how many steps each: ``make walk`` takes more."""

BUCKETS = ("one", "two")
COLLECTIONS = ("photos", "kept")
RECORDS = ("a", "b", "c")

collections = st.tuples(st.sampled_from(BUCKETS), st.sampled_from(COLLECTIONS))
records = st.tuples(
    st.sampled_from(BUCKETS), st.sampled_from(COLLECTIONS), st.sampled_from(RECORDS)
)
titles = st.sampled_from(("x", "y"))
AT_ONCE = {
    "upload": lambda record: (record, "x"),
    "upload_in_pieces": lambda record: (record, "y"),
    "detach": lambda record: (record,),
    "put_without": lambda record: (record, "x"),
    "patch_title": lambda record: (record, "y"),
    "patch_null": lambda record: (record,),
    "json_patch": lambda record: (record,),
    "delete_record": lambda record: (record,),
    "delete_list": lambda record: (record[:2], ""),
    "delete_collection": lambda record: (record[:2],),
    "delete_bucket": lambda record: (record[0],),
    "flush": lambda record: (),
}
"""What two sessions do at once: all but to write metadata that was read before."""

FAILING = {
    "upload": lambda record: (record, "x"),
    "upload_in_pieces": lambda record: (record, "x"),
    "detach": lambda record: (record,),
    "delete_record": lambda record: (record,),
    "copy": lambda record: (("one", "photos", "a"), record),
}
"""What a listener makes fail."""

steps = st.tuples(st.sampled_from(tuple(AT_ONCE)), records)

JSON_PATCH = {**ALICE, "Content-Type": "application/json-patch+json"}
MERGE_PATCH = {**ALICE, "Content-Type": "application/merge-patch+json"}


def collection_url(collection):
    return f"/buckets/{collection[0]}/collections/{collection[1]}"


def record_url(record):
    return f"{collection_url(record[:2])}/records/{record[2]}"


class Walk(RuleBasedStateMachine):
    """Takes steps on a Kinto, all of whose files in ``kept`` collections stay for ever.

    :cvar app: the Kinto, which goes on from one walk to the next.
    """

    app = None
    steps = 0

    def __init__(self):
        super().__init__()
        self.ever_kept = set()
        self.earlier = {}
        self.failing = False
        self.racing = False

    @initialize()
    def begin(self):
        Walk.current = self
        self.app.post("/__flush__", headers=ALICE)
        transaction.abort()
        shutil.rmtree(self.app.folder, ignore_errors=True)
        for bucket in BUCKETS:
            for collection in COLLECTIONS:
                self.app.create_collection(bucket, collection, headers=ALICE)

    def do(self, method, url, *body, headers=ALICE):
        response = getattr(self.app, f"{method}_json")(url, *body, headers=headers, status="*")
        # Deletions beside others may meet in a deadlock, which PostgreSQL ends.
        assert response.status_code < (504 if self.racing else 500) or self.failing, response
        return response

    def attachment_of(self, record):
        answer = self.app.get(record_url(record), headers=ALICE, status="*").json
        return answer.get("data", {}).get("attachment")

    @rule(record=records, title=titles)
    def upload(self, record, title):
        url = f"{record_url(record)}/attachment"
        response = self.app.upload(file_part(title.encode()), url=url, status="*")
        assert response.status_code < 500 or self.failing or self.racing, response
        if response.status_code in (200, 201):
            self.earlier.setdefault(record, []).append(response.json)

    @rule(record=records, title=titles)
    def upload_in_pieces(self, record, title):
        client = Client(self.app, record=record_url(record))
        response = client.begin(2, status="*")
        path = path_of(response) if response.status_code == 201 else None
        if path:
            client.patch(path, 0, title.encode(), status="*")
            response = client.patch(path, 1, title.encode(), status="*")
        assert response.status_code < 500 or self.failing or self.racing, response
        if response.status_code == 204:
            self.earlier.setdefault(record, []).extend(filter(None, [self.attachment_of(record)]))
        elif path:
            client.terminate(path, status="*")

    @rule(record=records)
    def detach(self, record):
        self.do("delete", f"{record_url(record)}/attachment")

    @rule(record=records, title=titles)
    def put_without(self, record, title):
        self.do("put", record_url(record), {"data": {"title": title}})

    @rule(record=records, title=titles)
    def put_with_its_own(self, record, title):
        body = {"data": {"title": title, "attachment": self.attachment_of(record)}}
        self.do("put", record_url(record), body)

    @rule(record=records, title=titles)
    def patch_title(self, record, title):
        self.do("patch", record_url(record), {"data": {"title": title}})

    @rule(record=records)
    def patch_null(self, record):
        self.do("patch", record_url(record), {"data": {"attachment": None}})

    @rule(record=records, changes=st.sampled_from((None, {"size": 1}, {"location": "a"})))
    def merge_patch(self, record, changes):
        before = self.attachment_of(record)
        if before and self.is_ours(record):
            body = {"data": {"attachment": changes}}
            self.do("patch", record_url(record), body, headers=MERGE_PATCH)
            assert self.attachment_of(record) == (before if changes else None)

    @rule(record=records)
    def json_patch(self, record):
        operations = [{"op": "remove", "path": "/data/attachment"}]
        self.do("patch", record_url(record), operations, headers=JSON_PATCH)

    @rule(source=records, copied_to=records)
    def copy(self, source, copied_to):
        body = {"data": {"attachment": self.attachment_of(source)}}
        self.do("put", record_url(copied_to), body)

    @rule(record=records, back=st.integers(1, 3))
    def roll_back(self, record, back):
        earlier = self.earlier.get(record, [])
        if len(earlier) >= back:
            body = {"data": {"attachment": earlier[-back]}}
            if self.attachment_of(record) is None and not self.is_held(earlier[-back]):
                return  # That would be a record that carries what is no file of ours any more.
            self.do("patch", record_url(record), body)

    @rule(record=records)
    def delete_record(self, record):
        self.do("delete", record_url(record))

    @rule(collection=collections, query=st.sampled_from(("", "?title=x", "?_limit=1")))
    def delete_list(self, collection, query):
        self.do("delete", f"{collection_url(collection)}/records{query}")

    @rule(collection=collections)
    def delete_collection(self, collection):
        self.do("delete", collection_url(collection))
        self.do("put", collection_url(collection))

    @rule(bucket=st.sampled_from(BUCKETS))
    def delete_bucket(self, bucket):
        self.do("delete", f"/buckets/{bucket}")
        self.make_anew()

    @rule()
    def flush(self):
        self.do("post", "/__flush__")
        self.make_anew()

    @rule(steps=st.lists(st.tuples(st.integers(0, 4), records, records), min_size=2, max_size=5))
    def batch(self, steps):
        requests = []
        for kind, record, other in steps:
            url = record_url(record)
            attachment = self.attachment_of(other)
            requests.append(
                (
                    {"method": "DELETE", "path": f"{url}/attachment"},
                    {"method": "DELETE", "path": url},
                    {"method": "PUT", "path": url, "body": {"data": {"attachment": attachment}}},
                    {"method": "PATCH", "path": url, "body": {"data": {"attachment": attachment}}},
                    {"method": "DELETE", "path": f"{collection_url(record[:2])}/records"},
                )[kind]
            )
        self.do("post", "/batch", {"requests": requests})

    @rule(
        pair=st.lists(st.tuples(st.sampled_from(tuple(AT_ONCE)), records), min_size=2, max_size=2)
    )
    def two_at_once(self, pair):
        start = threading.Barrier(len(pair))

        def act(step):
            kind, record = step
            start.wait()
            getattr(self, kind)(*AT_ONCE[kind](record))

        self.racing = True
        with ThreadPoolExecutor(len(pair)) as pool:
            list(pool.map(act, pair))
        self.racing = False
        self.make_anew()

    @rule(record=records, action=st.sampled_from(tuple(FAILING)))
    def fail(self, record, action):
        self.failing = True
        with contextlib.suppress(AssertionError):
            getattr(self, action)(*FAILING[action](record))
        self.failing = False

    def make_anew(self):
        for bucket in BUCKETS:
            for collection in COLLECTIONS:
                self.app.create_collection(bucket, collection, headers=ALICE)

    def is_ours(self, record):
        """Return whether the attachment of a record is about a file of ours."""
        return True

    def is_held(self, attachment):
        return any(link["attachment"] == attachment for link in self.app.links())

    @invariant()
    def nothing_is_lost_and_nothing_left(self):
        Walk.steps += 1
        transaction.abort()
        links = self.app.links()
        files = set(self.app.files())
        held = {}
        for bucket in BUCKETS:
            for collection in COLLECTIONS:
                uri = collection_url((bucket, collection))
                for record in self.app.registry.storage.list_all("record", uri):
                    if record.get("attachment"):
                        held[f"{uri}/records/{record['id']}"] = record["attachment"]
        assert {link["record_uri"]: link["attachment"] for link in links} == held
        assert len(links) == len(held)
        locations = {link["location"] for link in links}
        assert {attachment["location"] for attachment in held.values()} == locations
        assert locations <= files
        self.ever_kept |= {
            link["location"] for link in links if link["origin"].endswith("/collections/kept")
        }
        assert files - locations <= self.ever_kept
        assert self.ever_kept <= files
        assert self.app.released() == []
        transaction.abort()


class PrivateWalk(Walk):
    """The same where files are private: a copy is a URL, and each record has its own file or none.

    Most of all that is there is looked at as a reader fetches it.
    """

    def is_ours(self, record):
        return any(link["record_uri"] == record_url(record) for link in self.app.links())

    @invariant()
    def nothing_is_lost_and_nothing_left(self):
        Walk.steps += 1
        transaction.abort()
        links = {link["record_uri"]: link for link in self.app.links()}
        assert len(links) == len(self.app.links())
        files = self.app.files()
        for record in itertools.product(BUCKETS, COLLECTIONS, RECORDS):
            url = record_url(record)
            fetched = self.app.get(f"{url}/attachment", headers=ALICE, status=(200, 404))
            assert (fetched.status_code == 200) == (url in links)
            if url in links:
                attachment = self.attachment_of(record)
                assert links[url]["attachment"] == attachment
                assert attachment["location"].endswith(f"/v1{url}/attachment")
                assert fetched.body == files[links[url]["location"]]
                assert hashlib.sha256(fetched.body).hexdigest() == attachment["hash"]
        keys = {link["location"] for link in links.values()}
        assert all(map(is_private, files)) and len(keys) == len(links)
        self.ever_kept |= {
            link["location"]
            for link in links.values()
            if link["origin"].endswith("/collections/kept")
        }
        assert files.keys() - keys <= self.ever_kept <= files.keys()
        assert self.app.released() == []
        transaction.abort()


@pytest.mark.parametrize(
    ("walk", "downloads"), [(Walk, "public"), (PrivateWalk, "private")], ids=["public", "private"]
)
def test_nothing_is_lost_and_nothing_left_wherever_a_walk_goes(
    postgresql, tmp_path, walk, downloads
):
    Walk.app = App(
        tmp_path / "files",
        **postgresql_backends(postgresql()),
        **{
            "kinto.includes": "kinto.plugins.flush kinto_attachment",
            "kinto.attachment.downloads": downloads,
            "kinto.attachment.resources.one.kept.keep_old_files": "true",
            "kinto.attachment.resources.two.kept.keep_old_files": "true",
        },
    )

    def fail(event):
        if Walk.current.failing:
            raise RuntimeError("not today")

    Walk.app.registry.registerHandler(fail, (ResourceChanged,))
    try:
        run_state_machine_as_test(
            walk,
            settings=settings(
                max_examples=WALKS,
                stateful_step_count=STEPS,
                derandomize="WALKS" not in os.environ,
                deadline=None,
                # The steps are printed as they were: to find fewer takes many walks.
                phases=[Phase.generate],
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        print(f"{Walk.steps} steps")
