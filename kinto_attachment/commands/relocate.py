"""Change the base URL of the locations in records.

If files are served from another address, change kinto.attachment.base_url, restart the server, and
then run this. Records get new timestamps, so that clients which synchronize see the change.
Listeners are not called and the history has no entry, since no user has edited a record. It may be
interrupted and run again.
"""

import argparse
import itertools
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

from kinto.core.storage import Filter
from kinto.core.storage.exceptions import BackendError
from kinto.core.utils import COMPARISON

from kinto_attachment import metadata
from kinto_attachment.commands import options, scan
from kinto_attachment.commands.server import Server, first_line, open_server
from kinto_attachment.console import Console
from kinto_attachment.storage.names import is_private


BATCH = 20
"""How many records are written in one transaction. Other writers to the collection may wait for
it."""

FEW = 25
"""For so many records, links are read at once."""

ATTEMPTS = 5


class RecordChanged(Exception):
    """A record has changed since it was read."""


class Move(NamedTuple):
    """A record whose location changes.

    :ivar key: of its file.
    :ivar url: the new location.
    """

    record_uri: str
    record: scan.Object
    links: list[scan.Object]
    key: str
    url: str

    def report(self, console: Console, what: str, verb: str) -> None:
        """Report the move."""
        old = self.record["attachment"]["location"]
        details = {"record": self.record_uri, "from": old, "to": self.url}
        console.report(what, f"{verb}: {self.record_uri}: {old} to {self.url}", **details)


class Bases(NamedTuple):
    """The base URLs, ending in a slash if they are not empty."""

    old: str
    new: str

    def may_contain(self, url: str) -> bool:
        """Return whether a location may be one under the old base."""
        return url.startswith(self.old) if self.old else "://" not in url

    def relocate(self, url: str, record_uri: str, keys: list[str]) -> tuple[str, str] | None:
        """Return the key of the file of a URL under the old base, and its new URL.

        (The location of a private file is under Kinto's own URL, ``…/v1/``, and has no key.)

        :param keys: of the files to which the record has links.
        """
        path = f"{record_uri}/attachment".lstrip("/")
        for key in keys:
            if is_private(key):
                if url == self.old + path:
                    return key, self.new + path
                continue
            quoted = urllib.parse.quote(key)
            if url in (self.old + quoted, self.old + key):
                return key, self.new + quoted
        return None

    def is_done(self, url: str, record_uri: str, keys: list[str]) -> bool:
        """Return whether a URL is under the new base, or that of a private file, which has none."""
        if any(map(is_private, keys)) and metadata.is_private_location(
            {"location": url}, record_uri
        ):
            return True
        return any(url == self.new + urllib.parse.quote(key) for key in keys)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument(
        "--base-url",
        nargs=2,
        required=True,
        metavar=("OLD", "NEW"),
        help="the old and the new beginning of locations ('' for none)",
    )
    options.add_dry_run(parser)


def run(args: argparse.Namespace, console: Console) -> bool:
    """Relocate the attachments of all records, and return whether none is left."""
    bases = Bases(*(url.rstrip("/") + "/" if url else "" for url in args.base_url))
    relocation = Relocation(open_server(args.ini), console, bases)
    is_fine = True
    batch: list[Move] = []
    for move in relocation.moves():
        if args.dry_run:
            move.report(console, "to relocate", "would relocate")
            continue
        batch.append(move)
        if len(batch) == BATCH:
            is_fine = relocation.write(batch) and is_fine
            batch = []
    is_fine = relocation.write(batch) and is_fine
    console.end(counts=console.counts)
    return is_fine and not relocation.has_unknown


