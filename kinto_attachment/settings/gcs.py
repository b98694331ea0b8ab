"""The settings of a Google Cloud Storage bucket, and which of them go together."""

from collections.abc import Mapping
from typing import Any

from pyramid.exceptions import ConfigurationError

from kinto_attachment.settings.options import OPTIONS, typed_values


GCLOUD = "gcloud."
GCLOUD_BUCKET = "gcloud.bucket_name"


def gcloud_values(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return ``{name: value}`` of the settings of a bucket, ``gcloud.…`` and ``base_url``.

    :raises ConfigurationError: a value is wrong, or cannot be combined with another.
    """
    names = [name for name in OPTIONS if name.startswith(GCLOUD)]
    values = typed_values(settings, prefix, [*names, "base_url"])
    if values["gcloud.uniform_bucket_level_access"]:
        for name in ("gcloud.acl", "gcloud.auto_create_acl"):
            if settings.get(prefix + name):
                raise ConfigurationError(
                    f"{prefix}{name} cannot be combined with"
                    f" {prefix}gcloud.uniform_bucket_level_access = true: remove one of them"
                )
            values[name] = None
    return values
