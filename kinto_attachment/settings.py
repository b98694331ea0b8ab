"""The plugin's settings, as typed values.

They are read once, when the server starts. Whatever is wrong with one of them stops the server
with a ``ConfigurationError`` that holds its full name.
"""

import difflib
import os
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyramid.exceptions import ConfigurationError
from pyramid.settings import falsey, truthy
from pyramid_storage.extensions import resolve_extensions


PREFIX = "attachment."

MIMETYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}", re.ASCII)
"""A media type without parameters (RFC 6838, section 4.2)."""


@dataclass(frozen=True)
class Settings:
    """The settings of one server.

    :ivar extensions: the allowed file extensions, lower-case and without dot, or ``None`` for any.
    :ivar mimetypes: ``{extension: mimetype}``, extensions lower-case and with their dot.
    """

    base_path: str | None
    base_url: str
    advertised_base_url: str
    folder: str
    randomize: bool
    extensions: frozenset[str] | None
    mimetypes: dict[str, str]
    fsync: bool
    serve_files: bool
    max_field_size_bytes: int

    def allows(self, filename: str) -> bool:
        """Return whether the last extension of this filename is an allowed one."""
        extension = os.path.splitext(filename)[1]
        return self.extensions is None or extension[1:].lower() in self.extensions

    def folder_of(self, bucket_id: str, collection_id: str) -> str:
        """Return the folder for the files of a collection, relative and without outer slashes."""
        return self.folder.format(bucket_id=bucket_id, collection_id=collection_id)


def read_settings(registry_settings: dict[str, Any]) -> Settings:
    """Return the :class:`Settings` found among those of a Kinto registry and in the environment.

    :raises ConfigurationError: a name is unknown, a value is wrong, no storage is chosen.
    """
    prefix = f"{registry_settings.get('settings_prefix', 'kinto')}.{PREFIX}"
    _refuse_unknown_names(registry_settings, prefix)
    values = {}
    for name, option in OPTIONS.items():
        raw = _raw_value(registry_settings, prefix, name)
        try:
            values[name] = option.default if raw is None else option.cast(raw)
        except ValueError as error:
            raise ConfigurationError(f"{prefix}{name} = {raw!r}: {error}") from error
    _require_one_storage(values, prefix)
    extra_base_url = values.pop("extra.base_url")
    return Settings(**values, advertised_base_url=extra_base_url or values["base_url"])


def _refuse_unknown_names(registry_settings, prefix):
    for key in registry_settings:
        name = key.removeprefix(PREFIX)
        if not key.startswith(PREFIX) or name in OPTIONS:
            continue
        nearest = difflib.get_close_matches(name.lower(), OPTIONS, n=1, cutoff=0)[0]
        raise ConfigurationError(
            f"{prefix}{name} is not a known setting, did you mean {prefix}{nearest}?"
        )


def _raw_value(registry_settings, prefix, name):
    """Return the text of a setting, or ``None`` where it is not set.

    Kinto turns values into Python ones under the name without prefix (``1.10`` becomes ``1.1``),
    keeps the text under the name with prefix, and looks into the environment only for names that
    the file has (``kinto.core.initialization.load_default_settings``).
    """
    for key in (prefix + name, PREFIX + name):
        variable = re.sub(r"[.-]", "_", key).upper()
        if variable in os.environ:
            return os.environ[variable].strip()
    for key in (prefix + name, PREFIX + name):
        if registry_settings.get(key) is not None:
            return str(registry_settings[key]).strip()
    return None


def _require_one_storage(values, prefix):
    if not values["base_path"]:
        raise ConfigurationError(
            f"No storage for attachments is configured: set {prefix}base_path (a local folder)"
        )


def _boolean(text):
    if text.lower() in truthy:
        return True
    if text.lower() in falsey:
        return False
    raise ValueError("should be true or false")


def _positive_integer(text):
    number = int(text)
    if number <= 0:
        raise ValueError("should be larger than 0")
    return number


def _path(text):
    return os.path.abspath(text) if text else None


def _url(text):
    """A base URL ends in a slash, since names are appended to it."""
    return text and text.rstrip("/") + "/"


def _folder(text):
    for _, placeholder, spec, conversion in string.Formatter().parse(text):
        if placeholder is None:
            continue
        if placeholder not in ("bucket_id", "collection_id") or spec or conversion:
            raise ValueError("the placeholders are {bucket_id} and {collection_id}")
    folder = text.strip("/")
    for part in folder.split("/") if folder else ():
        if not part or part.startswith(".") or "\\" in part:
            raise ValueError("should be a relative path without hidden parts")
    return folder


def _extensions(text):
    groups = text.lower().split("+")
    if "any" in (group.strip() for group in groups):
        return None
    extensions = resolve_extensions("+".join(group.strip() for group in groups))
    if not extensions:
        raise ValueError("should name groups or extensions, or be 'any'")
    return frozenset(extension.lstrip(".") for extension in extensions)


def _mimetypes(text):
    by_extension = {}
    for pair in filter(None, (pair.strip() for pair in text.split(";"))):
        extension, _, mimetype = (part.strip() for part in pair.partition(":"))
        if not extension.strip(".") or not MIMETYPE.fullmatch(mimetype):
            raise ValueError(f"{pair!r} is not like .ext:type/subtype")
        by_extension["." + extension.lstrip(".").lower()] = mimetype
    return by_extension


class Option(NamedTuple):
    cast: Callable[[str], Any]
    default: Any


OPTIONS = {
    "base_path": Option(_path, None),
    "base_url": Option(_url, ""),
    "extra.base_url": Option(_url, ""),
    "folder": Option(_folder, ""),
    "randomize": Option(_boolean, True),
    "extensions": Option(_extensions, _extensions("default")),
    "mimetypes": Option(_mimetypes, {}),
    "fsync": Option(_boolean, True),
    "serve_files": Option(_boolean, False),
    "max_field_size_bytes": Option(_positive_integer, 1024 * 1024),
}
"""Name, cast and default of every setting. A cast raises ``ValueError`` for a wrong value."""
