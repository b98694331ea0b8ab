"""Locks: requests that change the same record, collection or bucket take turns.

Kinto reads a record, decides, and writes it later. Between the two another request may commit a
change, which is then overwritten unseen (a lost update); what was overwritten may be the only thing
that refers to a file. So a request on a record takes its locks before Kinto reads anything:

- the record's own, exclusively: PostgreSQL's advisory lock of its URI, since a record that does not
  exist has no row to lock, and the row, which whoever writes without asking for a lock waits for;
- those of its collection, its bucket and of all buckets, shared: whoever deletes one of these waits
  for the requests that are under way, and those that come later see it gone.

All of them are taken in one query, and released when the transaction ends. In other storages of
Kinto there is nobody to wait for.
"""

import hashlib

import transaction
from kinto.core.storage import postgresql
from kinto.core.utils import sqlalchemy


EVERYTHING = "/"
"""The URI of the lock that all changes share, and that a flush takes exclusively."""

# Text, since SQLAlchemy takes longer to build such a query than PostgreSQL to answer it. The order
# matters: a deletion that is under way is waited for before the row is looked for.
LOCK_LIST = """
SELECT pg_advisory_xact_lock_shared(:everything),
       pg_advisory_xact_lock_shared(:bucket),
       pg_advisory_xact_lock_shared(:collection)
"""
LOCK_RECORD = f"""
{LOCK_LIST},
       pg_advisory_xact_lock(:record),
       (SELECT 1
          FROM objects
         WHERE id = :record_id
           AND parent_id = :collection_uri
           AND resource_name = 'record'
           FOR UPDATE)
"""
LOCK_OBJECT = "SELECT pg_advisory_xact_lock(:object)"
SHARE_OBJECT = "SELECT pg_advisory_xact_lock_shared(:object)"


def lock_record(storage, collection_uri, record_id=None):
    """Lock a record for the rest of the transaction, before it is read.

    :param record_id: ``None`` where the request is about the list of records, or one without an id.
    """
    uri = f"{collection_uri}/records/{record_id}"
    locked = _locked()
    if uri in locked:
        return
    locked |= {uri, EVERYTHING}
    keys = {
        "everything": _key(EVERYTHING),
        "bucket": _key(collection_uri.rsplit("/", 2)[0]),
        "collection": _key(collection_uri),
    }
    # No record has such an id, and PostgreSQL takes none (Kinto answers with an error of its own).
    if record_id is None or "\0" in record_id:
        _execute(storage, LOCK_LIST, keys)
    else:
        of_record = {"record": _key(uri), "record_id": record_id, "collection_uri": collection_uri}
        _execute(storage, LOCK_RECORD, keys | of_record)


def is_locked(record_uri):
    """Return whether the running transaction locked a record before it read it."""
    return record_uri in _locked()


def lock_object(storage, uri):
    """Lock something else than a record for the rest of the transaction.

    :param uri: that of a bucket or a collection, which keeps all requests on its records waiting,
        ``EVERYTHING``, or any other text that names one thing.
    """
    _execute(storage, LOCK_OBJECT, {"object": _key(uri)})


def keep_flush_waiting(storage):
    """Have a flush wait for the rest of the transaction, or wait for one that is under way."""
    locked = _locked()
    if EVERYTHING not in locked:
        locked.add(EVERYTHING)
        _execute(storage, SHARE_OBJECT, {"object": _key(EVERYTHING)})


def _locked():
    running = transaction.get()
    try:
        return running.data(_locked)
    except KeyError:
        locked = set()
        running.set_data(_locked, locked)
        return locked


def _execute(storage, query, parameters):
    if isinstance(storage, postgresql.Storage):
        with storage.client.connect(readonly=True) as session:
            session.execute(sqlalchemy.text(query), parameters)


def _key(object_uri):
    digest = hashlib.sha256(object_uri.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
