"""The check of the storage for ``/__heartbeat__``."""

import io
import logging
import threading
import uuid
from concurrent.futures import Future, wait
from typing import Any

from pyramid.settings import asbool

from kinto_attachment.background import in_background
from kinto_attachment.storage.contract import Storage
from kinto_attachment.storage.names import make_heartbeat_key


logger = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT_SECONDS = 1.7


class Heartbeat:
    """Checks whether files can be written, read and deleted."""

    def __init__(self, storage: Storage):
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

    def _running_probe(self) -> "Probe":
        """Return the running probe, so that a storage that hangs occupies only one thread."""
        with self._lock:
            if self._probe is None or self._probe.end.done():
                self._probe = Probe(self._storage)
            return self._probe


class Probe:
    """A file that is written, read and deleted, in a thread of its own.

    :ivar end: the future result.
    """

    def __init__(self, storage: Storage):
        self._storage = storage
        self._is_readable = False
        self.end = in_background(self._write_read_delete)

    def result(self, timeout: float) -> bool:
        """Return whether the storage works.

        A slow storage (S3 on a long line) has more time for the deletion: if only that is
        outstanding after the timeout, its failure is logged.

        :raises TimeoutError: the result is not known yet.
        """
        wait([self.end], timeout)
        if self._is_readable and not self.end.done():
            self.end.add_done_callback(self._log_failure)
            return True
        return self.end.result(timeout=0)

    def _log_failure(self, end: "Future[bool]") -> None:
        if end.exception() is not None:
            logger.error(
                "The heartbeat's file was not deleted: %s", self._storage, exc_info=end.exception()
            )

    def _write_read_delete(self) -> bool:
        content = uuid.uuid4().bytes
        key = make_heartbeat_key()
        staged = self._storage.stage(key, "application/octet-stream", unique=True)
        try:
            staged.write(content)
            key = staged.publish()
        finally:
            staged.discard()
        try:
            self._is_readable = self._contains(key, content)
        finally:
            self._storage.delete(key)
        return self._is_readable

    def _contains(self, key: str, content: bytes) -> bool:
        try:
            with self._storage.open(key) as stored:
                return stored.read() == content
        except io.UnsupportedOperation:  # Some backends of pyramid_storage cannot read.
            return self._storage.exists(key)
