"""The bytes of a resumable upload, as they come."""

import contextlib
import time
from collections.abc import Iterable
from typing import Any

from pyramid.httpexceptions import HTTPClientError

from kinto_attachment import errors
from kinto_attachment.form.digests import Hashes
from kinto_attachment.resumable.upload import Upload
from kinto_attachment.resumable.uploads import Uploads
from kinto_attachment.storage.contract import PartialFile, Superseded


MAX_SECONDS_BETWEEN_SAVES = 60
"""How old the expiry in Kinto's storage becomes while bytes arrive."""


class Reception:
    """The bytes that one request appends to an upload that it has taken over.

    :ivar upload: its state, as it was saved last.
    :param hashes: with the digests that were sent. If there is any, no byte counts before they are
        compared.
    """

    def __init__(
        self,
        uploads: Uploads,
        upload: Upload,
        file: PartialFile,
        hashes: Hashes,
        transactions: Any,
    ):
        self.upload = upload
        self._uploads = uploads
        self._file = file
        self._hashes = hashes
        self._transactions = transactions
        self._saved_at = time.monotonic()

    def receive(self, pieces: Iterable[bytes], known: int) -> None:
        """Append bytes, all of which then survive this process.

        If the client goes away, what it has sent is kept, unless it was to be verified.

        :param known: how many of the first bytes are there already.
        :raises HTTPException: as of ``pieces``, a digest differs, or another request took over.
        :raises StorageError: the bytes cannot be stored.
        """
        start = self._file.size
        try:
            for piece in pieces:
                self._hashes.update(piece)
                self._append(piece[known:])
                known = max(0, known - len(piece))
            if different := self._hashes.different():
                raise errors.checksum_mismatch(different.field)
            self._keep(start)
        except BaseException as error:
            # The first error counts.
            with contextlib.suppress(Exception):
                self._keep_or_drop(start)
            if isinstance(error, Superseded):
                raise errors.superseded() from error
            raise

    def _keep_or_drop(self, start: int) -> None:
        """Keep what was received, unless it is to be verified, or is another request's by now."""
        self._transactions.restart()
        try:
            if not self._hashes.is_compared:
                self._keep(start)
                return
        except HTTPClientError:
            self._transactions.restart()
        # A commit that was not answered may have saved more than this request knows of.
        state = self._transactions.run(lambda: self._uploads.state_to_continue(self.upload))
        self._file.rewind(start, state)

    def _append(self, piece: bytes) -> None:
        if not piece:
            return
        self._file.write(piece)
        age = time.monotonic() - self._saved_at
        if not self._hashes.is_compared and self._parts() != self.upload.parts:
            self._save(parts=self._parts())
        elif age > min(MAX_SECONDS_BETWEEN_SAVES, self._uploads.expires_seconds / 4):
            self._save()

    def _keep(self, start: int) -> None:
        if self._file.size != start:
            self._file.flush()
        if self._hashes.is_compared or self._parts() != self.upload.parts:
            self._save(parts=self._parts(), verified=None)

    def _parts(self) -> dict[str, Any]:
        return {**self.upload.parts, self.upload.file_name: self._file.state}

    def _save(self, **changes: Any) -> None:
        self.upload = self._transactions.run(lambda: self._uploads.save(self.upload, **changes))
        self._saved_at = time.monotonic()
