"""Locks: requests that change the same record, collection or bucket take turns.

Kinto reads a record, decides, and writes it later. Between the two another request may commit a
change, which is then overwritten unseen (a lost update); the overwritten value may be the only
reference to a file. So a request on a record takes its locks before Kinto reads anything:

- the record's own, exclusively: PostgreSQL's advisory lock of its URI, since a record that does not
  exist has no row to lock, and the row, which every write waits for;
- those of its collection, its bucket and of all buckets, shared: the deletion of one of these waits
  for the requests that are under way, and later ones see that it is gone.

All of them are taken in one round trip, and released when the transaction ends. Kinto's other
storages serve one process only, and have no locks.
"""

import hashlib
from typing import Any

from kinto_attachment import unit_of_work, uris
from kinto_attachment.kinto_internals import execute


EVERYTHING = "/"
"""The URI of the lock that all changes share, and that a flush takes exclusively."""

# The order matters: a deletion that is under way is waited for before the row is looked for. By
# statements of their own, since one does not see what is committed after it has begun.
LOCK_LIST = """
SELECT pg_advisory_xact_lock_shared(%(everything)s),
       pg_advisory_xact_lock_shared(%(bucket)s),
       pg_advisory_xact_lock_shared(%(collection)s)
"""
LOCK_RECORD = f"""
{LOCK_LIST},
       pg_advisory_xact_lock(%(record)s);
SELECT 1
  FROM objects
 WHERE id = %(record_id)s
   AND parent_id = %(collection_uri)s
   AND resource_name = 'record'
   FOR UPDATE;
"""
LOCK_OBJECT = "SELECT pg_advisory_xact_lock(%(object)s)"
SHARE_OBJECT = "SELECT pg_advisory_xact_lock_shared(%(object)s)"


def lock_record(
    storage: Any,
    collection_uri: str,
    record_id: str | None = None,
    query: str = "SELECT 1",
    **parameters: Any,
) -> Any:
    """Lock a record for the rest of the transaction, before it is read.

    :param record_id: ``None`` if the request is about the list of records, or one without an id.
    :param query: what to read as soon as the record is locked, with its parameters.
    :returns: the result of that query, ``None`` if no record was locked now.
    """
    # A record may be named like what would stand for none.
    uri = collection_uri if record_id is None else uris.record_uri(collection_uri, record_id)
    locked = unit_of_work.current().locked
    if uri in locked:
        return None
    locked |= {uri, EVERYTHING}
    parameters |= {
        "everything": _number(EVERYTHING),
        "bucket": _number(uris.parent_uri(collection_uri)),
        "collection": _number(collection_uri),
    }
    # PostgreSQL has no text with a NUL, and no record such an id: Kinto refuses it later.
    if record_id is None or "\0" in record_id:
        execute(storage, LOCK_LIST, parameters)
        return None
    parameters |= {"record": _number(uri), "record_id": record_id, "collection_uri": collection_uri}
    return execute(storage, LOCK_RECORD + query, parameters)


def is_locked(record_uri: str) -> bool:
    """Return whether the running transaction locked a record before it read it."""
    return record_uri in unit_of_work.current().locked


def lock_object(storage: Any, uri: str) -> None:
    """Lock something else than a record for the rest of the transaction.

    :param uri: that of a bucket or a collection, which makes all requests on its records wait,
        ``EVERYTHING``, or any other text that names one thing.
    """
    execute(storage, LOCK_OBJECT, {"object": _number(uri)})


def block_flush(storage: Any) -> None:
    """Make a flush or migration wait for the rest of the transaction, or wait for one under way."""
    locked = unit_of_work.current().locked
    if EVERYTHING not in locked:
        locked.add(EVERYTHING)
        execute(storage, SHARE_OBJECT, {"object": _number(EVERYTHING)})


def _number(uri: str) -> int:
    digest = hashlib.sha256(uri.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
