"""HTTP requests that are retried, and whose credentials stay with their server."""

import email.utils
import itertools
import logging
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import requests
import urllib3
from kinto_http.constants import USER_AGENT

from kinto_attachment.background import in_parallel
from kinto_attachment.scripts.errors import Failure, Interrupted
from kinto_attachment.scripts.responses import ACCEPTED_ENCODING


logger = logging.getLogger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")

MAX_REDIRECTS = 20

TIMEOUT_SECONDS = (30, 300)
"""For the connection, and for each wait for the server, which may have a large file to store."""

RETRIED_STATUSES = (409, 423, 429, 500, 502, 503, 504)
FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 60
MAX_RETRY_AFTER_SECONDS = 3600
GRACE_SECONDS = 5

TRANSIENT_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)
"""The errors that a retry may mend, before the response and within its body."""


class _Anonymous(requests.auth.AuthBase):
    """No credentials, instead of those that ``requests`` finds in ~/.netrc or in the URL."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Session(requests.Session):
    """A session that leaves redirects to its user.

    Its base class reads their bodies, of any size, to the end, even if it does not follow them.
    """

    def resolve_redirects(self, *args: Any, **options: Any) -> Iterator[requests.Response]:
        return iter(())


class HttpClient:
    """Sends requests in several threads, and retries them.

    :param jobs: the number of threads.
    :param retries: the maximum for each request.
    :param delay_seconds: between retries, or ``None`` for increasing delays, or the server's.
    """

    def __init__(self, jobs: int, retries: int, delay_seconds: int | None):
        self._jobs = jobs
        self._retries = retries
        self._delay_seconds = delay_seconds
        self._local = threading.local()
        self._stop = threading.Event()

    def in_parallel(
        self, work: Callable[[Item], T], items: Iterable[Item]
    ) -> Iterator[tuple[Item, "Future[T]"]]:
        """Return ``(item, future)`` for each item when work on it is done.

        If the iteration ends early, requests are stopped.
        """
        return in_parallel(work, items, self._jobs, self.stop, GRACE_SECONDS)

    def stop(self) -> None:
        """Make every thread raise :class:`Interrupted` at its next step."""
        self._stop.set()

    def check(self) -> None:
        """Return if the client has not been stopped.

        :raises Interrupted: it has.
        """
        if self._stop.is_set():
            raise Interrupted

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        """Return the response to a request, of any status, with its body unread.

        Credentials (``auth``) are for the server of this URL only, also after redirects; with
        ``auth_ends_here``, they are for this URL only.

        :raises Failure: there is none.
        """
        for attempt in itertools.count():
            try:
                response = self.attempt(method, url, **options)
            except TRANSIENT_ERRORS as error:
                self.wait_before_retry(attempt, error)
            else:
                if response.status_code not in RETRIED_STATUSES or attempt == self._retries:
                    return response
                response.close()
                retry_after = response.headers.get("Retry-After")
                self.wait_before_retry(attempt, response.status_code, retry_after)
        raise AssertionError("the attempts never end")

    def attempt(self, method: str, url: str, **options: Any) -> requests.Response:
        """Return the response to a request that is not retried, as of :meth:`request`.

        :raises TRANSIENT_ERRORS: there is none, but a retry may get one.
        :raises Failure: there is none.
        """
        self.check()
        try:
            return self._follow(method, url, **options)
        except requests.exceptions.SSLError as error:
            raise Failure(str(error)) from error
        except TRANSIENT_ERRORS:
            raise
        except (requests.RequestException, ValueError) as error:
            # The latter is raised for some invalid URLs.
            raise Failure(str(error)) from error

    def wait_before_retry(
        self, attempt: int, reason: object, retry_after: str | None = None
    ) -> None:
        """Wait before the next attempt.

        :param attempt: the number of the attempt that failed, from 0.
        :param retry_after: the header of that name: seconds, or a date.
        :raises Failure: it was the last one.
        """
        if attempt >= self._retries:
            raise Failure(str(reason))
        seconds = self._delay(attempt, retry_after)
        logger.info("Trying again in %g s: %s", seconds, reason)
        if self._stop.wait(seconds):
            raise Interrupted

    def _delay(self, attempt: int, retry_after: str | None) -> float:
        if self._delay_seconds is not None:
            return self._delay_seconds
        if retry_after:
            return min(max(_seconds_from_now(retry_after), 0), MAX_RETRY_AFTER_SECONDS)
        return min(FIRST_DELAY_SECONDS * 2**attempt, MAX_DELAY_SECONDS)

    def _follow(
        self,
        method: str,
        url: str,
        auth: Any = None,
        auth_ends_here: bool = False,
        **options: Any,
    ) -> requests.Response:
        """Return the response to one request, or to the last one of its redirects."""
        for _ in range(MAX_REDIRECTS):
            response = self._session.request(
                method,
                url,
                auth=auth or _Anonymous(),
                stream=True,
                timeout=TIMEOUT_SECONDS,
                **options,
            )
            target = self._redirect_target(response)
            if target is None:
                return response
            response.close()
            options.pop("params", None)  # The redirect has been made for them.
            if auth_ends_here or self._session.should_strip_auth(response.url, target):
                auth = None
            url = target
        raise Failure(f"more than {MAX_REDIRECTS} redirects, the last one to {url}")

    def _redirect_target(self, response: requests.Response) -> str | None:
        """Return the URL that a response redirects to, or ``None``: also if that would change the
        method, or send the body to another host (RFC 9110, section 15.4)."""
        location = self._session.get_redirect_target(response)
        if location is None:
            return None
        target = urllib.parse.urljoin(response.url, requests.utils.requote_uri(location))
        if response.request.method in ("GET", "HEAD"):
            return target
        keeps_method = response.status_code in (307, 308)
        leaves_host = self._session.should_strip_auth(response.url, target)
        return target if keeps_method and not leaves_host else None

    @property
    def _session(self) -> _Session:
        # The sessions of requests are not thread-safe.
        if not hasattr(self._local, "session"):
            self._local.session = _Session()
            headers = {"User-Agent": USER_AGENT, "Accept-Encoding": ACCEPTED_ENCODING}
            self._local.session.headers.update(headers)
        return self._local.session


def _seconds_from_now(retry_after: str) -> float:
    """Return the seconds in a Retry-After header (RFC 9110, section 10.2.3)."""
    try:
        if retry_after.isdecimal():
            return int(retry_after)
        return email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
        return FIRST_DELAY_SECONDS
