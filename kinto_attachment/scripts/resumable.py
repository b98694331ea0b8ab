"""An upload that resumes where it broke off (tus 1.0.0)."""

import base64
import contextlib
import email.utils
import hashlib
import json
import logging
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import requests

from kinto_attachment.scripts.collection import Collection
from kinto_attachment.scripts.content import CHUNK_BYTES, sha256
from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.http_client import RETRIED_STATUSES, TRANSIENT_ERRORS
from kinto_attachment.scripts.responses import check_status, not_kinto


logger = logging.getLogger(__name__)

VERSION = {"Tus-Resumable": "1.0.0"}

BODY_BYTES = 64 * 1024 * 1024
"""The most that is sent again, by a server or proxy that takes no part of a body."""

GONE = (404, 410)

DAY = 86_400
UNKNOWN_EXPIRY_SECONDS = 30 * DAY
"""How long an upload is remembered if the server does not say how long it keeps it."""


class ResumableUpload:
    """The upload of a file, which another run may have begun.

    :param path: of the record's attachment.
    :param attributes: of the record.
    :param progress: is called with the number of bytes added (negative if they are removed).
    """

    def __init__(
        self,
        collection: Collection,
        path: str,
        source: BinaryIO,
        filename: str,
        mimetype: str | None,
        attributes: dict[str, Any],
        progress: Callable[[int], None],
    ):
        self._collection = collection
        self._path = f"{path}/uploads"
        self._source = source
        self._progress = progress
        self._sent = 0
        self._attempts = 0
        self._size = source.seek(0, os.SEEK_END)
        source.seek(0)
        self._creation = {
            "Upload-Length": str(self._size),
            "Upload-Metadata": _metadata(
                filename=filename,
                filetype=mimetype,
                data=json.dumps(attributes) if attributes else None,
            ),
            # A file that changes while it is sent is refused.
            "Repr-Digest": f"sha-256=:{_base64(bytes.fromhex(sha256(source)))}:",
        }
        self._state = _State(collection.server + self._path)

    def send(self, params: dict[str, str] | None) -> bool:
        """Return whether the server has the file, or does not take such uploads for this record.

        :param params: of the first request.
        :raises Failure: it could not be sent, and another run may go on with it.
        """
        path, creation = self._state.load()
        if path and creation != self._creation:
            # Of what the file was before.
            self._request("DELETE", path, (204, *GONE)).close()
            path = None
        offset = self._offset(path) if path else None
        farthest = -1
        while offset != self._size:
            if offset is None:
                path, offset = self._create(params), 0
                if path is None:
                    return False
            self._show(offset)
            if offset > farthest:
                # As for downloads, the attempts count from the last progress.
                farthest, self._attempts = offset, 0
            offset = self._append(str(path), offset)
        self._show(self._size)
        self._state.clear()
        return True

    def _create(self, params: dict[str, str] | None) -> str | None:
        """Return the path of a new upload, or ``None`` if there are none for this record."""
        expected, headers = (201, 404, 405), self._creation
        with self._request("POST", self._path, expected, headers=headers, params=params) as created:
            if created.status_code != 201:
                return None
            # A server behind a proxy may not know its own URL.
            location = urllib.parse.urlsplit(created.headers.get("Location", "")).path
            path = f"{self._path}/{location.rpartition('/')[2]}"
            self._state.save(path, self._creation, _expiry(created))
        return path

    def _offset(self, path: str) -> int | None:
        """Return how much of an upload the server has, or ``None`` if the upload is gone."""
        with self._request("HEAD", path, (200, 204, *GONE)) as response:
            return None if response.status_code in GONE else self._acknowledged(response)

    def _append(self, path: str, offset: int) -> int | None:
        """Return how much the server has after a body, or ``None`` if the upload is gone."""
        headers = {
            **VERSION,
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": str(offset),
        }
        body = _Body(self._source, offset, min(BODY_BYTES, self._size - offset), self._advance)
        reason: object
        retry_after = None
        try:
            with self._collection.attempt("PATCH", path, headers=headers, data=body) as response:
                reason, retry_after = response.status_code, response.headers.get("Retry-After")
                if reason not in (*RETRIED_STATUSES, *GONE):
                    return self._acknowledged(check_status(response, 200, 204))
        except TRANSIENT_ERRORS as error:
            reason = error
        self._collection.http.wait_before_retry(self._attempts, reason, retry_after)
        self._attempts += 1
        return self._offset(path)

    def _request(
        self, method: str, path: str, expected: tuple[int, ...], **options: Any
    ) -> requests.Response:
        headers = {**VERSION, **options.pop("headers", {})}
        return self._collection.request(method, path, expected, headers=headers, **options)

    def _acknowledged(self, response: requests.Response) -> int:
        offset = response.headers.get("Upload-Offset", "")
        if not re.fullmatch("[0-9]{1,18}", offset) or int(offset) > self._size:
            raise not_kinto(response)
        self._state.keep_until(_expiry(response))
        return int(offset)

    def _show(self, offset: int) -> None:
        self._advance(offset - self._sent)

    def _advance(self, size: int) -> None:
        self._sent += size
        self._progress(size)


