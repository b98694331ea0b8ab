"""The settings of an S3 bucket, and which of them go together."""

from collections.abc import Mapping
from typing import Any

from pyramid.exceptions import ConfigurationError

from kinto_attachment.settings.options import OPTIONS, typed_values


AWS = "aws."
BUCKET = "aws.bucket_name"


def aws_values(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return ``{name: value}`` of the settings of a bucket, ``aws.…`` and ``base_url``.

    :raises ConfigurationError: a value is wrong, or cannot be combined with another.
    """
    names = [name for name in OPTIONS if name.startswith(AWS)]
    values = typed_values(settings, prefix, [*names, "base_url"])
    if not values[BUCKET]:
        raise ConfigurationError(f"{prefix}{BUCKET} is required")
    if values["aws.endpoint_url"] and (values["aws.host"] or values["aws.port"]):
        raise ConfigurationError(
            f"{prefix}aws.endpoint_url cannot be combined with {prefix}aws.host and"
            f" {prefix}aws.port"
        )
    if values["aws.port"] and not values["aws.host"]:
        raise ConfigurationError(f"{prefix}aws.port needs {prefix}aws.host")
    if bool(values["aws.access_key"]) != bool(values["aws.secret_key"]):
        raise ConfigurationError(
            f"{prefix}aws.access_key and {prefix}aws.secret_key go together: set both or none"
        )
    return values