class Relocation:
    """The relocation of all records of a server.

    :ivar has_unknown: whether records under the old base have no link to the file.
    """

    def __init__(self, server: Server, console: Console, bases: Bases):
        self._server = server
        self._console = console
        self._bases = bases
        self.has_unknown = False

    def moves(self) -> Iterator[Move]:
        """Return the moves to make. A record without a link to its file is reported and skipped."""
        found = self._console.track("records", scan.all_records(self._server))
        under_old = ((uri, one) for uri, one in found if self._bases.may_contain(_url_of(one)))
        while few := dict(itertools.islice(under_old, FEW)):
            with self._server.reading():
                links = self._server.links.of_records(list(few))
            for record_uri, record in few.items():
                own = [link for link in links if link["record_uri"] == record_uri]
                move = self._move(record_uri, record, own)
                if move is not None:
                    yield move
                elif not self._bases.is_done(_url_of(record), record_uri, _keys_of(own)):
                    self.has_unknown = True
                    line = f"left: {record_uri}: it has no link to a file of that name"
                    self._console.report("left", line, record=record_uri)

    def write(self, batch: list[Move], attempts: int = ATTEMPTS) -> bool:
        """Return whether all moves of a batch are made: together, or else one by one."""
        try:
            with self._server.transaction():
                for move in batch:
                    _write_move(self._server, move)
        except (RecordChanged, BackendError) as error:
            if len(batch) > 1:
                written = [self.write([move]) for move in batch]
                return all(written)
            return self._retry(batch[0], attempts - 1, first_line(error))
        for move in batch:
            move.report(self._console, "relocated", "relocated")
        return True

    def _retry(self, move: Move, attempts: int, reason: str) -> bool:
        """Return whether the record as it is now is relocated."""
        current = self._read_again(move.record_uri)
        if current is None:
            return True
        if attempts:
            return self.write([current], attempts)
        line = f"left: {move.record_uri}: {reason}; gave up after {ATTEMPTS} attempts"
        self._console.report("left", line, record=move.record_uri, reason=reason)
        return False

    def _move(self, record_uri: str, record: scan.Object, links: list[scan.Object]) -> Move | None:
        # Of several private files, the record has the one of which the link has its metadata.
        attachment = record.get("attachment")
        links = sorted(
            links, key=lambda link: not metadata.are_equal(link.get("attachment"), attachment)
        )
        found = self._bases.relocate(_url_of(record), record_uri, _keys_of(links))
        return Move(record_uri, record, links, *found) if found else None

    def _read_again(self, record_uri: str) -> Move | None:
        """Return the move of a record as it is now, or ``None`` if there is none to make."""
        record = scan.record_of(self._server, record_uri)
        with self._server.reading():
            links = self._server.links.of_records([record_uri])
        return self._move(record_uri, record, links) if record else None


def _url_of(record: scan.Object) -> str:
    attachment = record.get("attachment")
    url = attachment.get("location") if isinstance(attachment, dict) else None
    # The other URL is neither relative nor under any base.
    return url if isinstance(url, str) else "://"


def _keys_of(links: list[scan.Object]) -> list[str]:
    return [link["location"] for link in links]


def _write_move(server: Server, move: Move) -> None:
    record = dict(move.record)
    timestamp = record.pop("last_modified")
    collection_uri = move.record_uri.rpartition("/records/")[0]
    # Only if it is as it was read; from now on it is locked until the transaction ends. (The row
    # remains: transactions that wait for a row do not find one that replaces it.)
    locked = server.objects.delete_all(
        "record",
        collection_uri,
        filters=[
            Filter("id", record["id"], COMPARISON.EQ),
            Filter("last_modified", timestamp, COMPARISON.EQ),
        ],
    )
    if not locked:
        raise RecordChanged("the record has changed")
    attachment = {**record["attachment"], "location": move.url}
    server.objects.update(
        "record", collection_uri, record["id"], {**record, "attachment": attachment}
    )
    for link in move.links:
        is_of_record = metadata.are_equal(link.get("attachment"), record["attachment"])
        if link["location"] == move.key and is_of_record:
            server.links.add(move.record_uri, move.key, attachment, link.get("origin"))
