"""The uploads that a process has begun in a remote storage, which end with it."""

import logging
import os
import threading
import time
from multiprocessing.util import Finalize
from typing import Protocol


logger = logging.getLogger(__name__)


class RunningUpload(Protocol):
    """An upload that leaves something in the storage until it is completed or aborted."""

    @property
    def max_silent_seconds(self) -> float:
        """How long :meth:`abort` takes if the storage sends nothing."""
        ...

    def abandon(self) -> None:
        """Stop sending."""

    def abort(self) -> None:
        """Delete what is stored of it. Never raises; what cannot be deleted is logged."""


class RunningUploads:
    """The running uploads of this process, which are aborted when it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process_id: int | None = None
        self._uploads: set[RunningUpload] = set()

    def track(self, upload: RunningUpload) -> None:
        """Abort an upload when the process ends."""
        with self._lock:
            if self._process_id != os.getpid():
                self._process_id = os.getpid()
                self._uploads = set()
                # Unlike atexit, this also runs in the worker processes of granian.
                Finalize(None, self._abort_all, exitpriority=1)
            self._uploads.add(upload)

    def untrack(self, upload: RunningUpload) -> None:
        """Forget an upload that is completed or aborted."""
        self._uploads.discard(upload)

    def _abort_all(self) -> None:
        uploads = list(self._uploads)
        for upload in uploads:
            upload.abandon()
        limit = max((upload.max_silent_seconds for upload in uploads), default=0)
        deadline = time.monotonic() + limit
        for upload in uploads:
            if time.monotonic() > deadline:
                logger.warning("Running uploads stay: the storage is too slow to abort them")
                return
            upload.abort()


RUNNING = RunningUploads()
