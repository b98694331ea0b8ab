"""Move the files of collections that became private, or public, to where such files are stored.

If a collection gets another value of kinto.attachment.downloads, restart the server, and then run
this. Each file is copied to its new name in the same storage, the record gets the new location, and
the file is deleted under its previous name. Records get new timestamps, so that clients which
synchronize see the change. It may be interrupted and run again.
"""

import argparse
import contextlib
import hashlib
import threading
from typing import Any, NamedTuple

from kinto.core.storage.exceptions import BackendError

from kinto_attachment import locks, metadata, retention, uris
from kinto_attachment.background import in_parallel
from kinto_attachment.commands import options, scan
from kinto_attachment.commands.contents import chunks_of
from kinto_attachment.commands.locations import Locations
from kinto_attachment.commands.misplaced import misplaced
from kinto_attachment.commands.references import refers
from kinto_attachment.commands.server import Server, first_line, open_server
from kinto_attachment.console import Console
from kinto_attachment.deletions import Entry
from kinto_attachment.links import new_link
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.names import PRIVATE_FOLDER, candidate_keys, is_private


ATTEMPTS = 5

UNLINKED_SECONDS = 3600
"""How long a new file may have no link. After that, any worker deletes it."""

MOVING = "moving"
"""The field of a queued deletion that says that it is of the new file of a move."""


class MoveRefused(Exception):
    """A file stays where it is, for the reason in the message."""


class RecordChanged(Exception):
    """A record has changed since it was read."""


class Outcome(NamedTuple):
    """What became of a file.

    :ivar what: ``moved``, ``to move``, ``gone`` or ``left``.
    :ivar to: its new key, or empty.
    """

    what: str
    to: str = ""
    reason: str = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    options.add_dry_run(parser)
    parser.add_argument(
        "--server-url",
        metavar="URL",
        type=options.web_url,
        help="the URL of Kinto's API, like https://kinto.example.com/v1, with which the locations "
        "of private files begin (default: from kinto.http_scheme and kinto.http_host, or from the "
        "location of the file)",
    )
    parser.add_argument(
        "--jobs",
        type=options.positive,
        default=4,
        help="the number of files moved at once (default: 4)",
    )


def run(args: argparse.Namespace, console: Console) -> bool:
    """Move all files that are not where they belong, and return whether none is left."""
    server = open_server(args.ini)
    mover = Mover(server, Locations(server, args.server_url))
    if not args.dry_run:
        mover.delete_leftovers()
    work = mover.plan if args.dry_run else mover.move
    found = console.track("links", scan.all_links(server))
    for link, done in in_parallel(work, misplaced(server, found), args.jobs):
        _report(console, link, done.result())
    console.end(counts=console.counts)
    return not console.counts["left"]


