"""The settings of a server, as typed values."""

import os
from dataclasses import dataclass
from typing import Any

from kinto_attachment.settings.limits import PRIVATE


GZIP_EXTENSION = ".gz"


@dataclass(frozen=True)
class CollectionSettings:
    """The settings for the files of one collection.

    :ivar filename_pattern: of the name of a stored file, without its extension.
    :ivar extensions: the allowed file extensions, lower-case and without dot, or ``None`` for any.
    :ivar mimetypes: ``{extension: mimetype}``, extensions lower-case and with their dot.
    :ivar max_size_bytes: of a file, 0 for any size.
    :ivar downloads: ``public``, or ``private``: with the permission on the record only.
    :ivar keep_old_files: whether files stay when no record refers to them any more.
    :ivar delete_after: how many seconds they stay otherwise.
    :ivar resumable: whether uploads can be resumed.
    """

    folder: str
    randomize: bool
    filename_pattern: str
    extensions: frozenset[str] | None
    mimetypes: dict[str, str]
    max_size_bytes: int
    gzipped: bool
    downloads: str
    keep_old_files: bool
    delete_after: int
    resumable: bool

    def allows(self, filename: str) -> bool:
        """Return whether the last extension of this filename is an allowed one."""
        extension = os.path.splitext(filename)[1]
        return self.extensions is None or extension[1:].lower() in self.extensions

    @property
    def is_private(self) -> bool:
        """Whether files are fetched with the permission on their record only."""
        return self.downloads == PRIVATE

    @property
    def added_extension(self) -> str:
        """What the name of a stored file has behind its own extension."""
        return GZIP_EXTENSION if self.gzipped else ""

    @property
    def names_are_random(self) -> bool:
        """Whether the name of a stored file has a random part by these settings."""
        return self.randomize and "{filename}" in self.filename_pattern

    @property
    def keys_are_unique(self) -> bool:
        """Whether no two files are ever given the same key.

        Those of private files never are: a link to one of them, or a download that has begun, would
        lead to the next.
        """
        return self.is_private or self.names_are_random

    def folder_of(self, bucket_id: str, collection_id: str) -> str:
        """Return the folder for the files of a collection, relative and without outer slashes.

        That of private files is in a folder of its own, and that of public ones never is, also not
        if a bucket is called like it.
        """
        folder = self.folder.format(bucket_id=bucket_id, collection_id=collection_id)
        if self.is_private:
            return f"{PRIVATE}/{folder}" if folder else PRIVATE
        # No id begins with an underscore, so no other bucket has that folder.
        is_like_private = folder.split("/")[0].lower() == PRIVATE
        return f"_{folder}" if is_like_private else folder


@dataclass(frozen=True)
class Settings:
    """The settings of one server.

    :ivar backend: the dotted name of a module that registers an ``IFileStorage``.
    :ivar aws: what ``S3Storage.from_settings`` reads, or ``None`` if no bucket is named.
    :ivar gcloud: what ``GCSStorage`` needs, or ``None`` if no bucket is named.
    :ivar deliver: who sends a file that Kinto permits to fetch: ``stream`` (Kinto), ``redirect``
        (the bucket) or ``accel`` (the web server in front).
    :ivar accel_prefix: the internal path of the files in nginx, or ``""`` for ``X-Sendfile``.
    :ivar link_secret: what links with an end are signed with, ``None`` if there is no secret.
    :ivar resumable_expires_seconds: how long an unfinished upload stays after the last activity.
    :ivar resumable_max_open: how many unfinished uploads a user may have.
    :ivar defaults: for every collection that has no settings of its own or of its bucket.
    :ivar resources: those of buckets, by ``(bucket_id,)``, and of collections, by
        ``(bucket_id, collection_id)``, each merged with its parent's.
    """

    base_path: str | None
    backend: str | None
    aws: dict[str, Any] | None
    gcloud: dict[str, Any] | None
    base_url: str
    advertised_base_url: str
    deliver: str
    accel_prefix: str
    link_secret: str | None
    link_max_seconds: int
    fsync: bool
    serve_files: bool
    max_field_size_bytes: int
    gzip_level: int
    resumable_expires_seconds: int
    resumable_max_open: int
    defaults: CollectionSettings
    resources: dict[tuple[str, ...], CollectionSettings]

    @property
    def delay_deletions(self) -> bool:
        """Whether files of any collection have a ``delete_after``."""
        return any(own.delete_after for own in (self.defaults, *self.resources.values()))

    @property
    def has_private_files(self) -> bool:
        """Whether files of any collection are private."""
        return any(own.is_private for own in (self.defaults, *self.resources.values()))

    def for_collection(self, bucket_id: str, collection_id: str) -> CollectionSettings:
        """Return the settings for the files of a collection."""
        of_bucket = self.resources.get((bucket_id,), self.defaults)
        return self.resources.get((bucket_id, collection_id), of_bucket)
