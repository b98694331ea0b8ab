"""Files in a bucket of Amazon S3, or of another store that speaks its protocol."""

import io
import logging
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from kinto_attachment.settings.s3 import aws_values
from kinto_attachment.storage.contract import (
    PresignedFiles,
    ResumableFiles,
    Storage,
    StorageError,
    StoredFile,
)
from kinto_attachment.storage.ranges import part_of
from kinto_attachment.storage.s3 import partial
from kinto_attachment.storage.s3.bucket import Bucket
from kinto_attachment.storage.s3.client import S3Client, S3Error
from kinto_attachment.storage.s3.staged import STAGING_FOLDER, S3StagedFile


logger = logging.getLogger(__name__)


class S3Storage(Storage, ResumableFiles, PresignedFiles):
    """A bucket.

    :param parameters: of all objects: their headers and their ACL.
    :param part_size: how many bytes of a staged file stay in memory, or make a part.
    """

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], prefix: str) -> "S3Storage":
        """Return the storage of these settings, which have the names of pyramid_storage's.

        :param settings: text or typed values.
        :raises ConfigurationError: one is wrong.
        """
        values = aws_values(settings, prefix)
        options = {name.removeprefix("aws."): value for name, value in values.items()}
        parameters = {
            "ACL": options["acl"],
            "CacheControl": options["cache_control"],
            "ContentDisposition": options["content_disposition"],
        }
        return cls(
            Bucket(options["bucket_name"], S3Client(options)),
            options["base_url"],
            {name: value for name, value in parameters.items() if value},
            options["part_size_bytes"],
        )

    def __init__(
        self, bucket: Bucket, base_url: str, parameters: Mapping[str, str], part_size: int
    ):
        self.bucket = bucket
        self.base_url = base_url or bucket.client.public_url(bucket.name)
        self._parameters = parameters
        self._part_size = part_size
        self._lists_uploads = True
        self._bucket_url: str | None = None

    def __str__(self) -> str:
        return str(self.bucket)

    def in_bucket(self, name: str) -> "S3Storage":
        """Return the same storage in another bucket."""
        bucket = Bucket(name, self.bucket.client)
        return S3Storage(bucket, self.base_url, self._parameters, self._part_size)

    def stage(self, key: str, mimetype: str, unique: bool = False) -> S3StagedFile:
        """Return a staged file. Nothing is sent yet."""
        return self.stage_with({"ContentType": mimetype}, key, unique)

    def replace(self, key: str, mimetype: str) -> S3StagedFile:
        return self.stage_with({"ContentType": mimetype}, key, unique=True, replaces=True)

    def stage_with(
        self, parameters: Mapping[str, str], key: str, unique: bool, replaces: bool = False
    ) -> S3StagedFile:
        """Return a staged file with parameters of its own."""
        merged = {**self._parameters, **parameters}
        return S3StagedFile(self.bucket, key, merged, self._part_size, unique, replaces)

    def begin_partial(self, key: str, mimetype: str, unique: bool) -> partial.State:
        return partial.new_state(key if unique else None, mimetype, self._part_size)

    def partial_size(self, name: str, state: partial.State) -> int:
        return partial.size_of(state)

    def resume(
        self, name: str, state: partial.State, generation: int, size: int | None = None
    ) -> partial.S3PartialFile:
        parameters = self._parameters
        return partial.S3PartialFile(self.bucket, name, state, generation, size, parameters)

    def discard_partial(
        self, name: str, state: partial.State, generation: int, is_last: bool = False
    ) -> None:
        partial.discard(self.bucket, name, state, generation, is_last)

    def open(self, key: str) -> BinaryIO:
        return self._open(key)

    def open_range(self, key: str, first: int, length: int) -> BinaryIO:
        if not length:
            # S3 knows no empty range.
            if not self.exists(key):
                raise FileNotFoundError(key)
            return io.BytesIO()
        try:
            stream = self._open(key, Range=f"bytes={first}-{first + length - 1}")
        except S3Error as error:
            if error.status == 416:
                return io.BytesIO()
            raise
        return part_of(stream, length, self.bucket.errors)

    def presigned_url(self, key: str, since: int, expires: int, headers: dict[str, str]) -> str:
        url = self.bucket_url() + urllib.parse.quote(key, safe="/~")
        bucket = self.bucket
        return bucket.client.presigned_url(bucket.name, url, since, expires, headers)

    def exists(self, key: str) -> bool:
        return self.bucket.exists(key)

    def delete(self, key: str) -> bool:
        existed = self.bucket.exists(key)
        self.bucket.call("delete_object", Key=key)
        return existed

    def delete_many(self, keys: Iterable[str]) -> dict[str, StorageError]:
        return self.bucket.delete_many(keys)

    def files(self) -> Iterator[StoredFile]:
        for stored in self._objects():
            if not stored.key.startswith(STAGING_FOLDER):
                yield stored

    def incomplete_uploads(self) -> Iterator[StoredFile]:
        """Return what is staged: multipart uploads, whose size S3 does not report, and files."""
        yield from self._objects(Prefix=STAGING_FOLDER)
        if not self._lists_uploads:
            return
        try:
            yield from self._uploads()
        except S3Error as error:
            if not error.is_about_operation:
                raise
            self._lists_uploads = False
            logger.warning("Multipart uploads are left out, since they cannot be listed: %s", error)

    def bucket_url(self) -> str:
        # A base_url may be that of something in front, which knows no signatures.
        if self._bucket_url is None:
            self._bucket_url = self.bucket.client.public_url(self.bucket.name)
        return self._bucket_url

    def _open(self, key: str, **parameters: str) -> BinaryIO:
        try:
            return self.bucket.field(self.bucket.call("get_object", Key=key, **parameters), "Body")
        except S3Error as error:
            if error.code == "NoSuchKey":
                raise FileNotFoundError(key) from error
            raise

    def _objects(self, **parameters: str) -> Iterator[StoredFile]:
        field = self.bucket.field
        markers = {"ContinuationToken": "NextContinuationToken"}
        for page in self.bucket.pages("list_objects_v2", markers, **parameters):
            for stored in page.get("Contents", ()):
                modified = field(stored, "LastModified").timestamp()
                # The date of a multipart upload is that of its beginning at Amazon ("Working with
                # object metadata", System-defined object metadata).
                is_dated = "-" not in stored.get("ETag", "-")
                yield StoredFile(field(stored, "Key"), field(stored, "Size"), modified, is_dated)

    def _uploads(self) -> Iterator[StoredFile]:
        field = self.bucket.field
        markers = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        for page in self.bucket.pages("list_multipart_uploads", markers):
            for upload in page.get("Uploads", ()):
                begun = field(upload, "Initiated").timestamp()
                yield StoredFile(field(upload, "Key"), None, begun)
