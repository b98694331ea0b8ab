"""``kinto-attachment check``: compares records, links and files."""

import time
from collections.abc import Iterator

from kinto_attachment.commands import findings as kinds
from kinto_attachment.commands.claims import Claims
from kinto_attachment.commands.contents import sha256_of
from kinto_attachment.commands.findings import Finding, record_of, still_holds
from kinto_attachment.commands.inventory import Inventory
from kinto_attachment.commands.report import Report
from kinto_attachment.commands.server import Server
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.names import KeyPatterns, is_heartbeat_key


LINKS = """
SELECT links.location, links.record, links.attachment, records.location, records.attachment,
    files.name
FROM links
LEFT JOIN records ON records.record = links.record
LEFT JOIN files ON files.name = links.location
WHERE links.modified < :before
    AND (records.location IS NOT links.location OR links.attachment IS NOT records.attachment)
"""

RECORDS = """
SELECT records.location, records.record, records.size, files.size, files.name IS NULL,
    links.record IS NULL
FROM records
LEFT JOIN links ON links.record = records.record AND links.location = records.location
LEFT JOIN files ON files.name = records.location
WHERE (records.modified < :before OR records.modified > :future)
    AND (links.record IS NULL OR files.name IS NULL OR files.size != records.size)
ORDER BY records.location
"""

UNHELD_FILES = """
SELECT name, size
FROM files
WHERE modified < :before
    AND NOT EXISTS (SELECT 1 FROM links WHERE location = name)
    AND NOT EXISTS (SELECT 1 FROM records WHERE location = name)
    AND NOT EXISTS (SELECT 1 FROM releases WHERE location = name)
"""

HELD_FILES = """
SELECT DISTINCT records.location, records.hash, files.size
FROM records
JOIN files ON files.name = records.location
JOIN links ON links.record = records.record AND links.location = records.location
WHERE files.size = records.size AND records.hash IS NOT NULL
    AND (records.modified < :before OR records.modified > :future)
"""


def run(server: Server, report: Report, grace_seconds: float, with_hash: bool) -> bool:
    """Tell all that is found, and return whether nothing of it is wrong.

    :raises StorageError: the storage does not answer.
    """
    is_fine = True
    with Inventory(server, report) as inventory:
        for finding in look(server, inventory, report, grace_seconds, with_hash):
            report.tell(
                finding.kind,
                finding.line,
                wrong=finding.is_wrong,
                location=finding.location,
                record=finding.record_uri,
                **finding.details,
            )
            is_fine = is_fine and not finding.is_wrong
        end(report, inventory)
    return is_fine


def end(report: Report, inventory: Inventory) -> None:
    """Sum up what was compared."""
    compared = {table: inventory.count(table) for table in ("files", "links", "records")}
    line = "Compared " + ", ".join(f"{number} {what}" for what, number in compared.items())
    if inventory.unlocated:
        line += f" (and {inventory.unlocated} records whose attachment is not in this storage)"
    report.end(line, unlocated=inventory.unlocated, **compared)


def look(
    server: Server,
    inventory: Inventory,
    report: Report,
    grace_seconds: float,
    with_hash: bool = False,
    any_name: bool = False,
) -> Iterator[Finding]:
    """Return all that an inventory shows and that holds on a second look.

    :param grace_seconds: how old files, links and records are that are looked at.
    :param any_name: see :class:`Claims`.
    :raises StorageError: the storage does not answer.
    """
    began = inventory.began
    # Clients may give records a timestamp: one in the future would never grow old.
    ages = {"before": began - grace_seconds, "future": began + grace_seconds}
    claims = Claims(server, inventory, any_name)
    for suspects in (
        _records(inventory, claims, ages),
        _links(server, inventory, ages),
        _unheld_files(server, inventory, ages),
        _releases(inventory, ages),
    ):
        yield from (finding for finding in suspects if still_holds(server, finding))
    if with_hash:
        yield from _wrong_hashes(server, inventory, report, ages)
    yield from _unfinished(server, ages)


def _links(server, inventory, ages):
    for location, record, metadata, carried, carried_metadata, file in inventory.rows(
        LINKS, before=ages["before"]
    ):
        if carried == location:
            if metadata is None:
                yield Finding(kinds.OLD_LINK, location, record)
            elif metadata != carried_metadata:
                yield Finding(kinds.LINK_DIFFERS, location, record)
        elif file is None:
            yield Finding(kinds.LINK_WITHOUT_FILE, location, record)
        elif carried is not None or record_of(server, record):
            yield Finding(kinds.LINK_NOT_IN_RECORD, location, record)
        else:
            yield Finding(kinds.LINK_WITHOUT_RECORD, location, record)


def _records(inventory, claims, ages):
    for row in inventory.rows(RECORDS, **ages):
        location, record, expected, size, is_missing, is_unlinked = row
        if is_unlinked and (doubt := claims.doubt(record, location)):
            yield Finding(kinds.UNMANAGED, location, record, {"because": doubt})
        elif is_missing:
            yield Finding(kinds.RECORD_WITHOUT_FILE, location, record)
        elif expected is not None and size != expected:
            sizes = {"size": size, "expected": expected}
            yield Finding(kinds.WRONG_SIZE, location, record, sizes)
        else:
            yield Finding(kinds.RECORD_WITHOUT_LINK, location, record)


def _unheld_files(server, inventory, ages):
    names = KeyPatterns(server.settings)
    for name, size in inventory.rows(UNHELD_FILES, before=ages["before"]):
        verdict = names.match(name)
        if is_heartbeat_key(name):
            kind = kinds.HEARTBEAT_LEFT
        elif not verdict.is_ours:
            kind = kinds.FOREIGN_FILE
        else:
            kind = kinds.KEPT_FILE if verdict.is_kept else kinds.FILE_WITHOUT_LINK
        yield Finding(kind, name, details={"size": size})


def _releases(inventory, ages):
    for location, modified in inventory.rows("SELECT location, modified FROM releases"):
        is_overdue = modified < ages["before"]
        kind = kinds.RELEASE_OVERDUE if is_overdue else kinds.RELEASE_PENDING
        yield Finding(kind, location)


def _wrong_hashes(server, inventory, report, ages):
    total = next(inventory.rows(f"SELECT sum(size) FROM ({HELD_FILES})", **ages))[0]
    report.begin("bytes", total or 0)
    for location, expected, _ in inventory.rows(HELD_FILES, **ages):
        try:
            actual = sha256_of(server.files, location, report.advance)
        except FileNotFoundError:
            # It went meanwhile; one that was missing before is told already.
            continue
        if actual != expected:
            yield from _with_hash(server, inventory, location, expected, actual)
    report.finish()


def _with_hash(server, inventory, location, expected, actual):
    query = "SELECT record FROM records WHERE location = :location AND hash = :hash"
    for (record,) in inventory.rows(query, location=location, hash=expected):
        hashes = {"hash": actual, "expected": expected}
        finding = Finding(kinds.WRONG_HASH, location, record, hashes)
        if still_holds(server, finding):
            yield finding


def _unfinished(server, ages):
    try:
        yield from _unfinished_before(server, ages["before"])
    except StorageError as error:
        # Not every store lists them. What is compared does not depend on it.
        yield Finding(kinds.UNFINISHED_UNKNOWN, str(server.files), details={"because": str(error)})


def _unfinished_before(server, before):
    for upload in server.files.incomplete_uploads():
        if upload.modified >= before:
            continue
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(upload.modified))
        details = {"size": upload.size} if upload.size is not None else {}
        yield Finding(kinds.UNFINISHED, upload.key, details={**details, "since": since})
