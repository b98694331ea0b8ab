"""The plugin's settings, as typed values.

They are read once, when the server starts, and merged for every bucket and collection that has
some of its own. Whatever is wrong with one of them stops the server
with a ``ConfigurationError`` that holds its full name.
"""

import contextlib
import dataclasses
import difflib
import math
import os
import re
import string
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyramid.exceptions import ConfigurationError
from pyramid.settings import asbool, falsey, truthy
from pyramid_storage.extensions import GROUPS


PREFIX = "attachment."

MIMETYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}", re.ASCII)
"""A media type without parameters (RFC 6838, section 4.2)."""

MAX_NAME_BYTES = 255
"""What file systems allow for a name in a path."""

MAX_RID = 100
"""How many characters of a record's id go into the name of its file."""

MAX_STEM = 180
"""How long a name may be that is made of a random one, so that an extension fits behind it."""

MAX_FOLDER_LEVELS = 15
"""How many folders a file may be in, so that its name is found at the end of any URL."""

SYSTEM_FOLDERS = {"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64"}
SYSTEM_FOLDERS |= {"/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var"}
"""What files are never kept in directly: all that is there would be listed, and could be served."""

NOT_OF_A_PATH = re.compile(r"[\x00-\x1f\x7f\\]")

HOST = "_SERVICE_HOST"
RESOURCES = "resources."

ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]*")
"""An id that Kinto gives a bucket or a collection (``kinto.core.storage.generators``)."""


@dataclass(frozen=True)
class CollectionSettings:
    """The settings for the files of one collection.

    :ivar extensions: the allowed file extensions, lower-case and without dot, or ``None`` for any.
    :ivar mimetypes: ``{extension: mimetype}``, extensions lower-case and with their dot.
    :ivar filename_pattern: what a stored name without its extension is made of.
    :ivar max_size_bytes: the largest file, 0 for any.
    :ivar keep_old_files: whether files stay when no record holds them any more.
    """

    folder: str
    randomize: bool
    filename_pattern: str
    extensions: frozenset[str] | None
    mimetypes: dict[str, str]
    max_size_bytes: int
    gzipped: bool
    keep_old_files: bool

    def allows(self, filename: str) -> bool:
        """Return whether the last extension of this filename is an allowed one."""
        extension = os.path.splitext(filename)[1]
        return self.extensions is None or extension[1:].lower() in self.extensions

    def folder_of(self, bucket_id: str, collection_id: str) -> str:
        """Return the folder for the files of a collection, relative and without outer slashes."""
        return self.folder.format(bucket_id=bucket_id, collection_id=collection_id)


PER_COLLECTION = tuple(field.name for field in dataclasses.fields(CollectionSettings))
"""The settings that buckets and collections may have of their own."""


@dataclass(frozen=True)
class Settings:
    """The settings of one server.

    :ivar backend: the dotted name of a module that registers an ``IFileStorage``.
    :ivar aws: what ``S3Storage.from_settings`` reads, or ``None`` where no bucket is named.
    :ivar defaults: those of a collection for which there is nothing nearer.
    :ivar resources: those of buckets, by ``(bucket_id,)``, and of collections, by
        ``(bucket_id, collection_id)``, merged with those farther away.
    """

    base_path: str | None
    backend: str | None
    aws: dict[str, Any] | None
    base_url: str
    advertised_base_url: str
    fsync: bool
    serve_files: bool
    max_field_size_bytes: int
    gzip_level: int
    defaults: CollectionSettings
    resources: dict[tuple[str, ...], CollectionSettings]

    def for_collection(self, bucket_id: str, collection_id: str) -> CollectionSettings:
        """Return the settings that hold for the files of a collection."""
        for resource in ((bucket_id, collection_id), (bucket_id,)):
            if resource in self.resources:
                return self.resources[resource]
        return self.defaults


