"""``kinto-attachment relocate``: gives the locations in records another base URL.

Records get new timestamps, so that clients which synchronize see the change. No listeners and no
history are told of it: it is the server that moved, and nobody has edited a record.
"""

import urllib.parse
from typing import Any, NamedTuple

from kinto.core.storage import Filter
from kinto.core.storage.exceptions import BackendError
from kinto.core.utils import COMPARISON

from kinto_attachment import records
from kinto_attachment.commands import objects
from kinto_attachment.commands.findings import record_of
from kinto_attachment.commands.report import Report
from kinto_attachment.commands.server import Server, first_line


BATCH = 20
"""How many records are written in one transaction: while it lasts, others who write to the
collection may have to wait for it."""

FEW = records.MAX_SINGLE_QUERIES
"""Of so many records the links are found by index, and not by looking at all links."""

TRIES = 5


class Changed(Exception):
    """Somebody has changed a record since it was read."""


class Move(NamedTuple):
    """A record whose location changes."""

    collection_uri: str
    record: dict[str, Any]
    links: list[dict[str, Any]]
    location: str
    url: str

    @property
    def record_uri(self) -> str:
        """The URI of the record."""
        return records.uri_of(self.collection_uri, self.record["id"])

    @property
    def details(self) -> dict[str, str]:
        """What is told to machines."""
        return {
            "record": self.record_uri,
            "from": self.record["attachment"]["location"],
            "to": self.url,
        }


class Bases(NamedTuple):
    """The base URLs, ending in a slash where they are not empty."""

    old: str
    new: str

    def begins(self, url: str) -> bool:
        """Return whether a location seems to be one under the old base."""
        return url.startswith(self.old) if self.old else "://" not in url

    def relocated(self, url: str, locations: list[str]) -> tuple[str, str] | None:
        """Return the location of the file of a URL under the old base, and its new URL.

        :param locations: those of the files that the record is linked with.
        """
        for location in locations:
            quoted = urllib.parse.quote(location)
            if url in (self.old + quoted, self.old + location):
                return location, self.new + quoted
        return None

    def is_done(self, url: str, locations: list[str]) -> bool:
        """Return whether a URL is under the new base."""
        return any(url == self.new + urllib.parse.quote(location) for location in locations)


def run(server: Server, report: Report, old: str, new: str, dry_run: bool) -> bool:
    """Relocate all files of records that hold one, and return whether none is left."""
    bases = Bases(_with_slash(old), _with_slash(new))
    is_fine = True
    batch: list[Move] = []
    pages = objects.pages_of_records(server)
    found = ((uri, record) for uri, page in pages for record in page)
    watched = report.watched("records", found)
    for move, left in _moves(server, _in_pages(watched), bases):
        if left:
            is_fine = False
            report.tell("left", f"{left}: it holds no file of that name", record=left)
        elif dry_run:
            line = f"would relocate: {move.record_uri}: {move.details['from']} to {move.url}"
            report.tell("to relocate", line, **move.details)
        else:
            batch.append(move)
        if len(batch) == BATCH:
            is_fine = _write(server, report, bases, batch) and is_fine
            batch = []
    is_fine = _write(server, report, bases, batch) and is_fine
    report.end("" if report.counts else "Nothing to do")
    return is_fine


def _with_slash(url):
    return url.rstrip("/") + "/" if url else ""


def _in_pages(found):
    """Return ``(collection URI, records)``, few at once."""
    page: list = []
    for collection_uri, record in found:
        if page and (page[-1][0] != collection_uri or len(page) == FEW):
            yield page[-1][0], [one for _, one in page]
            page = []
        page.append((collection_uri, record))
    if page:
        yield page[-1][0], [one for _, one in page]


def _moves(server, pages, bases):
    """Return ``(move, None)``, or ``(None, record URI)`` where the location cannot be explained."""
    for collection_uri, page in pages:
        candidates = {
            records.uri_of(collection_uri, record["id"]): record
            for record in page
            if bases.begins(_url_of(record))
        }
        if not candidates:
            continue
        with server.reading():
            links = objects.links_of(server, list(candidates))
        for record_uri, record in candidates.items():
            own = [link for link in links if link["record_uri"] == record_uri]
            move = _move(collection_uri, record, own, bases)
            if move is not None:
                yield move, None
            elif not bases.is_done(_url_of(record), [link["location"] for link in own]):
                yield None, record_uri


def _url_of(record):
    attachment = record.get("attachment")
    url = attachment.get("location") if isinstance(attachment, dict) else None
    # What no file of ours can have: neither relative nor under any base.
    return url if isinstance(url, str) else "://"


def _move(collection_uri, record, links, bases):
    found = bases.relocated(_url_of(record), [link["location"] for link in links])
    return found and Move(collection_uri, record, links, *found)


def _write(server, report, bases, batch):
    """Return whether all moves of a batch are made: together, or else one by one."""
    try:
        with server.transaction():
            for move in batch:
                _write_move(server, move)
    except (Changed, BackendError):
        written = [_write_alone(server, report, bases, move) for move in batch]
        return all(written)
    for move in batch:
        _tell(report, move)
    return True


def _write_alone(server, report, bases, move):
    reason: Exception = Changed("it changes all the time")
    for _ in range(TRIES):
        try:
            with server.transaction():
                _write_move(server, move)
        except (Changed, BackendError) as error:
            reason = error
            move = _read_again(server, move, bases)
            if move is None:
                return True
        else:
            _tell(report, move)
            return True
    message = first_line(reason)
    report.tell("left", f"{move.record_uri}: {message}", record=move.record_uri, reason=message)
    return False


def _read_again(server, move, bases):
    """Return the move as it is now, or ``None`` where there is none to be made any more."""
    record = record_of(server, move.record_uri)
    with server.reading():
        links = objects.links_of(server, [move.record_uri])
    return record and _move(move.collection_uri, record, links, bases)


def _write_move(server, move):
    record = dict(move.record)
    timestamp = record.pop("last_modified")
    # Only as it was read, and from now on nobody else writes it before this transaction has ended.
    # (The row stays: one that was deleted and made anew would be found by nobody who waits.)
    locked = server.objects.delete_all(
        "record",
        move.collection_uri,
        filters=[
            Filter("id", record["id"], COMPARISON.EQ),
            Filter("last_modified", timestamp, COMPARISON.EQ),
        ],
    )
    if not locked:
        raise Changed("it has changed meanwhile")
    attachment = {**record["attachment"], "location": move.url}
    server.objects.update(
        "record", move.collection_uri, record["id"], {**record, "attachment": attachment}
    )
    for link in move.links:
        is_of_record = records.are_same(link.get("attachment"), record["attachment"])
        if link["location"] == move.location and is_of_record:
            records.add_link(
                server.objects, move.record_uri, move.location, attachment, link.get("origin")
            )


def _tell(report, move):
    line = f"relocated: {move.record_uri}: {move.details['from']} to {move.url}"
    report.tell("relocated", line, **move.details)