class _Body:
    """A part of a file, which is read while it is sent. ``len()`` returns its size in bytes."""

    def __init__(self, source: BinaryIO, start: int, size: int, progress: Callable[[int], None]):
        self._source = source
        self._start = start
        self._size = size
        self._progress = progress

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        self._source.seek(self._start)
        left = self._size
        while left:
            chunk = self._read(left)
            left -= len(chunk)
            yield chunk
            self._progress(len(chunk))

    def _read(self, left: int) -> bytes:
        try:
            chunk = self._source.read(min(CHUNK_BYTES, left))
        except OSError as error:
            # An OSError would be taken for one of the connection.
            raise Failure(error.strerror or str(error)) from error
        if not chunk:
            raise Failure("was changed while it was sent")
        return chunk


class _State:
    """What the next run has to know of an upload, in a file of the user.

    The time of the file is when the server forgets the upload.

    :param url: of the record's uploads, of which one is remembered.
    """

    def __init__(self, url: str):
        # XDG Base Directory Specification.
        folder = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        name = hashlib.sha256(url.encode()).hexdigest()
        self._file = Path(folder, "kinto-attachment-upload", f"{name}.json")

    def load(self) -> tuple[str | None, Any]:
        """Return the path of the upload and the headers that it began with, ``None`` for none."""
        try:
            saved = json.loads(self._file.read_bytes())
            return str(saved["path"]), saved["creation"]
        except (OSError, ValueError, LookupError, TypeError):
            return None, None

    def save(self, path: str, creation: dict[str, str], expiry: float) -> None:
        """Remember an upload, or log that it cannot be remembered. Others may be forgotten."""
        written = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._forget_expired()
            written.write_text(json.dumps({"path": path, "creation": creation}))
            os.replace(written, self._file)
            self.keep_until(expiry)
        except OSError as error:
            logger.warning("Another run cannot go on with this upload: %s", error)

    def keep_until(self, expiry: float) -> None:
        """Remember the upload until then."""
        with contextlib.suppress(OSError):
            os.utime(self._file, (expiry, expiry))

    def clear(self) -> None:
        """Forget the upload."""
        with contextlib.suppress(OSError):
            self._file.unlink()

    def _forget_expired(self) -> None:
        """Delete the files of uploads that no run has gone on with. Clocks may be a day apart."""
        for file in self._file.parent.iterdir():
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < time.time() - DAY:
                    file.unlink()


def _expiry(response: requests.Response) -> float:
    """Return when the server forgets an upload, in seconds since 1970."""
    try:
        header = response.headers.get("Upload-Expires", "")
        return email.utils.parsedate_to_datetime(header).timestamp()
    except (TypeError, ValueError, OverflowError):
        return time.time() + UNKNOWN_EXPIRY_SECONDS


def _metadata(**values: str | None) -> str:
    pairs = ((key, value) for key, value in values.items() if value is not None)
    return ",".join(f"{key} {_base64(value.encode())}" for key, value in pairs)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