def read_settings(registry_settings: dict[str, Any]) -> Settings:
    """Return the :class:`Settings` found among those of a Kinto registry and in the environment.

    :raises ConfigurationError: a name is unknown, a value is wrong, no storage is chosen, Kinto has
        no transactions.
    """
    prefix = f"{registry_settings.get('settings_prefix', 'kinto')}.{PREFIX}"
    _refuse_unknown_names(registry_settings, prefix)
    _refuse_unknown_variables(registry_settings, prefix)
    _require_transactions(registry_settings)
    texts = {prefix + name: _raw_value(registry_settings, prefix, name) for name in OPTIONS}
    values = typed_values(texts, prefix, OPTIONS)
    _require_one_storage(values, prefix)
    if not values["aws.bucket_name"]:
        _refuse_options_of_a_bucket(texts, prefix)
    if values["serve_files"] and not values["base_path"]:
        raise ConfigurationError(f"{prefix}serve_files is for the files in {prefix}base_path")
    aws = aws_values(texts, prefix) if values["aws.bucket_name"] else None
    extra_base_url = values["extra.base_url"]
    defaults = CollectionSettings(**{name: values.pop(name) for name in PER_COLLECTION})
    return Settings(
        **{name: value for name, value in values.items() if "." not in name},
        aws=aws,
        advertised_base_url=extra_base_url or values["base_url"],
        defaults=defaults,
        resources=_read_resources(registry_settings, prefix, defaults),
    )


def _require_transactions(registry_settings):
    # Without them, what a request has written stays where the request fails, and its file goes.
    if not asbool(registry_settings.get("transaction_per_request", True)):
        prefix = registry_settings.get("settings_prefix", "kinto")
        raise ConfigurationError(
            f"{prefix}.transaction_per_request = false: files cannot follow their records then"
        )


