"""Copy all files to another storage, under the same names.

The target is the storage of another settings file, for example S3 instead of a folder. Files that
exist there with the same size and SHA-256 are skipped. Run it while the server is running, once
more for new files, and then switch to the other settings.
"""

import argparse
import contextlib
import hashlib
import mimetypes
from collections.abc import Iterator
from typing import Any, NamedTuple

from kinto_attachment.background import in_parallel
from kinto_attachment.commands import options
from kinto_attachment.commands.contents import chunks_of, sha256_of
from kinto_attachment.commands.inventory import Inventory
from kinto_attachment.commands.server import open_files, open_server
from kinto_attachment.console import Console
from kinto_attachment.storage.contract import StorageError


# The metadata of a record without a link to the file may be made up.
FILES = """
SELECT files.key, files.size, others.size,
    max(coalesce(links.hash, records.hash)), max(coalesce(links.mimetype, records.mimetype))
FROM files
LEFT JOIN others ON others.key = files.key
LEFT JOIN links ON links.key = files.key
LEFT JOIN records ON records.record = links.record AND records.key = links.key
GROUP BY files.key
"""


class CopyMismatch(Exception):
    """A file or its copy has another SHA-256 than expected; the message has both."""


class Job(NamedTuple):
    """A file to copy.

    :ivar size: in the source, in bytes.
    :ivar target_size: in the target, or ``None`` if it has no such file.
    :ivar hash: the SHA-256 in its record, or ``None``.
    """

    key: str
    size: int
    target_size: int | None
    hash: str | None
    mimetype: str


Outcome = tuple[str, str, str | None]
"""What became of a file (``copied``, ``unchanged``, ``gone``, ``failed``), its key, a reason."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument(
        "--to", required=True, metavar="INI", help="the settings file with the other storage"
    )
    parser.add_argument(
        "--jobs",
        type=options.positive,
        default=4,
        help="the number of files copied at once (default: 4)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="compare only the size of files that exist already",
    )


def run(args: argparse.Namespace, console: Console) -> bool:
    """Copy all files, and return whether none has failed.

    :raises StorageError: one of the storages cannot be listed.
    """
    server, target = open_server(args.ini), open_files(args.to)
    with Inventory(server, console) as inventory:
        inventory.add_others(console.track("files there", target.files()))
        console.begin("bytes", next(inventory.rows("SELECT sum(size) FROM files"))[0] or 0)
        copier = _Copier(server.files, target, console, args.quick)
        for _, outcome in in_parallel(copier.copy, _jobs(inventory), args.jobs):
            what, key, reason = outcome.result()
            if what in ("copied", "failed"):
                line = f"{what}: {key}" + (f": {reason}" if reason else "")
                console.report(what, line, key=key, reason=reason)
            else:
                console.counts[what] += 1
        console.end(counts=console.counts)
    return not console.counts["failed"]


def _jobs(inventory: Inventory) -> Iterator[Job]:
    for key, size, target_size, expected, mimetype in inventory.rows(FILES):
        mimetype = mimetype or mimetypes.guess_type(key)[0] or "application/octet-stream"
        yield Job(key, size, target_size, expected, mimetype)


class _Copier:
    def __init__(self, source: Any, target: Any, console: Console, quick: bool):
        self._source = source
        self._target = target
        self._console = console
        self._quick = quick

    def copy(self, job: Job) -> Outcome:
        """Return the outcome of a job."""
        try:
            if job.target_size == job.size and (self._quick or self._is_copied(job)):
                self._console.advance(job.size)
                return "unchanged", job.key, None
            self._transfer(job)
        except FileNotFoundError:
            # Deleted since it was listed.
            return "gone", job.key, None
        except (CopyMismatch, StorageError) as error:
            return "failed", job.key, str(error)
        return "copied", job.key, None

    def _is_copied(self, job: Job) -> bool:
        expected = job.hash or sha256_of(self._source, job.key)
        with contextlib.suppress(FileNotFoundError):
            return sha256_of(self._target, job.key) == expected
        return False

    def _transfer(self, job: Job) -> None:
        digest = hashlib.sha256()
        staged = self._target.replace(job.key, job.mimetype)
        try:
            for chunk in chunks_of(self._source, job.key):
                staged.write(chunk)
                digest.update(chunk)
                self._console.advance(len(chunk))
            actual = digest.hexdigest()
            if job.hash not in (None, actual):
                raise CopyMismatch(f"its SHA-256 is {actual}, that in its record {job.hash}")
            staged.publish()
        finally:
            staged.discard()
        if job.hash is None:
            self._read_back(job.key, actual)

    def _read_back(self, key: str, expected: str) -> None:
        actual = sha256_of(self._target, key)
        if actual != expected:
            raise CopyMismatch(f"its SHA-256 is {expected}, that of the copy is {actual}")
