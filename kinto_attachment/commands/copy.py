"""``kinto-attachment copy``: copies all files to another storage, under the same names."""

import contextlib
import hashlib
import json
import mimetypes
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from kinto_attachment.commands.contents import chunks_of, sha256_of
from kinto_attachment.commands.inventory import Inventory
from kinto_attachment.commands.report import Report
from kinto_attachment.commands.server import Server
from kinto_attachment.storage.contract import StorageError


# What is said of a file by a record that does not hold it may be made up.
FILES = """
SELECT files.name, files.size, others.size, max(coalesce(links.attachment, records.attachment))
FROM files
LEFT JOIN others ON others.name = files.name
LEFT JOIN links ON links.location = files.name
LEFT JOIN records ON records.record = links.record AND records.location = links.location
GROUP BY files.name
"""


class Damaged(Exception):
    """A file is not what it should be: the message says how."""


class Job(NamedTuple):
    """A file to copy.

    :ivar size: in the source, in bytes.
    :ivar target_size: that of what has the name in the target, ``None`` where there is nothing.
    :ivar hash: the SHA-256 that its record says, or ``None``.
    """

    name: str
    size: int
    target_size: int | None
    hash: str | None
    mimetype: str


class Outcome(NamedTuple):
    """What became of a file: ``copied``, ``unchanged``, ``gone``, or ``failed`` with a reason."""

    what: str
    name: str
    reason: str | None = None


def run(server: Server, target: Any, report: Report, jobs: int, quick: bool) -> bool:
    """Copy all files, and return whether none has failed.

    :param quick: not to read what is in the target already with the right size.
    :raises StorageError: one of the storages cannot be listed.
    """
    with Inventory(server, report) as inventory:
        inventory.add_others(report.watched("files there", target.files()))
        report.begin("bytes", next(inventory.rows("SELECT sum(size) FROM files"))[0] or 0)
        copier = _Copier(server.files, target, report, quick)
        for outcome in _in_parallel(jobs, copier.copy, _jobs(inventory)):
            _tell(report, outcome)
        report.end("" if report.counts else "Nothing to do")
    return not report.counts["failed"]


def _tell(report, outcome):
    reason = f": {outcome.reason}" if outcome.reason else ""
    line = f"{outcome.what}: {outcome.name}{reason}"
    if outcome.what in ("copied", "failed"):
        report.tell(outcome.what, line, name=outcome.name, reason=outcome.reason)
    else:
        report.counts[outcome.what] += 1


def _jobs(inventory):
    for name, size, target_size, text in inventory.rows(FILES):
        attachment = json.loads(text) if text else {}
        mimetype = attachment.get("mimetype") or mimetypes.guess_type(name)[0]
        expected = attachment.get("hash")
        yield Job(name, size, target_size, expected, mimetype or "application/octet-stream")


def _in_parallel(jobs: int, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Return the results of work on items in threads. Items are taken as they are needed."""
    running: set = set()
    with ThreadPoolExecutor(jobs) as executor:
        try:
            for item in items:
                running.add(executor.submit(work, item))
                if len(running) > jobs:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in running)
        finally:
            executor.shutdown(cancel_futures=True)


class _Copier:
    def __init__(self, source: Any, target: Any, report: Report, quick: bool):
        self._source = source
        self._target = target
        self._report = report
        self._quick = quick

    def copy(self, job: Job) -> Outcome:
        """Return what became of a file."""
        try:
            if job.target_size == job.size and (self._quick or self._is_there(job)):
                self._report.advance(job.size)
                return Outcome("unchanged", job.name)
            self._transfer(job)
        except FileNotFoundError:
            # Let go since it was listed.
            return Outcome("gone", job.name)
        except (Damaged, StorageError) as error:
            return Outcome("failed", job.name, str(error))
        return Outcome("copied", job.name)

    def _is_there(self, job):
        expected = job.hash or sha256_of(self._source, job.name)
        with contextlib.suppress(FileNotFoundError):
            return sha256_of(self._target, job.name) == expected
        return False

    def _transfer(self, job):
        digest = hashlib.sha256()
        staged = self._target.replace(job.name, job.mimetype)
        try:
            for chunk in chunks_of(self._source, job.name):
                staged.write(chunk)
                digest.update(chunk)
                self._report.advance(len(chunk))
            actual = digest.hexdigest()
            if job.hash not in (None, actual):
                raise Damaged(f"its SHA-256 is {actual}, its record says {job.hash}")
            staged.publish()
        finally:
            staged.discard()
        if job.hash is None:
            self._read_back(job.name, actual)

    def _read_back(self, name, expected):
        actual = sha256_of(self._target, name)
        if actual != expected:
            raise Damaged(f"its SHA-256 is {expected}, that of the copy is {actual}")