def aws_values(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return ``{name: value}`` of the settings of a bucket, ``aws.…`` and ``base_url``.

    :raises ConfigurationError: a value is wrong, or does not go with another.
    """
    names = [name for name in OPTIONS if name.startswith("aws.")]
    values = typed_values(settings, prefix, [*names, "base_url"])
    if not values["aws.bucket_name"]:
        raise ConfigurationError(f"{prefix}aws.bucket_name is required")
    if values["aws.endpoint_url"] and (values["aws.host"] or values["aws.port"]):
        raise ConfigurationError(
            f"{prefix}aws.endpoint_url stands instead of {prefix}aws.host and {prefix}aws.port"
        )
    if values["aws.port"] and not values["aws.host"]:
        raise ConfigurationError(f"{prefix}aws.port needs {prefix}aws.host")
    _require_both_keys(values, prefix)
    return values


def typed_values(settings: Mapping[str, Any], prefix: str, names: Iterable[str]) -> dict[str, Any]:
    """Return ``{name: value}`` of these options, with the default of those that are not set.

    :raises ConfigurationError: a value is wrong.
    """
    values = {}
    for name in names:
        values[name] = _typed(OPTIONS[name], settings.get(prefix + name), prefix + name)
    return values


def _typed(option, raw, full_name):
    try:
        return option.default if raw is None else option.cast(str(raw).strip())
    except ValueError as error:
        raise ConfigurationError(f"{full_name} = {raw!r}: {error}") from error


def _read_resources(registry_settings, prefix, defaults):
    """Return what :attr:`Settings.resources` holds."""
    own = {}
    for name in _names(registry_settings):
        if name.startswith(RESOURCES):
            text = _raw_value(registry_settings, prefix, name)
            *resource, option = _resource_and_option(name, prefix)
            own.setdefault(tuple(resource), {})[option] = _typed(
                OPTIONS[option], text, prefix + name
            )
    merged = {}
    # Those of a bucket go first, since its collections build upon them.
    for resource in sorted(own, key=len):
        farther = merged.get(resource[:1], defaults)
        merged[resource] = dataclasses.replace(farther, **own[resource])
    return merged


def _resource_and_option(name, prefix):
    """Return ``[bucket_id, option]`` or ``[bucket_id, collection_id, option]`` of a setting."""
    parts = name.removeprefix(RESOURCES).split(".")
    if len(parts) not in (2, 3) or not all(ID.fullmatch(part) for part in parts[:-1]):
        raise ConfigurationError(
            f"{prefix}{name} is neither like {prefix}{RESOURCES}BUCKET.randomize "
            f"nor like {prefix}{RESOURCES}BUCKET.COLLECTION.randomize"
        )
    if parts[0] == "default":
        raise ConfigurationError(
            f"{prefix}{name} would never apply: the default bucket has another id for every user"
        )
    if parts[-1] not in PER_COLLECTION:
        known = [".".join([RESOURCES[:-1], *parts[:-1], option]) for option in PER_COLLECTION]
        _raise_unknown(name, known, prefix)
    return parts


def _refuse_unknown_names(registry_settings, prefix):
    for name in _names(registry_settings):
        if name not in OPTIONS and not name.startswith(RESOURCES):
            _raise_unknown(name, OPTIONS, prefix)


def _refuse_unknown_variables(registry_settings, prefix):
    """Refuse variables that look as if they were settings, and that nobody would read."""
    known = [_variable(prefix + name) for name in [*OPTIONS, *_names(registry_settings)]]
    beginning = _variable(prefix)
    for variable in sorted(os.environ):
        ours = variable.upper().startswith(beginning) and not _is_of_service(variable)
        if not ours or variable in known:
            continue
        rest = variable[len(beginning) :]
        if rest.upper().startswith(_variable(RESOURCES)):
            raise ConfigurationError(
                f"{variable} (in the environment) is none of the settings of buckets and"
                " collections that the file has: only those can be set in the environment"
            )
        nearest = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0)[0]
        raise ConfigurationError(
            f"{variable} (in the environment) is not a known setting, did you mean {nearest}?"
        )


def _is_of_service(variable):
    """Return whether a variable is one of those that Kubernetes sets for a service.

    (``{SERVICE}_SERVICE_HOST``, and ``{SERVICE}_SERVICE_PORT…`` and ``{SERVICE}_PORT…`` beside it.)
    """
    services = [name.removesuffix(HOST) for name in os.environ if name.endswith(HOST)]
    return any(variable.startswith((f"{name}_SERVICE_", f"{name}_PORT")) for name in services)


def _variable(name):
    """Return the variable that a setting is read from (``kinto.core.utils.read_env``)."""
    return re.sub(r"[.-]", "_", name).upper()


def _names(registry_settings):
    """Return the names of all settings that are the plugin's, without prefix."""
    return [key.removeprefix(PREFIX) for key in registry_settings if key.startswith(PREFIX)]


def _raise_unknown(name, known, prefix):
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0)[0]
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
        if _variable(key) in os.environ:
            return os.environ[_variable(key)].strip()
    for key in (prefix + name, PREFIX + name):
        if registry_settings.get(key) is not None:
            return str(registry_settings[key]).strip()
    return None


def _require_one_storage(values, prefix):
    chosen = [prefix + name for name in STORAGES if values[name]]
    if len(chosen) > 1:
        raise ConfigurationError(
            f"More than one storage for attachments is configured: keep one of {', '.join(chosen)}"
        )
    if not chosen:
        choices = ", ".join(f"{prefix}{name} ({what})" for name, what in STORAGES.items())
        raise ConfigurationError(f"No storage for attachments is configured: set one of {choices}")


def _refuse_options_of_a_bucket(texts, prefix):
    for name, text in texts.items():
        if text and name.startswith(f"{prefix}aws."):
            raise ConfigurationError(f"{name} is for the bucket {prefix}aws.bucket_name")


def _require_both_keys(values, prefix):
    if bool(values["aws.access_key"]) != bool(values["aws.secret_key"]):
        raise ConfigurationError(
            f"{prefix}aws.access_key and {prefix}aws.secret_key go together: set both or none"
        )


def _boolean(text):
    if text.lower() in truthy:
        return True
    if text.lower() in falsey:
        return False
    raise ValueError("should be true or false")


