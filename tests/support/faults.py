"""Faults that a deployment can have, for the tests of ``check`` and ``repair``."""

import hashlib
import json
import time
import uuid

from kinto_attachment.commands import problems
from tests.support.app import RECORD
from tests.support.commands import COLLECTION
from tests.support.resumable import Client


ORPHAN = "5f0c1c1e-6c1f-4b0e-9d5e-6d0b7f3e2a11.txt"
HEARTBEAT = "heartbeat-5f0c1c1e-6c1f-4b0e-9d5e-6d0b7f3e2a11"


def location(deployment, record="first"):
    (link,) = [
        link
        for link in deployment.links()
        if link["record_uri"] == f"{COLLECTION}/records/{record}"
    ]
    return link["location"]


def lose_link(deployment):
    lost = deployment.sql(
        "DELETE FROM objects WHERE resource_name = 'attachments' AND data->>'record_uri' = :uri",
        uri=RECORD,
    )
    assert lost == 1


def lose_record(deployment):
    assert deployment.sql("DELETE FROM objects WHERE id = 'first'") == 1


def change_record(deployment, attachment):
    changed = deployment.sql(
        "UPDATE objects SET data = data || :attachment WHERE id = 'first'",
        attachment=json.dumps({"attachment": attachment}),
    )
    assert changed == 1


def copy_record(deployment):
    copied = deployment.sql(
        "INSERT INTO objects (id, parent_id, resource_name, data, deleted) "
        "SELECT 'copy', parent_id, resource_name, data, FALSE FROM objects WHERE id = 'first'"
    )
    assert copied == 1


def lose_record_and_file(deployment):
    deployment.store.remove(location(deployment))
    lose_record(deployment)


def write_deletion(deployment, hours=2):
    """Leave a queued deletion, as a server does that is killed after its commit."""
    storage = deployment.app.registry.storage
    id_ = str(uuid.uuid4())
    deployment.store.put(ORPHAN, b"queued")
    with deployment.committing():
        storage.update(
            "attachment-releases", f"__attachments__/releases/{id_}", id_, {"locations": [ORPHAN]}
        )
    deployment.sql(
        "UPDATE objects SET last_modified = last_modified - make_interval(hours => :hours) "
        "WHERE id = :id",
        hours=hours,
        id=id_,
    )


def make_link_legacy(deployment):
    name = location(deployment)
    lose_link(deployment)
    link = {
        "location": name,
        "record_uri": RECORD,
        "collection_uri": COLLECTION,
        "bucket_uri": "/buckets/blog",
    }
    deployment.sql(
        "INSERT INTO objects (id, parent_id, resource_name, data, deleted) "
        "VALUES (:id, '__attachments__', 'attachments', :link, FALSE)",
        id=str(uuid.uuid4()),
        link=json.dumps(link),
    )


def expire_uploads(deployment):
    deployment.sql(
        "UPDATE objects SET data = jsonb_set(data, '{expires}', to_jsonb(CAST(:before AS BIGINT)))"
        " WHERE resource_name = 'attachment-uploads'",
        before=int(time.time() * 1000) - 1,
    )


def forget_upload(deployment):
    Client(deployment.app).begin()
    expire_uploads(deployment)


BREAKAGES = {
    problems.ORPHAN_FILE.name: lambda d: d.store.put(ORPHAN, b"an orphan"),
    problems.HEARTBEAT_LEFTOVER.name: lambda d: d.store.put(HEARTBEAT, b"beat"),
    problems.STALE_LINK.name: lose_record,
    problems.DETACHED_LINK.name: lambda d: change_record(d, None),
    problems.DANGLING_LINK.name: lose_record_and_file,
    problems.MISSING_LINK.name: lose_link,
    problems.METADATA_MISMATCH.name: lambda d: change_record(
        d, {**d.record()["attachment"], "mimetype": "text/html"}
    ),
    problems.OVERDUE_DELETION.name: write_deletion,
    problems.EXPIRED_UPLOAD.name: forget_upload,
}
"""The faults that can be repaired."""


LOSSES = {
    problems.MISSING_FILE.name: lambda d: d.store.remove(location(d)),
    problems.SIZE_MISMATCH.name: lambda d: d.store.put(location(d), b"once"),
    problems.HASH_MISMATCH.name: lambda d: d.store.put(location(d), b"ONCE upon a time"),
}
"""The faults that cannot."""


def is_sound(deployment):
    """Return whether each attachment has its file and its link, and nothing else exists."""
    records, links = {}, {}
    rows, files = deployment.state()
    for name, parent, id_, data in rows:
        if name == "record" and data.get("attachment"):
            records[f"{parent}/records/{id_}"] = data["attachment"]
        elif name == "attachments":
            links[data["record_uri"]] = data
        assert name != "attachment-releases"
    assert {uri: link["attachment"] for uri, link in links.items()} == records
    held = {link["location"]: records[uri]["hash"] for uri, link in links.items()}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} == held
    return True
