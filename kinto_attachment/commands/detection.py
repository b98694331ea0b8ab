"""Detection: the problems that an inventory shows."""

import itertools
import time
from collections.abc import Iterator

from kinto_attachment.commands import problems
from kinto_attachment.commands.claims import Claims
from kinto_attachment.commands.contents import sha256_of
from kinto_attachment.commands.inventory import Inventory
from kinto_attachment.commands.misplaced import count_misplaced
from kinto_attachment.commands.problems import Finding
from kinto_attachment.commands.scan import record_of
from kinto_attachment.commands.server import Server
from kinto_attachment.console import Console
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.names import PRIVATE_FOLDER, KeyPatterns, is_heartbeat_key


# In the order of the keys, in which the tables are: another index is faster for few rows only.
LINKS = """
SELECT links.key, links.record, links.attachment, records.key, records.attachment, files.key
FROM links
LEFT JOIN records ON records.record = links.record
LEFT JOIN files ON files.key = links.key
WHERE links.modified < :before
    AND NOT EXISTS (
        SELECT 1 FROM records AS same
        WHERE same.key = links.key AND +same.record = links.record
            AND same.attachment = links.attachment
    )
"""

RECORDS = """
SELECT records.key, records.record, records.size, files.size, files.key IS NULL,
    links.record IS NULL
FROM records
LEFT JOIN links ON links.key = records.key AND +links.record = records.record
LEFT JOIN files ON files.key = records.key
WHERE (records.modified < :before OR records.modified > :future)
    AND (links.record IS NULL OR files.key IS NULL OR files.size != records.size)
ORDER BY records.key
"""

UNREFERENCED_FILES = """
SELECT key, size,
    key GLOB 'private/*' AND EXISTS (
        SELECT 1 FROM records WHERE records.key = 'private/' AND records.size = files.size
    )
FROM files
WHERE modified < :before
    AND NOT EXISTS (SELECT 1 FROM links WHERE links.key = files.key)
    AND NOT EXISTS (SELECT 1 FROM records WHERE records.key = files.key)
    AND NOT EXISTS (SELECT 1 FROM deletions WHERE deletions.key = files.key)
    AND NOT EXISTS (SELECT 1 FROM uploads WHERE uploads.key = files.key AND NOT uploads.is_done)
"""

SCHEDULED_DELETIONS = """
SELECT count(*), coalesce(sum(files.size), 0)
FROM deletions
JOIN files ON files.key = deletions.key
WHERE due > :now
    AND NOT EXISTS (SELECT 1 FROM links WHERE links.key = deletions.key)
"""

REFERENCED_FILES = """
SELECT DISTINCT records.key, records.hash, files.size
FROM records
JOIN files ON files.key = records.key
JOIN links ON links.record = records.record AND links.key = records.key
WHERE files.size = records.size AND records.hash IS NOT NULL
    AND (records.modified < :before OR records.modified > :future)
"""

Ages = dict[str, float]
"""The parameters ``before`` and ``future`` of the queries, in seconds since 1970."""


def find_problems(
    server: Server,
    inventory: Inventory,
    console: Console,
    grace_seconds: float,
    with_hash: bool = False,
    any_name: bool = False,
) -> Iterator[Finding]:
    """Return the problems of an inventory that exist now, too.

    :param grace_seconds: younger files, links and records are skipped.
    :param with_hash: whether every file is read and its SHA-256 compared.
    :param any_name: see :class:`Claims`.
    :raises StorageError: the storage does not answer.
    """
    began = inventory.began
    # Clients may give records a timestamp, and one in the future would never be old enough.
    ages = {"before": began - grace_seconds, "future": began + grace_seconds}
    suspected = itertools.chain(
        _problems_of_records(inventory, Claims(server, inventory, any_name), ages),
        _problems_of_links(server, inventory, ages),
        _unreferenced_files(server, inventory, ages),
        _deletions(server, inventory, ages),
        _uploads(inventory, ages),
        _misplaced_files(server, inventory),
        _hash_mismatches(server, inventory, console, ages) if with_hash else (),
        _incomplete_uploads(server, ages),
    )
    return (finding for finding in suspected if finding.is_confirmed(server))


def _problems_of_records(inventory: Inventory, claims: Claims, ages: Ages) -> Iterator[Finding]:
    for key, record, expected, size, is_missing, is_unlinked in inventory.rows(RECORDS, **ages):
        if key == PRIVATE_FOLDER:
            yield Finding(problems.UNKNOWN_FILE, key, record)
        elif is_unlinked and (doubt := claims.doubt(record, key)):
            yield Finding(problems.UNVERIFIED_ATTACHMENT, key, record, {"because": doubt})
        elif is_missing:
            yield Finding(problems.MISSING_FILE, key, record)
        elif expected is not None and size != expected:
            sizes = {"size": size, "expected": expected}
            yield Finding(problems.SIZE_MISMATCH, key, record, sizes)
        else:
            yield Finding(problems.MISSING_LINK, key, record)


