"""Files: where they live, and those that the running transaction created.

A storage is a pyramid_storage backend (``IFileStorage``) with staging added::

    stage(name, mimetype, unique=False)
                            a staged file, which nobody else can see or fetch, with
        write(chunk)            append bytes
        publish()               make it a stored file under a free name like the one that was
                                asked for, and return that name
        discard()               forget it; does nothing where it is published or discarded
    replace(name, mimetype) a staged file whose publish() takes this very name, whatever has it
    open(name)              a binary file object on a stored file, or FileNotFoundError
    delete(name)            whether there was such a file
    delete_many(names)      those that could not be deleted, ``{name: StorageError}``; to delete
                            what is gone is no failure
    exists(name)            whether there is one
    files()                 a StoredFile for each of the stored files, in no order, as they are read
    unfinished()            the same for what is staged, by whomever
    url(name)               the location of a stored file
    is_remote               whether it may take long to answer, so that nobody should hold a
                            connection to the database meanwhile
    str(…)                  what an administrator calls it

Names are relative to the storage, with slashes. A name is ``unique`` where nobody else ever asks
for it. What cannot be done raises ``StorageError``.
"""

import io
import logging
import os
import random
import re
import sys
import threading
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

import transaction
from pyramid.settings import asbool

from kinto_attachment.settings.options import MAX_NAME_BYTES, MAX_RID


logger = logging.getLogger(__name__)

MAX_EXTENSION_BYTES = 64
HEARTBEAT_TIMEOUT_SECONDS = 1.7

NUMBERED_IN_ORDER = 1000
REMOTE_NUMBERED_IN_ORDER = 4
"""How many files of one name are numbered one after the other. Remotely, every try is a request."""

MAX_NUMBER_DIGITS = 18

DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names that Windows keeps for itself, with any extension."""


class StorageError(Exception):
    """The storage could not do what it was asked to, and the request is not to blame."""


@dataclass(frozen=True)
class StoredFile:
    """A file as a storage lists it.

    :ivar size: in bytes, ``None`` where the storage does not tell it.
    :ivar modified: when it was written, in seconds since 1970.
    :ivar is_dated: whether it was not published after ``modified``, as far as the storage tells.
    """

    name: str
    size: int | None
    modified: float
    is_dated: bool = True


def stored_name(
    filename: str,
    folder: str,
    randomize: bool,
    pattern: str = "{filename}",
    record_id: str = "",
    appended: str = "",
) -> str:
    """Return the name to ask the storage for: safe in any file system and URL.

    :param folder: relative, without outer slashes, may be empty.
    :param randomize: only the extension is taken from the filename.
    :param pattern: what the name is before its extension: text in which ``{datetime}`` is the
        time in UTC, ``{rid}`` the record's id and ``{filename}`` the (random) name.
    :param appended: another extension, that of a compressed file.
    """
    stem, extension = _safe_parts(filename)
    if randomize:
        stem, extension = str(uuid.uuid4()), extension.lower()
    now = time.strftime("%Y%m%d%H%M%S", time.gmtime())
    # Cut here, so that no long id takes the place of what makes a random name unique.
    stem = _safe_stem(pattern.format(datetime=now, rid=record_id[:MAX_RID], filename=stem))
    name = _fit(stem, extension + appended)
    return f"{folder}/{name}" if folder else name


def candidates(name: str, in_order: int = NUMBERED_IN_ORDER) -> Iterator[str]:
    """Return the names to try until a free one is found: the name, then with ``-1``, ``-2``…

    Then the numbers are random, and each has a digit more than the last: however many files of that
    name there are, a free one is found soon. Where all are said to be taken, that is not true.

    :param in_order: how many numbers come one after the other.
    """
    yield name
    folder, base = os.path.split(name)
    stem, extension = os.path.splitext(base)
    if extension == ".gz":
        # Who decompresses it gets a name that ends in the extension of the content.
        stem, inner = os.path.splitext(stem)
        extension = inner + extension
    for number in _numbers(in_order):
        yield os.path.join(folder, _fit(stem, f"-{number}{extension}"))


def _numbers(in_order):
    yield from range(1, in_order + 1)
    for digits in range(len(str(in_order)) + 1, MAX_NUMBER_DIGITS + 1):
        yield random.randrange(10 ** (digits - 1), 10**digits)


def delete_one_by_one(
    delete: Callable[[str], Any], names: Iterable[str]
) -> dict[str, StorageError]:
    """Delete stored files, and return those that could not be deleted."""
    failed = {}
    for name in names:
        try:
            delete(name)
        except StorageError as error:
            failed[name] = error
    return failed


def in_background(function: Callable[[], Any]) -> Future:
    """Return the future result of a function that runs in a thread of its own.

    It is a daemon thread, since one that hangs must not keep the server from stopping.
    """
    future: Future = Future()

    def run():
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _safe_parts(filename):
    stem, extension = os.path.splitext(filename)
    extension = _ascii(extension).strip("._-")[:MAX_EXTENSION_BYTES]
    return _safe_stem(stem), f".{extension}" if extension else ""


def _safe_stem(text):
    stem = _ascii(text).strip(".-_") or "attachment"
    return f"_{stem}" if DEVICES.match(stem) else stem


def _ascii(text):
    decomposed = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9_.-]", "", "_".join(decomposed.split()))


def _fit(stem, suffix):
    return stem[: MAX_NAME_BYTES - len(suffix)] + suffix


class TransactionFiles:
    """The files that the running transaction created.

    Until the transaction ends, a new file belongs to it: it goes where the transaction fails.

    :param doubt: is called with the files of a transaction whose commit was sent, and then the
        connection to the database was lost.
    """

    def __init__(self, storage: Any, doubt: Callable[[list[str]], Any]):
        self._storage = storage
        self._doubt = doubt
        self._created: list[str] = []
        running = transaction.get()
        running.addAfterCommitHook(self._after_commit)
        running.addAfterAbortHook(self._after_abort)

    def created(self, name: str) -> None:
        """Remember a new file, to be deleted unless the transaction commits."""
        self._created.append(name)

    def hand_over(self, name: str) -> None:
        """Forget a new file: it is about to belong to another transaction."""
        self._created.remove(name)

    def _after_commit(self, success):
        if success:
            return
        # SQLAlchemy says so of its errors; ``transaction`` calls hooks while it handles them.
        if getattr(sys.exc_info()[1], "connection_invalidated", False):
            self._doubt(list(self._created))
            self._created.clear()
        self._after_abort()

    def _after_abort(self):
        # A failed commit is followed by an abort: what was done at the first is not done again.
        names = list(self._created)
        self._created.clear()
        if names:
            log_undeleted(self._storage, self._storage.delete_many(names))


def log_undeleted(storage: Any, failed: dict[str, StorageError]) -> None:
    """Log what ``delete_many`` could not delete."""
    for name, error in failed.items():
        logger.error(
            "The attachment file %s could not be deleted", storage.url(name), exc_info=error
        )


class Heartbeat:
    """Tells whether files can be written, read and deleted, for ``/__heartbeat__``."""

    def __init__(self, storage: Any):
        self._storage = storage
        self._lock = threading.Lock()
        self._probe: Probe | None = None

    def __call__(self, request: Any) -> bool:
        """Return whether the storage works. Never raises, and answers within two seconds."""
        if asbool(request.registry.settings["readonly"]):
            return True
        try:
            return self._running_probe().result(timeout=HEARTBEAT_TIMEOUT_SECONDS)
        except Exception:
            logger.exception("The attachments storage does not work: %s", self._storage)
            return False

    def _running_probe(self):
        """Return the probe that runs, so that a storage that hangs holds one thread and no more."""
        with self._lock:
            if self._probe is None or self._probe.is_done:
                self._probe = Probe(self._storage)
            return self._probe


class Probe:
    """A file that is written, read and deleted, in a thread of its own."""

    def __init__(self, storage: Any):
        self._storage = storage
        self._is_held = False
        self._end = in_background(self._write_read_delete)

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self._end.done()

    def result(self, timeout: float) -> bool:
        """Return whether the storage works.

        A storage that takes its time (S3 on a long line) has that for the deletion, too: where only
        that is still to come, its failure is logged.

        :raises TimeoutError: nobody knows yet.
        """
        wait([self._end], timeout)
        if self._is_held and not self.is_done:
            self._end.add_done_callback(self._log_failure)
            return True
        return self._end.result(timeout=0)

    def _log_failure(self, end):
        if end.exception() is not None:
            logger.error(
                "The heartbeat's file was not deleted: %s", self._storage, exc_info=end.exception()
            )

    def _write_read_delete(self):
        content = uuid.uuid4().bytes
        name = f"heartbeat-{uuid.uuid4()}"
        staged = self._storage.stage(name, "application/octet-stream", unique=True)
        try:
            staged.write(content)
            name = staged.publish()
        finally:
            staged.discard()
        try:
            self._is_held = self._holds(name, content)
        finally:
            self._storage.delete(name)
        return self._is_held

    def _holds(self, name, content):
        try:
            with self._storage.open(name) as stored:
                return stored.read() == content
        except io.UnsupportedOperation:  # Not every backend of pyramid_storage can be read from.
            return self._storage.exists(name)
