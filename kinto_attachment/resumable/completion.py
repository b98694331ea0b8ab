"""The end of a resumable upload: its bytes become a stored file, and that a record's attachment."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import transaction
from pyramid.httpexceptions import HTTPClientError, HTTPConflict

from kinto_attachment import errors
from kinto_attachment.background import in_background
from kinto_attachment.form import digests
from kinto_attachment.form.body import CHUNK_BYTES
from kinto_attachment.form.upload import HASH, Description, FilePart
from kinto_attachment.form.upload import Upload as ReceivedFile
from kinto_attachment.resumable.upload import DONE, RECEIVING, STORED, Upload, now
from kinto_attachment.resumable.uploads import Uploads
from kinto_attachment.storage.contract import PartialFile, StorageError, Superseded


CLAIM_SECONDS = 6
"""How long after the death of a worker others may complete what it was completing."""


class Completion:
    """One try to complete an upload that this request has taken over.

    What is lost with the worker is done once more by the next try, from the state that it finds.

    :param gzip_level: ``None`` to not compress the file.
    :param location_of: gives the URL of a key.
    :param time_publish: returns a context in which a file is published.
    """

    def __init__(
        self,
        uploads: Uploads,
        gzip_level: int | None,
        location_of: Callable[[str], str],
        transactions: Any,
        time_publish: Callable[[], Any],
    ):
        self._uploads = uploads
        self._gzip_level = gzip_level
        self._location_of = location_of
        self._transactions = transactions
        self._time_publish = time_publish
        self._opened = contextlib.ExitStack()

    def complete(
        self, upload: Upload, file: PartialFile, write: Callable[[Upload], Any]
    ) -> tuple[Upload, Any]:
        """Return the upload, and Kinto's response on the change of its record.

        :param write: changes the record and its links in the running transaction.
        :raises HTTPClientError: the file or the change is refused, and the upload is given up; or
            another request has taken it over (409).
        :raises Exception: something failed. The next request may try again.
        """
        try:
            with self._claimed(upload), self._opened:
                with self._time_publish():
                    stored = self._store(upload, file)
                # With Kinto's hooks, which were those of the first transaction.
                self._transactions.restart()
                done = self._transactions.run(lambda: self._attach(stored, write))
        except Superseded as error:
            raise errors.superseded() from error
        except HTTPClientError as error:
            if not isinstance(error, HTTPConflict):
                self.give_up(upload)
            raise
        for name, state in stored.parts.items():
            # What cannot be deleted now is deleted with the state, when that expires.
            with contextlib.suppress(StorageError):
                self._uploads.files.discard_partial(name, state, stored.generation)
        return done

    def give_up(self, upload: Upload) -> None:
        """Undo the running transaction, and delete all that there is of an upload."""

        def discard() -> None:
            current = self._uploads.get(upload.record_uri, upload.id, upload.user)
            self._uploads.discard([current])

        self._transactions.restart()
        with contextlib.suppress(HTTPClientError):
            self._transactions.run(discard)

    def _store(self, upload: Upload, file: PartialFile) -> Upload:
        """Return the upload with its file stored.

        Its key is saved before the file gets it, so that a file without its record is known.
        """
        if upload.phase == RECEIVING:
            upload, file = self._describe(upload, file)
        elif file.publish(str(upload.key)):
            return upload
        if upload.attachment is None or file.size != upload.attachment["size"]:
            raise StorageError(f"The file of {upload.id} has {file.size} bytes")
        while True:
            key = file.free_key(upload.wanted_key)
            upload = self._save(
                upload,
                phase=STORED,
                key=key,
                attachment={**(upload.attachment or {}), "location": self._location_of(key)},
                parts=upload.parts,
            )
            if file.publish(key):
                return upload

    def _describe(self, upload: Upload, file: PartialFile) -> tuple[Upload, PartialFile]:
        """Return the upload with its metadata, and the file to publish.

        All bytes are read again, unless the storage knows their hash and nothing else is asked for.

        :raises HTTPBadRequest: the file has another digest than it should.
        """
        file.flush()
        published = file
        sent = digests.parse("upload", {digests.REPR_DIGEST: upload.repr_digest})
        known = self._known_hash(file, sent)
        if known is not None:
            description = Description(upload.filename, known, upload.mimetype, file.size)
            stored = ReceivedFile(description, None, _Sink(None))
        else:
            if self._gzip_level is not None:
                published = self._begin_compressed(upload)
            stored = self._read(upload, file, None if published is file else published, sent)
            published.flush()
        if (stored.original or stored.description).size != upload.length:
            raise StorageError(f"Of {upload.length} bytes, some are lost: {upload.id}")
        parts = {**upload.parts, upload.id: file.state}
        if published is not file:
            parts[upload.compressed_name] = published.state
        attachment = stored.attachment(location="")
        return dataclasses.replace(upload, attachment=attachment, parts=parts), published

    def _known_hash(self, file: PartialFile, sent: list[digests.Digest]) -> str | None:
        if self._gzip_level is not None or any(one.algorithm != HASH for one in sent):
            return None
        known = file.sha256()
        for digest in sent:
            if known not in (None, digest.value.hex()):
                raise digests.mismatch(digest)
        return known

    def _read(
        self, upload: Upload, file: PartialFile, compressed: PartialFile | None, sent: Any
    ) -> Any:
        hashes = digests.Hashes(sent, [HASH])
        sink = _Sink(compressed)
        part = FilePart(upload.filename, upload.mimetype, sink, 0, self._gzip_level, hashes)
        try:
            with file.open() as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    part.write(chunk)
            part.end()
        except BaseException:
            part.discard()
            raise
        return part.upload

    def _begin_compressed(self, upload: Upload) -> PartialFile:
        name, files = upload.compressed_name, self._uploads.files
        # An earlier try may have left a part of it.
        begun = self._uploads.begin_compressed(upload)
        files.discard_partial(name, begun, upload.generation)
        file = files.resume(name, begun, upload.generation)
        self._opened.callback(file.close)
        return file

    def _attach(self, upload: Upload, write: Callable[[Upload], Any]) -> tuple[Upload, Any]:
        response = write(upload)
        return self._uploads.save(upload, phase=DONE, completed_until=0), response

    def _save(self, upload: Upload, **changes: Any) -> Upload:
        return self._transactions.run(lambda: self._uploads.save(upload, **changes))

    @contextlib.contextmanager
    def _claimed(self, upload: Upload) -> Iterator[None]:
        """Keep other requests from completing an upload in the context, or as long as it lives."""
        ended = threading.Event()
        self._save(upload, completed_until=_claim())
        in_background(lambda: self._renew(upload, ended))
        try:
            yield
        except BaseException:
            ended.set()
            self._transactions.restart()
            # The first error counts, and the claim ends by itself.
            with contextlib.suppress(Exception):
                self._save(upload, completed_until=0)
            raise
        finally:
            ended.set()

    def _renew(self, upload: Upload, ended: threading.Event) -> None:
        while not ended.wait(CLAIM_SECONDS / 3):
            with transaction.manager:
                # This waits for a change by the request, which may be the last.
                self._uploads.get(upload.record_uri, upload.id, upload.user)
                if not ended.is_set():
                    self._uploads.save(upload, completed_until=_claim())


class _Sink:
    """Where the compressed bytes go, or nothing."""

    def __init__(self, file: PartialFile | None):
        self._file = file

    def write(self, chunk: bytes) -> None:
        if self._file is not None:
            self._file.write(chunk)

    def discard(self) -> None:
        """It is discarded with the upload."""


def _claim() -> int:
    return now() + CLAIM_SECONDS * 1000