class Mover:
    """Moves files, in any thread.

    The new file is stored first, the record written next, the previous file deleted last. A new
    file is queued for deletion before it exists, and leaves the queue with the record's change: so
    nothing is left of a move that does not come to its end.
    """

    def __init__(self, server: Server, locations: Locations):
        self._server = server
        self._locations = locations
        self._lock = threading.Lock()
        self._wanted: set[str] = set()

    def delete_leftovers(self) -> None:
        """Delete the new files of moves that did not come to their end."""
        entries = scan.all_deletions(self._server)
        self._server.deletions.process(entry for entry in entries if entry.get(MOVING))

    def _delete_unlinked(self, key: str) -> None:
        with self._server.reading():
            entries = self._server.deletions.entries_of(key)
        self._server.deletions.process(entry for entry in entries if entry.get(MOVING))

    def plan(self, link: scan.Object) -> Outcome:
        """Return what :meth:`move` would do, except that a name may be taken."""
        return self._outcome(link, lambda attachment: self._plan(link, attachment))

    def move(self, link: scan.Object) -> Outcome:
        """Move the file of a link, and return what became of it."""
        return self._outcome(link, lambda attachment: self._move(link, attachment))

    def _outcome(self, link: scan.Object, work: Any) -> Outcome:
        reason = ""
        for _ in range(ATTEMPTS):
            try:
                attachment = self._attachment(link)
                return Outcome("gone") if attachment is None else work(attachment)
            except (RecordChanged, BackendError) as error:
                reason = f"{first_line(error)}; gave up after {ATTEMPTS} attempts"
            except FileNotFoundError:
                return Outcome("left", reason="the file does not exist")
            except (MoveRefused, StorageError) as error:
                return Outcome("left", reason=str(error))
        return Outcome("left", reason=reason)

    def _attachment(self, link: scan.Object) -> Any:
        """Return the attachment that a link is about, ``None`` if the link is gone.

        :raises MoveRefused: the record does not refer to the link's file.
        """
        record_uri, key = link["record_uri"], link["location"]
        with self._server.reading():
            attachment = scan.attachment_of(self._server, record_uri)
            links = self._server.links.of_records([record_uri])
        if key not in [one["location"] for one in links]:
            return None
        if not refers(attachment, record_uri, key, links):
            raise MoveRefused("the record does not refer to it, see kinto-attachment check")
        return attachment

    def _plan(self, link: scan.Object, attachment: Any) -> Outcome:
        # Only to see whether it is known.
        self._locations.of(link["record_uri"], link["location"], attachment)
        return Outcome("to move", _moved(link["location"]))

    def _move(self, link: scan.Object, attachment: Any) -> Outcome:
        # Before a byte is copied: it may not be known.
        location_of = self._locations.of(link["record_uri"], link["location"], attachment)
        key = self._copy(link["location"], attachment)
        try:
            changed = {**attachment, "location": location_of(key)}
            self._write(link, attachment, key, changed)
        except BaseException:
            # If the outcome is not known, the link decides. If this fails, too, the queue remains.
            with contextlib.suppress(Exception):
                self._delete_unlinked(key)
            raise
        return Outcome("moved", key)

    def _copy(self, key: str, attachment: Any) -> str:
        """Copy a file, and return the key of the new one, which is queued for deletion."""
        wanted = self._free_key(key)
        try:
            return self._copy_to(wanted, key, attachment)
        finally:
            self._wanted.discard(wanted)

    def _free_key(self, key: str) -> str:
        """Return a key for the new file, which no other thread is given meanwhile."""
        with self._lock:
            wanted = next(
                one
                for one in candidate_keys(_moved(key))
                if one not in self._wanted and not self._server.files.exists(one)
            )
            self._wanted.add(wanted)
        return wanted

    def _copy_to(self, wanted: str, key: str, attachment: Any) -> str:
        files = self._server.files
        digest = hashlib.sha256()
        staged = files.stage(wanted, attachment.get("mimetype") or "application/octet-stream")
        try:
            for chunk in chunks_of(files, key):
                staged.write(chunk)
                digest.update(chunk)
            if digest.hexdigest() != attachment.get("hash"):
                raise MoveRefused("the SHA-256 in the record is not the file's")
            queued = self._queue(wanted)
            published: str = staged.publish()
        finally:
            staged.discard()
        if published != wanted:
            # Another upload has taken that name just now.
            self._queue(published)
            with self._server.transaction():
                self._server.deletions.take(queued)
        return published

    def _queue(self, key: str) -> Entry:
        with self._server.transaction():
            locks.block_flush(self._server.objects)
            due = retention.now() + UNLINKED_SECONDS * 1000
            return self._server.deletions.add([key], due, **{MOVING: True})

    def _write(self, link: scan.Object, old: Any, key: str, new: Any) -> None:
        """Make a record refer to its new file, and delete the previous one after the commit.

        :raises RecordChanged: it is not as it was.
        """
        record_uri = link["record_uri"]
        collection_uri, id_ = uris.parent_uri(record_uri), uris.id_of(record_uri)
        with self._server.transaction():
            locks.lock_record(self._server.objects, collection_uri, id_)
            record = scan.current_record(self._server, record_uri) or {}
            links = scan.links_between(self._server, record_uri, link["location"])
            if not links or not metadata.are_equal(record.get("attachment"), old):
                raise RecordChanged("the record has changed")
            self._server.deletions.reclaim(key)
            record = {**record, "attachment": new}
            del record["last_modified"]
            self._server.objects.update("record", collection_uri, id_, record)
            added = new_link(record_uri, key, new, links[0].get("origin"))
            self._server.links.change([added], links)
            # Whatever keep_old_files and delete_after are: the record still has the file.
            self._server.deletions.enqueue([link["location"]])


def _moved(key: str) -> str:
    """Return the key that a file should get."""
    if not is_private(key):
        return PRIVATE_FOLDER + key
    moved = key[len(PRIVATE_FOLDER) :]
    # As folder_of names the folder of a bucket that is called like that of private files.
    return f"_{moved}" if is_private(moved) else moved


def _report(console: Console, link: scan.Object, outcome: Outcome) -> None:
    what, to, reason = outcome
    if what == "gone":
        console.counts[what] += 1
        return
    key, record = link["location"], link["record_uri"]
    verb = "would move" if what == "to move" else what
    line = f"{verb}: {key} of {record}" + (f" to {to}" if to else f": {reason}")
    details = {"to": to} if to else {"reason": reason}
    console.report(what, line, key=key, record=record, **details)
