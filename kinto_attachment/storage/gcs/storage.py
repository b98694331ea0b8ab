"""Files in a bucket of Google Cloud Storage."""

import functools
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from google.cloud.storage import Client
from google.cloud.storage.batch import Batch

from kinto_attachment.storage.contract import (
    PresignedFiles,
    ResumableFiles,
    Storage,
    StorageError,
    StoredFile,
)
from kinto_attachment.storage.gcs import partial
from kinto_attachment.storage.gcs.bucket import Bucket, GCSError
from kinto_attachment.storage.gcs.presigned import presigned_url
from kinto_attachment.storage.gcs.staged import STAGING_FOLDER, GCSStagedFile
from kinto_attachment.storage.ranges import part_of


MAX_DELETED_AT_ONCE = 100
"""A limit of GCS ("Batch requests")."""


class GCSStorage(Storage, ResumableFiles, PresignedFiles):
    """A bucket.

    :param options: the settings ``gcloud.…`` and ``base_url``.
    :raises ConfigurationError: the credentials cannot be used.
    """

    def __init__(self, options: Mapping[str, Any]):
        self.bucket = Bucket(options)
        self._endpoint = options["gcloud.endpoint_url"] or "https://storage.googleapis.com"
        self.base_url = options["base_url"] or self.bucket_url()
        self._part_size: int = options["gcloud.part_size_bytes"]

    def __str__(self) -> str:
        return str(self.bucket)

    def stage(self, key: str, mimetype: str, unique: bool = False) -> GCSStagedFile:
        """Return a staged file. Nothing is sent yet."""
        return GCSStagedFile(self.bucket, key, mimetype, self._part_size, unique)

    def replace(self, key: str, mimetype: str) -> GCSStagedFile:
        return GCSStagedFile(self.bucket, key, mimetype, self._part_size, True, replaces=True)

    def begin_partial(self, key: str, mimetype: str, unique: bool) -> partial.State:
        return partial.new_state(mimetype)

    def partial_size(self, name: str, state: partial.State) -> int:
        return partial.size_of(state)

    def resume(
        self, name: str, state: partial.State, generation: int, size: int | None = None
    ) -> partial.GCSPartialFile:
        delete = functools.partial(self._delete_staged, name, generation - 1)
        return partial.GCSPartialFile(
            self.bucket, name, state, generation, size, self._part_size, delete
        )

    def discard_partial(
        self, name: str, state: partial.State, generation: int, is_last: bool = False
    ) -> None:
        self._delete_staged(name, None, [])

    def open(self, key: str) -> BinaryIO:
        """Return a stored file, of which up to a part is in memory."""
        return self.bucket.open(key, self._part_size)

    def open_range(self, key: str, first: int, length: int) -> BinaryIO:
        """Return some bytes of a stored file, of which up to a part is in memory."""
        stream = self.bucket.open(key, max(1, min(length, self._part_size)))
        stream.seek(first)
        return part_of(stream, length, self.bucket.errors)

    def bucket_url(self) -> str:
        return f"{self._endpoint}/{self.bucket.name}/"

    def presigned_url(self, key: str, since: int, expires: int, headers: dict[str, str]) -> str:
        """Return a signed URL. (Without a private key, Google is asked for the signature.)"""
        path = f"/{self.bucket.name}/{urllib.parse.quote(key, safe='/~')}"
        with self.bucket.errors():
            credentials = self.bucket.session.credentials
            return presigned_url(self._endpoint, path, credentials, since, expires, headers)

    def exists(self, key: str) -> bool:
        return self.bucket.find(key) is not None

    def delete(self, key: str) -> bool:
        return self.bucket.call_if_found(self.bucket.blob(key).delete)

    def delete_many(self, keys: Iterable[str]) -> dict[str, StorageError]:
        keys = list(keys)
        failed: dict[str, StorageError] = {}
        for start in range(0, len(keys), MAX_DELETED_AT_ONCE):
            failed |= self._delete_batch(keys[start : start + MAX_DELETED_AT_ONCE])
        return failed

    def files(self) -> Iterator[StoredFile]:
        return (file for file in self._objects() if not file.key.startswith(STAGING_FOLDER))

    def incomplete_uploads(self) -> Iterator[StoredFile]:
        """Return the staged files that are complete. (Sessions cannot be listed.)"""
        return self._objects(prefix=STAGING_FOLDER)

    def _objects(self, **parameters: str) -> Iterator[StoredFile]:
        fields = "items(name,size,timeCreated),nextPageToken"
        with self.bucket.errors():
            client = self.bucket.client
            for blob in self.bucket.call(
                client.list_blobs, self.bucket.name, fields=fields, **parameters
            ):
                yield StoredFile(blob.name, blob.size, blob.time_created.timestamp())

    def _delete_staged(self, name: str, last: int | None, kept: list[str]) -> None:
        """Delete the objects of a partial file, also those that no state refers to.

        :param last: the last generation of which they are deleted, ``None`` for all.
        """
        found = self._objects(prefix=partial.staged_prefix(name))
        keys = [
            file.key
            for file in found
            if file.key not in kept
            and (last is None or partial.generation_of(name, file.key) <= last)
        ]
        for failure in self.delete_many(keys).values():
            raise failure

    def _delete_batch(self, keys: list[str]) -> dict[str, StorageError]:
        if len(keys) == 1:
            return super().delete_many(keys)
        try:
            with self.bucket.errors(), _Batch(self.bucket.client) as batch:
                for key in keys:
                    self.bucket.call(self.bucket.blob(key).delete)
        except GCSError as error:
            if isinstance(error.__cause__, ValueError):  # An emulator without batches.
                return super().delete_many(keys)
            return dict.fromkeys(keys, error)
        return {
            key: StorageError(f"{self}: {key}: {answer.status_code} {answer.text}")
            for key, answer in zip(keys, batch.answers, strict=True)
            if not answer.ok and answer.status_code != 404
        }


class _Batch(Batch):
    """A batch that keeps its answers, which are in no documented attribute."""

    def __init__(self, client: Client):
        super().__init__(client, raise_exception=False)
        self.answers: list[Any] = []

    def finish(self, raise_exception: bool = True) -> list[Any]:
        self.answers = super().finish(raise_exception)
        return self.answers
