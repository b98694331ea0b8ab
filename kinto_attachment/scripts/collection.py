"""A collection of a Kinto server."""

import functools
import itertools
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any

import requests

from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.http_client import TRANSIENT_ERRORS, HttpClient
from kinto_attachment.scripts.responses import check_status, json_object, not_kinto


PAGE_RECORDS = 1000
MAX_PAGES = 100_000

TIMESTAMP = re.compile(r'(?:W/)?("?)([0-9]{1,18})\1')
"""Kinto's timestamp in an ETag, also in one that a proxy has weakened, as when it compresses the
response (RFC 9110, section 8.8.1)."""


class Collection:
    """A collection, whose server is trusted with the credentials and nothing else."""

    def __init__(self, http: HttpClient, server: str, auth: Any, bucket: str, collection: str):
        self.http = http
        self.server = server.rstrip("/")
        self._bucket_path = f"/buckets/{_quote(bucket)}"
        self._path = f"{self._bucket_path}/collections/{_quote(collection)}"
        self._auth = _credentials(auth, server)

    def record_path(self, record_id: str) -> str:
        """Return the path of a record."""
        return f"{self._path}/records/{_quote(record_id)}"

    def request(
        self, method: str, path: str, expected: Iterable[int] = (200,), **options: Any
    ) -> requests.Response:
        """Return Kinto's response to a request for a path, if it has an expected status.

        :raises NotAllowed: it is 401 or 403.
        :raises Failure: it is another one, or there is no response.
        """
        response = self.http.request(method, self.server + path, auth=self._auth, **options)
        return check_status(response, *expected)

    def file(self, url: str, is_private: bool, headers: dict[str, str]) -> requests.Response:
        """Return the response to a request for the file at a URL, of any status.

        :param is_private: whether the URL is one of Kinto. Only then the credentials are sent, and
            not to where it redirects: a storage that has signed that URL takes no others.
        :raises Failure: there is none.
        """
        if not url.lower().startswith(("http://", "https://")):
            raise Failure(f"its location is not a web URL: {url}")
        auth = self._auth if is_private else None
        return self.http.request("GET", url, auth=auth, auth_ends_here=True, headers=headers)

    def attempt(self, method: str, path: str, **options: Any) -> requests.Response:
        """Return Kinto's response to a request that is not retried.

        :raises TRANSIENT_ERRORS: there is none, but a retry may get one.
        :raises Failure: there is none.
        """
        return self.http.attempt(method, self.server + path, auth=self._auth, **options)

    def create_if_missing(self) -> None:
        """Create the bucket and the collection, if they are missing and the user may do so.

        :raises Failure: the server refuses for another reason.
        """
        paths = [self._bucket_path, self._path]
        if paths[0] == "/buckets/default":  # Every user has this one.
            del paths[0]
        for path in paths:
            # If the user may not create it, it may exist: the next request shows.
            self.request("PUT", path, (201, 403, 412), headers={"If-None-Match": "*"}).close()

    def pages(self, fields: str, **params: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Return pages of records, the least recently changed first.

        :param fields: of the records, beside ``id``, ``last_modified`` and ``deleted``.
        :param params: Kinto's filters.
        :returns: the timestamp of the collection when the first page was made (later changes have
            later ones), and the records.
        :raises Failure: the pages cannot be read, or never end.
        """
        query: Any = {
            "_limit": PAGE_RECORDS,
            "_sort": "last_modified",
            "_fields": f"{fields},deleted",
            **params,
        }
        timestamp = None
        last = -1
        for _ in range(MAX_PAGES):
            response, page = self._json(f"{self._path}/records", query)
            timestamp = timestamp or _timestamp(response)
            records = _records(response, page)
            yield timestamp, records
            query = _next_query(response)
            if not query:
                return
            last = _last_modified(response, records, after=last)
        raise Failure(f"{self._path} has more than {MAX_PAGES} pages of records")

    def count(self, filters: dict[str, str]) -> int | None:
        """Return the number of records, or ``None`` if the server does not report it.

        :param filters: Kinto's.
        :raises Failure: there is no response.
        """
        # The latter two come from proxies that do not pass HEAD.
        expected = (200, 405, 501)
        with self.request("HEAD", f"{self._path}/records", expected, params=filters) as response:
            headers = response.headers
            count = headers.get("Total-Objects") or headers.get("Total-Records") or ""
            return int(count) if re.fullmatch(r"[0-9]{1,18}", count) else None

    def base_url(self) -> str:
        """Return the base of relative locations, as the server advertises it."""
        response, value = self._capability("base_url")
        try:
            urllib.parse.urlsplit(value or "")
        except (AttributeError, TypeError, ValueError) as error:
            raise not_kinto(response) from error
        return value or ""

    @functools.cached_property
    def takes_resumable_uploads(self) -> bool:
        """Whether the server advertises the protocol tus 1.0.0."""
        _, protocols = self._capability("resumable")
        return isinstance(protocols, list) and "tus-1.0.0" in protocols

    def _capability(self, name: str) -> tuple[requests.Response, Any]:
        response, value = self._json("/")
        for key in ("capabilities", "attachments", name):
            value = value.get(key) if isinstance(value, dict) else None
        return response, value

    def _json(self, path: str, query: Any = None) -> tuple[requests.Response, Any]:
        """Return a response and the JSON object in it. One that breaks off is requested again."""
        for attempt in itertools.count():
            with self.request("GET", path, params=query) as response:
                try:
                    return response, json_object(response)
                except TRANSIENT_ERRORS as error:
                    reason = error
            self.http.wait_before_retry(attempt, reason)
        raise AssertionError("the attempts never end")


def _credentials(auth: Any, server: str) -> Any:
    """Return the credentials for a server as ``requests`` takes them, or ``None``.

    Names and passwords are sent in UTF-8, as browsers do and Kinto expects (RFC 7617, section 2.1);
    ``requests`` encodes text as Latin-1.
    """
    auth = auth or requests.utils.get_netrc_auth(server)
    if auth is None:
        auth = requests.utils.get_auth_from_url(server)
    if not isinstance(auth, tuple):
        return auth
    # An argument that is not in the charset of the terminal is sent as the bytes that were typed.
    encoded = tuple(text.encode("utf-8", "surrogateescape") for text in auth)
    return encoded if any(encoded) else None


def _next_query(response: requests.Response) -> str:
    """Return the query of the next page, empty if there is none."""
    try:
        # Its host is not used: the credentials are for one server only.
        return urllib.parse.urlsplit(response.headers.get("Next-Page", "")).query
    except ValueError as error:
        raise not_kinto(response) from error


def _last_modified(response: requests.Response, records: list[dict[str, Any]], after: int) -> int:
    """Return when the last record of a page was changed, if there is to be a next page.

    :raises Failure: not later than the page before. Such pages never end.
    """
    last = records[-1].get("last_modified") if records else None
    if not isinstance(last, int) or last <= after:
        raise Failure(f"the pages of {response.url} never end")
    return last


def _timestamp(response: requests.Response) -> str:
    match = TIMESTAMP.fullmatch(response.headers.get("ETag", ""))
    if match is None:
        raise Failure(f"the response of {response.url} has no timestamp")
    return match[2]


def _records(response: requests.Response, page: dict[str, Any]) -> list[dict[str, Any]]:
    records = page.get("data")
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and isinstance(record.get("id"), str) for record in records
    ):
        raise Failure(f"the response of {response.url} is not a list of records")
    return records


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")