def _integer(smallest, largest=math.inf):
    expected = f"a whole number from {smallest}"
    if largest < math.inf:
        expected += f" to {largest}"

    def cast(text):
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not smallest <= int(text) <= largest:
            raise ValueError(f"should be {expected}")
        return int(text)

    return cast


def _port(text):
    return _integer(1, 65535)(text) if text else None


def _seconds(text):
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0 < seconds < math.inf:
            return seconds
    raise ValueError("should be a number of seconds larger than 0")


def _text(text):
    return text or None


def _one_of(*choices):
    def cast(text):
        if text and text not in choices:
            raise ValueError(f"should be one of {', '.join(choices)}, or empty")
        return text or None

    return cast


def _matching(pattern, description):
    def cast(text):
        if text and not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"should be {description}")
        return text or None

    return cast


def _header(text):
    return _matching(r"[\x20-\x7e]+", "one line of printable ASCII")(text)


def _path(text):
    if NOT_OF_A_PATH.search(text):
        raise ValueError("should be the path of a folder")
    if text.startswith("~"):
        raise ValueError("should begin with the home folder itself, which nobody puts in for ~")
    if not text:
        return None
    path = os.path.abspath(text)
    if {path, os.path.realpath(path)} & SYSTEM_FOLDERS or not path.strip("/"):
        raise ValueError("should be a folder for nothing else, and not one of the system")
    return path


def _url(text):
    """A base URL ends in a slash, since names are appended to it."""
    if text and not re.fullmatch(r"((?i:https?)://[^/?#\\\s\0]+|/)[^?#\\\s\0]*", text):
        raise ValueError("should be like https://files.example.com/ or /files/, without ? and #")
    return text and text.rstrip("/") + "/"


def _endpoint_url(text):
    """What follows the host is the root of the store there, before the name of the bucket."""
    expected = "like https://host:port or https://host/path"
    return _matching(r"https?://[^/\s?#]+(/[\w~-][\w.~-]*)*", expected)(text.rstrip("/"))


def _check_placeholders(text, *known):
    for _, placeholder, spec, conversion in string.Formatter().parse(text):
        if placeholder is not None and (placeholder not in known or spec or conversion):
            raise ValueError(f"the placeholders are {{{'}, {'.join(known)}}}")


def _filename_pattern(text):
    _check_placeholders(text, "datetime", "rid", "filename")
    if not re.fullmatch(r"[A-Za-z0-9_.{}-]+", text) or "{{" in text or "}}" in text:
        raise ValueError("should be placeholders, letters, digits, dots, dashes and underscores")
    if len(text.format(datetime="0" * 14, rid="0" * MAX_RID, filename=uuid.uuid4())) > MAX_STEM:
        raise ValueError(f"should make names of at most {MAX_STEM} characters")
    return text


def _folder(text):
    _check_placeholders(text, "bucket_id", "collection_id")
    folder = text.rstrip("/")
    for part in folder.split("/") if text else ():
        if not part or part.startswith(".") or NOT_OF_A_PATH.search(part):
            raise ValueError(
                "should be a path inside of the storage, like a/b, without hidden parts"
            )
        if len(part.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"has a name of more than {MAX_NAME_BYTES} bytes")
    if folder.count("/") >= MAX_FOLDER_LEVELS:
        raise ValueError(f"should have at most {MAX_FOLDER_LEVELS} levels")
    return folder


def _extensions(text):
    words = re.split(r"\s*[+,]\s*|\s+", text.lower())
    if "" in words:
        raise ValueError("should be groups and extensions joined by +, or any")
    if "any" in words:
        return None
    return frozenset(extension for word in words for extension in _group_or_extension(word))


def _group_or_extension(word):
    if word in GROUPS:
        return GROUPS[word]
    if word == "*":
        raise ValueError("all extensions are allowed by any, not by *")
    extension = word.removeprefix(".")
    _check_extension(extension)
    if word == extension:
        _check_no_misspelt_group(word)
    return [extension]


