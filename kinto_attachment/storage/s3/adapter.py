"""A repaired S3 backend of pyramid_storage, for code that uses its ``IFileStorage``."""

import mimetypes
import os
import shutil
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from pyramid_storage.exceptions import FileNotAllowed
from pyramid_storage.s3 import S3FileStorage

from kinto_attachment.storage.names import make_key
from kinto_attachment.storage.s3.storage import S3Storage


class RepairedS3FileStorage(S3FileStorage):
    """The interface and the settings of ``pyramid_storage.s3``, on a :class:`S3Storage`.

    :ivar storage: what it stores files in.
    """

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], prefix: str) -> "RepairedS3FileStorage":
        """Return the storage of these settings.

        :raises ConfigurationError: one is wrong.
        """
        extensions = settings.get(f"{prefix}extensions", "default")
        return cls(S3Storage.from_settings(settings, prefix), extensions)

    def __init__(self, storage: S3Storage, extensions: str):
        super().__init__(storage.bucket.name, None, storage.base_url, extensions)
        self.storage = storage

    @property
    def s3_client(self) -> Any:
        """The boto3 client of this process."""
        return self.storage.bucket.client.boto3_client

    def url(self, filename: str) -> str:
        """Return the location of a stored file: the base URL and its percent-encoded name."""
        return self.base_url + urllib.parse.quote(filename)

    def exists(self, filename: str, bucket_name: str | None = None) -> bool:
        """Return whether there is a stored file of this name.

        :raises StorageError: S3 does not answer that.
        """
        return self._in_bucket(bucket_name).exists(filename)

    def delete(self, filename: str, bucket_name: str | None = None) -> bool:
        """Delete a stored file, and return whether there was one."""
        return self._in_bucket(bucket_name).delete(filename)

    def save_file(
        self,
        file: BinaryIO,
        filename: str,
        folder: str | None = None,
        bucket_name: str | None = None,
        randomize: bool = False,
        extensions: Iterable[str] | None = None,
        acl: str | None = None,
        replace: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Store a file, and return its name.

        :param extensions: ``()`` allows any, as for pyramid_storage's local files.
        :param replace: overwrite the file of this name.
        :param headers: Content-Type, Cache-Control, Content-Disposition.
        :raises FileNotAllowed: the extension is not allowed.
        """
        if extensions != () and not self.filename_allowed(filename, extensions):
            raise FileNotAllowed()
        key = make_key(os.path.basename(filename), folder or "", randomize)
        parameters = _parameters(filename, acl, headers or {})
        storage = self._in_bucket(bucket_name)
        staged = storage.stage_with(parameters, key, randomize or replace, replace)
        try:
            file.seek(0)
            shutil.copyfileobj(file, staged)
            return staged.publish()
        finally:
            staged.discard()

    def _in_bucket(self, name: str | None) -> S3Storage:
        return self.storage if name in (None, self.bucket_name) else self.storage.in_bucket(name)


def _parameters(filename: str, acl: str | None, headers: Mapping[str, str]) -> dict[str, str]:
    mimetype = headers.get("Content-Type") or mimetypes.guess_type(filename)[0]
    parameters = {
        "ACL": acl,
        "ContentType": mimetype or "application/octet-stream",
        "CacheControl": headers.get("Cache-Control"),
        "ContentDisposition": headers.get("Content-Disposition"),
    }
    return {name: value for name, value in parameters.items() if value}
