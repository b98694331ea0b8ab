"""The table of options: everything that can be set, with its default and its meaning."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pyramid.exceptions import ConfigurationError

from kinto_attachment.settings import casts
from kinto_attachment.settings.limits import MAX_LINK_SECONDS


class Option(NamedTuple):
    """An option of the plugin.

    :ivar cast: makes a value of a text; it raises ``ValueError`` for a wrong one.
    :ivar default: as it would be written in a file.
    :ivar per_collection: whether a bucket and a collection can have a value of their own.
    """

    cast: Callable[[str], Any]
    default: str
    meaning: str
    per_collection: bool = False


OPTIONS = {
    "base_path": Option(casts.path, "", "A local folder for the files."),
    "backend": Option(casts.module, "", "A module that registers an IFileStorage."),
    "aws.bucket_name": Option(casts.bucket, "", "The S3 bucket for the files."),
    "aws.access_key": Option(casts.text, "", "The id of the S3 credentials."),
    "aws.secret_key": Option(casts.text, "", "The secret of the S3 credentials."),
    "aws.acl": Option(casts.canned_acl, "public-read", "The canned ACL of every file, or none."),
    "aws.region": Option(casts.region, "", "The region of the bucket, like eu-central-1."),
    "aws.endpoint_url": Option(casts.endpoint_url, "", "The root of a store other than Amazon's."),
    "aws.host": Option(casts.host, "", "The host of a store other than Amazon's."),
    "aws.port": Option(casts.port, "", "The port of aws.host."),
    "aws.is_secure": Option(casts.boolean, "true", "Whether aws.host speaks HTTPS."),
    "aws.use_path_style": Option(casts.boolean, "false", "Put the bucket into the path of URLs."),
    "aws.num_retries": Option(casts.integer(0), "1", "How often a failed request is retried."),
    "aws.timeout": Option(casts.seconds, "5", "Seconds to connect, and of silence, at most."),
    "aws.part_size_bytes": Option(casts.part_size, "8388608", "The size of a part of an upload."),
    "aws.cache_control": Option(casts.header, "", "Cache-Control of every file."),
    "aws.content_disposition": Option(casts.header, "", "Content-Disposition of every file."),
    "aws.checksums": Option(casts.checksums, "", "When boto3 adds checksums of its own."),
    "gcloud.bucket_name": Option(casts.bucket, "", "The Google Cloud bucket for the files."),
    "gcloud.credentials": Option(casts.file, "", "The JSON key file of a service account."),
    "gcloud.project": Option(casts.text, "", "The project of the bucket."),
    "gcloud.acl": Option(casts.predefined_acl, "publicRead", "The predefined ACL of every file."),
    "gcloud.uniform_bucket_level_access": Option(
        casts.boolean, "false", "The bucket knows no ACLs: none is sent."
    ),
    "gcloud.auto_create_bucket": Option(casts.boolean, "false", "Create a missing bucket."),
    "gcloud.auto_create_acl": Option(
        casts.predefined_bucket_acl, "projectPrivate", "The predefined ACL of a created bucket."
    ),
    "gcloud.cache_control": Option(casts.header, "", "Cache-Control of every file."),
    "gcloud.content_disposition": Option(casts.header, "", "Content-Disposition of every file."),
    "gcloud.part_size_bytes": Option(
        casts.gcloud_part_size, "8388608", "The size of a part of an upload."
    ),
    "gcloud.timeout": Option(casts.seconds, "15", "Seconds of silence, with retries, at most."),
    "gcloud.endpoint_url": Option(casts.endpoint_url, "", "The root of an emulator."),
    "base_url": Option(casts.url, "", "What the location of a file begins with."),
    "extra.base_url": Option(casts.url, "", "The base_url that the capability shows instead."),
    "folder": Option(casts.folder, "", "A folder inside of the storage.", True),
    "randomize": Option(casts.boolean, "true", "Store files under random names.", True),
    "filename_pattern": Option(
        casts.filename_pattern, "{filename}", "The name of a file, without extension.", True
    ),
    "extensions": Option(casts.extensions, "default", "The allowed file extensions.", True),
    "mimetypes": Option(casts.mimetypes, "", "Mimetypes by file extension.", True),
    "max_size_bytes": Option(casts.integer(0), "0", "The largest file, 0 for any size.", True),
    "gzipped": Option(casts.boolean, "false", "Store files compressed.", True),
    "gzip_level": Option(casts.integer(1, 9), "6", "From 1 (fast) to 9 (small)."),
    "fsync": Option(casts.boolean, "true", "Write each file to the disk before its record."),
    "downloads": Option(
        casts.choice("public", "private"), "public", "Who can fetch the files.", True
    ),
    "deliver": Option(
        casts.choice("stream", "redirect", "accel"), "stream", "Who sends what Kinto permits."
    ),
    "accel_prefix": Option(casts.path_of_url, "", "The internal path of the files in nginx."),
    "link_secret": Option(casts.secret, "", "What links with an end are signed with."),
    "link_max_seconds": Option(
        casts.integer(1, MAX_LINK_SECONDS), "3600", "How long such links are valid at most."
    ),
    "serve_files": Option(casts.boolean, "false", "Serve local files under /v1/__files__/."),
    "keep_old_files": Option(
        casts.boolean, "false", "Keep files when no record refers to them any more.", True
    ),
    "delete_after": Option(
        casts.duration, "0", "How long files stay when no record refers to them any more.", True
    ),
    "resumable": Option(casts.boolean, "true", "Whether uploads can be resumed.", True),
    "resumable_expires_seconds": Option(
        casts.integer(1, 10**9), "86400", "How long an unfinished upload stays."
    ),
    "resumable_max_open": Option(casts.integer(1), "20", "Unfinished uploads of one user."),
    "max_field_size_bytes": Option(casts.integer(1), "1048576", "The largest field of a form."),
}

WITHDRAWN = {
    "use_content_encoding": (
        "has no effect: remove it. What the option gzipped compresses is stored as a .gz file,"
        " without a Content-Encoding"
    ),
}
"""What to say of options of earlier plugins that no option of today stands for."""

PER_COLLECTION = tuple(name for name, option in OPTIONS.items() if option.per_collection)


def typed_values(settings: Mapping[str, Any], prefix: str, names: Iterable[str]) -> dict[str, Any]:
    """Return ``{name: value}`` of these options, with the default of those that are not set.

    :param settings: texts, or values that were cast before.
    :raises ConfigurationError: a value is wrong.
    """
    return {name: typed_value(settings, prefix + name, OPTIONS[name]) for name in names}


def typed_value(settings: Mapping[str, Any], full_name: str, option: Option) -> Any:
    """Return the value of one option.

    :raises ConfigurationError: it is wrong.
    """
    raw = settings.get(full_name, option.default)
    try:
        return None if raw is None else option.cast(str(raw).strip())
    except ValueError as error:
        raise ConfigurationError(f"{full_name} = {raw!r}: {error}") from error


def refuse_unknown(name: str, known: Iterable[str], where: str = "") -> None:
    """Refuse a name, with the nearest of the known ones, or with what is to be done instead.

    :raises ConfigurationError: always.
    """
    for option, what_to_do in WITHDRAWN.items():
        if name.lower().endswith(option):
            raise ConfigurationError(f"{name}{where} {what_to_do}")
    by_lower = {other.lower(): other for other in known}
    nearest = by_lower[difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0)[0]]
    raise ConfigurationError(f"{name}{where} is not a known setting, did you mean {nearest}?")
