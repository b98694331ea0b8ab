"""Downloads: what is to be downloaded for a record, from where, under which name."""

import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from urllib3.util.url import Url, parse_url

from kinto_attachment.scripts.content import Content, original_of
from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.names import check_filename, is_path_of
from kinto_attachment.scripts.report import Report
from kinto_attachment.scripts.state import State


RECORD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
DEFAULT_PORTS = {"http": 80, "https": 443}
PRIVATE_PATH = re.compile(
    r"(/v[0-9]+)?/buckets/[\w-]+/collections/[\w-]+/records/[\w-]+/attachment", re.ASCII
)
"""The path of a private file, which Kinto gives to those who may read its record."""

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class Download:
    """A file to download.

    :ivar name: of the file in the folder.
    :ivar url: of the file on the server.
    :ivar is_private: whether Kinto itself has the file at this URL, for those who may read its
        record.
    :ivar stored: its content there.
    :ivar original: its decompressed content, or ``None`` if it is not compressed.
    """

    record_id: str
    last_modified: Any
    name: str
    url: str
    is_private: bool
    stored: Content
    original: Content | None

    @property
    def content(self) -> Content:
        return self.original or self.stored

    @property
    def key(self) -> tuple[str, str, str]:
        """What distinguishes the file from others, and from later ones of the record."""
        return (self.record_id, self.url, self.stored.hash)


class Planner:
    """Makes the downloads of records.

    :param server: its URL.
    :param base_url: what the server advertises: a URL, a path or nothing.
    """

    def __init__(self, state: State, report: Report, server: str, base_url: str):
        self._state = state
        self._report = report
        self._server = server
        self._base_url = base_url

    def plan(self, record: dict[str, Any], check: Callable[[str], Any]) -> Download:
        """Return the download of a record, which claims the name for its file.

        :param check: raises a failure if the folder cannot have a file of a name.
        :raises Failure: the record is invalid.
        """
        stored, original = Content.parse(record["attachment"]), original_of(record)
        location = record["attachment"].get("location")
        if not isinstance(location, str) or not RECORD_ID.fullmatch(record["id"]):
            raise Failure("the record does not say where its file is")
        filename = (original or stored).filename
        check_filename(filename)
        path = record.get("path")
        # The upload script stores the name there, if the filename differs from it.
        wanted = str(path) if is_path_of(path, filename) else filename
        check(wanted)
        name = self._state.claim(record["id"], wanted)
        if name != wanted:
            message = f"belongs to another record; this one is written to {name}"
            self._report.warn(wanted, message)
        try:
            url = absolute_location(location, self._base_url, self._server)
            is_private = is_private_location(url, self._server)
        except ValueError as error:
            raise Failure(f"its location is not a web URL: {location}") from error
        last_modified = record.get("last_modified")
        return Download(record["id"], last_modified, name, url, is_private, stored, original)


def absolute_location(location: str, base_url: str, server: str) -> str:
    """Return the URL of a file.

    :param location: of the attachment: a URL, or what is appended to the base URL. If it begins
        with ``/`` and the base is no URL, it is relative to the host of the server.
    :raises ValueError: they make no URL.
    """
    if SCHEME.match(location):
        return location
    if PRIVATE_PATH.search(location) and location.startswith("/"):
        # Kinto's own path, which is not below the base URL of public files.
        return urllib.parse.urljoin(server, location)
    if location.startswith("//") or (location.startswith("/") and not SCHEME.match(base_url)):
        return urllib.parse.urljoin(server, location)
    base = urllib.parse.urljoin(f"{server}/", base_url).rstrip("/")
    return f"{base}/{location.lstrip('/')}"


def is_private_location(url: str, server: str) -> bool:
    """Return whether the URL of a file is one of Kinto itself: only that gets the credentials.

    :raises ValueError: it is none.
    """
    # As the one who sends the request reads them: of "https://a\\@b/", urllib takes b for the host.
    file, kinto = parse_url(url), parse_url(server)
    path = (file.path or "").removeprefix((kinto.path or "").rstrip("/"))
    return _origin(file) == _origin(kinto) and bool(PRIVATE_PATH.fullmatch(path))


def _origin(url: Url) -> tuple[str | None, str | None, int | None]:
    """Return scheme, host and port."""
    return url.scheme, url.host, url.port or DEFAULT_PORTS.get(url.scheme or "")
