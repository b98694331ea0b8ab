"""The settings of a server, read from Kinto's registry and the environment when it starts.

An error stops the server with a ``ConfigurationError`` that holds the full name of the setting.
"""

import contextlib
import dataclasses
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.settings import asbool

from kinto_attachment.settings.environment import refuse_unknown_variables, variable
from kinto_attachment.settings.gcs import GCLOUD_BUCKET, gcloud_values
from kinto_attachment.settings.limits import ID
from kinto_attachment.settings.options import (
    OPTIONS,
    PER_COLLECTION,
    refuse_unknown,
    typed_value,
    typed_values,
)
from kinto_attachment.settings.s3 import BUCKET, aws_values
from kinto_attachment.settings.values import CollectionSettings, Settings


PREFIX = "attachment."
RESOURCES = "resources."

LINK_SECRET = b"kinto-attachment links"
"""What a secret of ours is made for, with that of Kinto as the key."""

STORAGES = {
    "base_path": "a local folder",
    GCLOUD_BUCKET: "Google Cloud Storage",
    BUCKET: "Amazon S3 and compatible stores",
    "backend": "a module that registers an IFileStorage",
}
"""The settings of which exactly one chooses where files are kept.

Of several, earlier plugins took the first in this order.
"""


def read_settings(registry_settings: Mapping[str, Any]) -> Settings:
    """Return the :class:`Settings` among those of a Kinto registry and in the environment.

    :raises ConfigurationError: a name is unknown, a value is wrong, no storage is chosen, Kinto has
        no transactions.
    """
    kinto = registry_settings.get("settings_prefix", "kinto")
    prefix = f"{kinto}.{PREFIX}"
    names = [key.removeprefix(PREFIX) for key in registry_settings if key.startswith(PREFIX)]
    resources = {name: _resource(name, prefix) for name in names if name.startswith(RESOURCES)}
    for name in names:
        if name not in OPTIONS and name not in resources:
            refuse_unknown(prefix + name, [prefix + option for option in OPTIONS])
    refuse_unknown_variables(names, prefix)
    if not asbool(registry_settings.get("transaction_per_request", True)):
        # A request that fails would leave its record, and its file would be deleted.
        raise ConfigurationError(
            f"{kinto}.transaction_per_request = false: attachments need transactions"
        )
    texts = _texts(registry_settings, prefix, [*OPTIONS, *resources])
    values = typed_values(texts, prefix, OPTIONS)
    chosen = [prefix + name for name in STORAGES if values[name]]
    if len(chosen) != 1:
        choices = ", ".join(f"{prefix}{name} ({what})" for name, what in STORAGES.items())
        found = "none is set"
        if chosen:
            first, others = chosen[0], " and ".join(chosen[1:])
            found = f"to keep the files of {first}, as earlier plugins did, remove {others}"
        raise ConfigurationError(f"Set exactly one of {choices}: {found}")
    if values["serve_files"] and not values["base_path"]:
        raise ConfigurationError(f"{prefix}serve_files is for the files in {prefix}base_path")
    _refuse_without_bucket(texts, values, prefix)
    _refuse_delivery(values, prefix)
    values["link_secret"] = values["link_secret"] or _derived_secret(registry_settings, kinto)
    defaults = CollectionSettings(**{name: values.pop(name) for name in PER_COLLECTION})
    settings = Settings(
        **{name: value for name, value in values.items() if "." not in name},
        aws=aws_values(texts, prefix) if values[BUCKET] else None,
        gcloud=gcloud_values(texts, prefix) if values[GCLOUD_BUCKET] else None,
        advertised_base_url=values["extra.base_url"] or values["base_url"],
        defaults=defaults,
        resources=_merged(resources, texts, prefix, defaults),
    )
    if settings.has_private_files:
        _refuse_private_files(settings, prefix, kinto)
    return settings


def _refuse_delivery(values: Mapping[str, Any], prefix: str) -> None:
    if values["deliver"] == "redirect" and not (values[BUCKET] or values[GCLOUD_BUCKET]):
        raise ConfigurationError(
            f"{prefix}deliver = redirect is for the files in {prefix}{BUCKET} or"
            f" {prefix}{GCLOUD_BUCKET}"
        )
    if values["deliver"] == "accel" and not values["base_path"]:
        raise ConfigurationError(f"{prefix}deliver = accel is for the files in {prefix}base_path")
    if values["accel_prefix"] and values["deliver"] != "accel":
        raise ConfigurationError(f"{prefix}accel_prefix needs {prefix}deliver = accel")