def _problems_of_links(server: Server, inventory: Inventory, ages: Ages) -> Iterator[Finding]:
    for key, record, metadata, key_in_record, attachment, file in inventory.rows(
        LINKS, before=ages["before"]
    ):
        if key_in_record == key:
            if metadata is None:
                yield Finding(problems.LEGACY_LINK, key, record)
            elif metadata != attachment:
                yield Finding(problems.METADATA_MISMATCH, key, record)
        elif file is None:
            yield Finding(problems.DANGLING_LINK, key, record)
        elif key_in_record is not None or record_of(server, record):
            yield Finding(problems.DETACHED_LINK, key, record)
        else:
            yield Finding(problems.STALE_LINK, key, record)


def _unreferenced_files(server: Server, inventory: Inventory, ages: Ages) -> Iterator[Finding]:
    patterns = KeyPatterns(server.settings)
    for key, size, is_possible in inventory.rows(UNREFERENCED_FILES, before=ages["before"]):
        match = patterns.match(key)
        if is_heartbeat_key(key):
            kind = problems.HEARTBEAT_LEFTOVER
        elif is_possible:
            kind = problems.POSSIBLE_FILE
        elif not match.is_ours:
            kind = problems.FOREIGN_FILE
        else:
            kind = problems.KEPT_FILE if match.is_kept else problems.ORPHAN_FILE
        yield Finding(kind, key, details={"size": size})


def _deletions(server: Server, inventory: Inventory, ages: Ages) -> Iterator[Finding]:
    # Later than when reading began: what was queued meanwhile to be deleted at once is due.
    now = time.time()
    number, size = next(inventory.rows(SCHEDULED_DELETIONS, now=now))
    if number:
        totals = {"files": number, "size": size}
        yield Finding(problems.DELETION_SCHEDULED, str(server.files), details=totals)
    for key, due in inventory.rows("SELECT key, due FROM deletions WHERE due <= :now", now=now):
        is_overdue = due < ages["before"]
        yield Finding(problems.OVERDUE_DELETION if is_overdue else problems.PENDING_DELETION, key)


def _uploads(inventory: Inventory, ages: Ages) -> Iterator[Finding]:
    expired = "SELECT id, record FROM uploads WHERE expires < :before"
    for id_, record in inventory.rows(expired, before=ages["before"]):
        yield Finding(problems.EXPIRED_UPLOAD, id_, record)
    unattached = """
        SELECT files.key, uploads.record FROM uploads JOIN files ON files.key = uploads.key
        WHERE NOT uploads.is_done AND uploads.expires >= :before AND files.modified < :before
    """
    for key, record in inventory.rows(unattached, before=ages["before"]):
        yield Finding(problems.UNATTACHED_FILE, key, record)


def _misplaced_files(server: Server, inventory: Inventory) -> Iterator[Finding]:
    for collection, downloads, number in count_misplaced(inventory, server.settings):
        details = {"collection": collection, "downloads": downloads, "files": number}
        yield Finding(problems.MISPLACED_FILES, str(server.files), details=details)


def _hash_mismatches(
    server: Server, inventory: Inventory, console: Console, ages: Ages
) -> Iterator[Finding]:
    total = next(inventory.rows(f"SELECT sum(size) FROM ({REFERENCED_FILES})", **ages))[0]
    console.begin("bytes", total or 0)
    same_claim = "SELECT record FROM records WHERE key = :key AND hash = :hash"
    for key, expected, _ in inventory.rows(REFERENCED_FILES, **ages):
        try:
            actual = sha256_of(server.files, key, console.advance)
        except FileNotFoundError:
            # Deleted since; a file that was missing before is a finding already.
            continue
        if actual != expected:
            hashes = {"hash": actual, "expected": expected}
            for (record,) in inventory.rows(same_claim, key=key, hash=expected):
                yield Finding(problems.HASH_MISMATCH, key, record, hashes)
    console.finish()


def _incomplete_uploads(server: Server, ages: Ages) -> Iterator[Finding]:
    try:
        for upload in server.files.incomplete_uploads():
            if upload.modified < ages["before"]:
                since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(upload.modified))
                size = {} if upload.size is None else {"size": upload.size}
                yield Finding(
                    problems.INCOMPLETE_UPLOAD, upload.key, details={**size, "since": since}
                )
    except StorageError as error:
        # Not every storage lists them, and no other problem depends on it.
        because = {"because": str(error)}
        yield Finding(problems.INCOMPLETE_UPLOADS_UNKNOWN, str(server.files), details=because)