def _check_no_misspelt_group(word):
    # Extensions as short as these look like "text" or "data" by chance: tex, txt, dat.
    if len(word) <= 4 or any(word in extensions for extensions in GROUPS.values()):
        return
    for group in difflib.get_close_matches(word, GROUPS, n=1, cutoff=0.8):
        raise ValueError(f"did you mean the group {group}? (the extension would be .{word})")


def _check_extension(extension):
    last = extension.rpartition(".")[2]
    if last and last != extension:
        raise ValueError(
            f"{extension} can never match: the last extension of a name decides, which is {last}"
        )
    if not re.fullmatch(r"[\w-]+", extension):
        raise ValueError(f"{extension!r} is neither a group nor an extension")


def _mimetypes(text):
    by_extension = {}
    for pair in filter(None, (pair.strip() for pair in text.split(";"))):
        extension, _, mimetype = (part.strip() for part in pair.partition(":"))
        if not MIMETYPE.fullmatch(mimetype):
            raise ValueError(f"{pair!r} is not like .ext:type/subtype")
        extension = extension.removeprefix(".").lower()
        _check_extension(extension)
        by_extension[f".{extension}"] = mimetype
    return by_extension


class Option(NamedTuple):
    cast: Callable[[str], Any]
    default: Any


STORAGES = {
    "base_path": "a local folder",
    "aws.bucket_name": "Amazon S3 and what speaks its protocol",
    "backend": "a module that registers an IFileStorage",
}
"""The settings of which one chooses where files live."""

MIN_PART_BYTES = 5 * 1024**2
MAX_PART_BYTES = 5 * 1024**3
"""What S3 takes as a part of a multipart upload, but for the last one."""

CANNED_ACLS = (
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
)

OPTIONS = {
    "base_path": Option(_path, None),
    "backend": Option(_matching(r"\w+(\.\w+)*", "the dotted name of a module"), None),
    "aws.bucket_name": Option(
        _matching(r"[\w.-]{1,255}", "letters, digits, dots, dashes and underscores"), None
    ),
    "aws.access_key": Option(_text, None),
    "aws.secret_key": Option(_text, None),
    "aws.acl": Option(_one_of(*CANNED_ACLS), "public-read"),
    "aws.region": Option(_matching(r"[a-z0-9-]+", "like eu-central-1"), None),
    "aws.endpoint_url": Option(_endpoint_url, None),
    "aws.host": Option(_matching(r"[^/:\s]+|\[[0-9A-Fa-f:.]+\]", "a host name"), None),
    "aws.port": Option(_port, None),
    "aws.is_secure": Option(_boolean, True),
    "aws.use_path_style": Option(_boolean, False),
    "aws.num_retries": Option(_integer(0), 1),
    "aws.timeout": Option(_seconds, 5.0),
    "aws.part_size_bytes": Option(_integer(MIN_PART_BYTES, MAX_PART_BYTES), 8 * 1024**2),
    "aws.cache_control": Option(_header, None),
    "aws.content_disposition": Option(_header, None),
    "aws.checksums": Option(_one_of("when_supported", "when_required"), None),
    "base_url": Option(_url, ""),
    "extra.base_url": Option(_url, ""),
    "folder": Option(_folder, ""),
    "randomize": Option(_boolean, True),
    "filename_pattern": Option(_filename_pattern, "{filename}"),
    "extensions": Option(_extensions, _extensions("default")),
    "mimetypes": Option(_mimetypes, {}),
    "max_size_bytes": Option(_integer(0), 0),
    "gzipped": Option(_boolean, False),
    "gzip_level": Option(_integer(1, 9), 6),
    "fsync": Option(_boolean, True),
    "serve_files": Option(_boolean, False),
    "keep_old_files": Option(_boolean, False),
    "max_field_size_bytes": Option(_integer(1), 1024 * 1024),
}
"""Name, cast and default of every setting. A cast raises ``ValueError`` for a wrong value."""