def _refuse_private_files(settings: Settings, prefix: str, kinto: str) -> None:
    if settings.backend:
        raise ConfigurationError(
            f"{prefix}downloads = private cannot be combined with {prefix}backend, which may"
            " publish all files"
        )
    if not settings.link_secret:
        raise ConfigurationError(
            f"{prefix}downloads = private needs {prefix}link_secret or {kinto}.userid_hmac_secret"
        )


def _derived_secret(registry_settings: Mapping[str, Any], kinto: str) -> str | None:
    """Return a secret made of Kinto's own, of which it tells nothing; ``None`` if that is empty."""
    names = ("userid_hmac_secret", f"{kinto}.userid_hmac_secret")
    secret = next(filter(None, (registry_settings.get(name) for name in names)), None)
    if secret is None:
        return None
    return hmac.digest(str(secret).encode(), LINK_SECRET, hashlib.sha256).hex()


def _refuse_without_bucket(
    texts: Mapping[str, str], values: Mapping[str, Any], prefix: str
) -> None:
    for bucket in (BUCKET, GCLOUD_BUCKET):
        group = prefix + bucket.removesuffix("bucket_name")
        for name, text in texts.items():
            if text and name.startswith(group) and not values[bucket]:
                raise ConfigurationError(
                    f"{name} is for the bucket {prefix}{bucket}: set that as well, or remove {name}"
                )


def _texts(registry_settings: Mapping[str, Any], prefix: str, names: list[str]) -> dict[str, str]:
    """Return ``{name with prefix: text}`` of those that are set.

    Kinto turns values into Python ones under the name without prefix (``1.10`` becomes ``1.1``),
    keeps the text under the name with prefix, and looks into the environment only for names that
    the file has (``kinto.core.initialization.load_default_settings``).
    """
    texts = {}
    for name in names:
        keys = (prefix + name, PREFIX + name)
        found = [os.environ.get(variable(key)) for key in keys]
        found += [registry_settings.get(key) for key in keys]
        value = next((value for value in found if value is not None), None)
        if value is not None:
            texts[prefix + name] = _unquoted(str(value).strip())
    return texts


def _unquoted(text: str) -> str:
    """Return a text without the quotes that Kinto takes off a value (``native_value``)."""
    with contextlib.suppress(ValueError):
        value = json.loads(text)
        return value if isinstance(value, str) else text
    return text


def _resource(name: str, prefix: str) -> list[str]:
    """Return ``[bucket_id, option]`` or ``[bucket_id, collection_id, option]`` of a setting."""
    *ids, option = parts = name.removeprefix(RESOURCES).split(".")
    if len(ids) not in (1, 2) or not all(map(ID.fullmatch, ids)):
        raise ConfigurationError(
            f"{prefix}{name} is neither like {prefix}{RESOURCES}BUCKET.randomize "
            f"nor like {prefix}{RESOURCES}BUCKET.COLLECTION.randomize"
        )
    if option not in PER_COLLECTION:
        beginning = (prefix + name).removesuffix(option)
        refuse_unknown(prefix + name, [beginning + known for known in PER_COLLECTION])
    if ids[0] == "default":
        raise ConfigurationError(
            f"{prefix}{name} would never apply: the default bucket has another id for every user."
            f" Set {prefix}{option}, for all buckets that have no value of their own"
        )
    return parts


def _merged(
    resources: dict[str, list[str]],
    texts: Mapping[str, str],
    prefix: str,
    defaults: CollectionSettings,
) -> dict[tuple[str, ...], CollectionSettings]:
    """Return what :attr:`Settings.resources` holds."""
    own: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, (*ids, option) in resources.items():
        value = typed_value(texts, prefix + name, OPTIONS[option])
        own.setdefault(tuple(ids), {})[option] = value
    merged: dict[tuple[str, ...], CollectionSettings] = {}
    # Buckets first: their collections inherit from them.
    for resource in sorted(own, key=len):
        parent = merged.get(resource[:1], defaults)
        merged[resource] = dataclasses.replace(parent, **own[resource])
    return merged
