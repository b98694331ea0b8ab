"""What the helper scripts share: options, requests, parallel work, and the telling of it."""

import argparse
import collections
import concurrent.futures
import email.utils
import hashlib
import itertools
import json
import logging
import os
import re
import stat
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import requests
import urllib3
from kinto_http import BearerTokenAuth, cli_utils
from kinto_http.constants import USER_AGENT

from kinto_attachment.scripts.bodies import ACCEPTED_ENCODING, BodyRefused, read_body


try:
    import tqdm
except ImportError:  # Only the extra "scripts" brings it, kinto-http does not.
    tqdm = None


logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_NOT_ALLOWED = 3
EXIT_INTERRUPTED = 130

STATE = ".last_sync"
PARTIALS = ".partial"
"""What the download script keeps in its folder, beside the files."""

CHUNK_BYTES = 256 * 1024
PAGE_RECORDS = 1000
MAX_PAGES = 100_000
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""A page of records takes half of one, since only some fields of them are asked for."""

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_REDIRECTS = 20

TIMEOUT_SECONDS = (30, 300)
"""For the connection, and for every wait on the server, that may have a large file to store."""

TIMESTAMP = re.compile(r'(?:W/)?("?)([0-9]{1,18})\1')

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

RETRIED_STATUSES = (409, 429, 500, 502, 503, 504)
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 60
LONGEST_RETRY_AFTER_SECONDS = 3600
GRACE_SECONDS = 5

TRANSIENT_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)
"""What a new try may mend, on the way to the answer and within its body."""


class Failure(Exception):
    """A file or a request has failed; the message is one for people.

    :ivar status: of the answer to the request, or ``None``.
    """

    status: int | None = None


class NotAllowed(Failure):
    """The server answered 401 or 403."""


class Interrupted(Exception):
    """The user has had enough: leave, whatever is under way."""


@dataclass(frozen=True)
class Content:
    """A file's content, as somebody describes it.

    :ivar hash: SHA-256, lower-case hexadecimal.
    :ivar size: in bytes.
    """

    filename: str
    hash: str
    size: int


DESCRIPTION_FIELDS = "attachment,original.filename,original.hash,original.size,path"
"""The fields of a record that say what its file is and where it goes. Others can be of any size."""


def attachment_of(record: dict[str, Any]) -> Content:
    """Return the file of a record, as the server stores it.

    :raises Failure: there is none, or its description is not one.
    """
    return _content(record.get("attachment"))


def original_of(record: dict[str, Any]) -> Content | None:
    """Return the file of a record before it was compressed, or ``None`` where it was not.

    Its server describes it in the attachment, the upload script in the record. The latter stays in
    the record when another client attaches a file, and then says nothing about that one.

    :raises Failure: the description is not one.
    """
    attachment = record.get("attachment")
    if not isinstance(attachment, dict):
        return None
    if attachment.get("original"):
        return _content(attachment["original"])
    compressed = str(attachment.get("filename")).lower().endswith(".gz")
    return _content(record["original"]) if compressed and record.get("original") else None


def content_of(record: dict[str, Any]) -> Content:
    """Return the file of a record as it was before anything compressed it.

    :raises Failure: there is none, or its description is not one.
    """
    return original_of(record) or attachment_of(record)


def as_failure(error: OSError | Failure) -> Failure:
    """Return an error as one for people. (The name of the file is told beside it.)"""
    return Failure(error.strerror or str(error)) if isinstance(error, OSError) else error


def _content(description):
    try:
        filename, sha256, size = (description[key] for key in ("filename", "hash", "size"))
        if type(filename) is not str or type(size) is not int or size < 0:
            raise ValueError
        if len(bytes.fromhex(sha256)) != hashlib.sha256().digest_size:
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise Failure("the record does not describe its file with name, hash and size") from error
    return Content(filename, sha256.lower(), size)


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Return a regular file, opened for reading. A pipe, which may have come in its place since it
    was found, would be waited for, and a device might never end.

    :raises Failure: it is something else.
    :raises OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Failure("is not a file")
    return file


def holds(path: str | os.PathLike, content: Content) -> bool:
    """Return whether the file at this path has this content.

    :raises Failure: there is something else than a file.
    :raises OSError: it cannot be read.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size != content.size:
            return False
        # What says another size than it has, as below /proc, is not read to its end.
        return sha256(file, content.size) == content.hash and not file.read(1)


def sha256(file: BinaryIO, size: int | None = None) -> str:
    """Return the SHA-256 of the rest of a file, or of so many bytes of it, hexadecimal."""
    digest = hashlib.sha256()
    left = sys.maxsize if size is None else size
    while chunk := file.read(min(CHUNK_BYTES, left)):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def printable(text: str) -> str:
    """Return text that does nothing to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Parser(argparse.ArgumentParser):
    def add_argument(self, *names, **options):
        # One of kinto_http's, without effect here: nothing is sent in batches.
        return None if "--ignore-batch-4xx" in names else super().add_argument(*names, **options)


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of kinto_http, and those that the scripts share."""
    parser = _Parser(description=description)
    cli_utils.add_parser_options(parser, default_retry=5)
    parser.add_argument(
        "-j",
        "--jobs",
        type=positive_integer,
        default=4,
        help="Number of files under way at once. (default: 4)",
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object a line.")
    return parser


def positive_integer(text: str) -> int:
    """Return the number in an option's text, at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Return the options, with those that make no sense without a value checked.

    :raises SystemExit: with code 2, the usage is wrong.
    """
    args = parser.parse_args(argv)
    for name in ("server", "bucket", "collection"):
        if not getattr(args, name):
            parser.error(f"--{name} is required")
    if not _is_web_url(args.server):
        parser.error("--server should be a URL, like https://kinto.example.com/v1")
    _check_texts(parser, args)
    if args.retry < 0 or (args.retry_after or 0) < 0:
        parser.error("--retry and --retry-after cannot be negative")
    cli_utils.setup_logger(logging.getLogger(__package__), args)
    if args.verbosity == logging.DEBUG:
        cli_utils.setup_logger(logging.getLogger("urllib3"), args)
    return args


def _check_texts(parser, args):
    for name in ("server", "bucket", "collection"):
        if not _encodes(getattr(args, name), "utf-8"):
            parser.error(f"--{name} is not in the charset of the terminal")
    token = args.auth
    if isinstance(token, BearerTokenAuth) and not _encodes(f"{token.type}{token.token}", "ascii"):
        parser.error("--auth: a token is of ASCII characters (RFC 6750, section 2.1)")


def _encodes(text, charset):
    try:
        text.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


def _is_web_url(text):
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def run(work: Callable[..., None], args: argparse.Namespace) -> int:
    """Do the work of a script, and return its exit code.

    :param work: takes the options, a :class:`Collection` and a :class:`Report`.
    """
    try:
        return _run(work, args)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # Who read the output has left.
            print(f"the output cannot be written: {error}", file=sys.stderr)
        # What is still to be flushed should not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _run(work, args):
    report = Report(args)
    http = Http(args.retry, args.retry_after)
    collection = Collection(http, args.server, args.auth, args.bucket, args.collection)
    try:
        work(args, collection, report)
    except BrokenPipeError:
        raise
    except (Failure, OSError) as error:
        report.failed(None, error)
    except KeyboardInterrupt:
        http.stop()
        report.interrupted()
        # Not sys.exit(): that waits for threads that may be waiting for a server.
        os._exit(EXIT_INTERRUPTED)
    report.end()
    return report.exit_code


class _Anonymous(requests.auth.AuthBase):
    """No credentials: in place of those that ``requests`` finds in ~/.netrc, or in the URL."""

    def __call__(self, request):
        return request


ANONYMOUS = _Anonymous()


class _Session(requests.Session):
    """A session that leaves redirects to its user.

    Its base class reads their bodies, of any size, to the end, also where it does not follow them.
    """

    def resolve_redirects(self, *args, **options):
        return iter(())


class Http:
    """Requests that are tried again, by any number of threads.

    :ivar retries: how many times.
    """

    def __init__(self, retries: int, delay_seconds: int | None):
        self.retries = retries
        self._delay_seconds = delay_seconds
        self._local = threading.local()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Have every thread raise :class:`Interrupted` at its next step."""
        self._stop.set()

    def check(self) -> None:
        """Go on, unless there is a reason to stop.

        :raises Interrupted: there is.
        """
        if self._stop.is_set():
            raise Interrupted

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        """Return the answer to a request, its body unread, whatever its status.

        Credentials (``auth``) are for the server of this URL, also after redirects.

        :raises Failure: there is none.
        """
        for attempt in itertools.count():
            self.check()
            try:
                response = self._follow(method, url, **options)
            except requests.exceptions.SSLError as error:
                raise Failure(str(error)) from error
            except TRANSIENT_ERRORS as error:
                self.pause(attempt, error)
            except (requests.RequestException, ValueError) as error:
                # The latter comes with some URLs that are none.
                raise Failure(str(error)) from error
            else:
                if response.status_code not in RETRIED_STATUSES or attempt == self.retries:
                    return response
                response.close()
                self.pause(attempt, response.status_code, response.headers.get("Retry-After"))
        raise AssertionError("the attempts never end")

    def _follow(self, method, url, auth=None, **options):
        """Return the answer to one request, or to the last one of its redirects."""
        for _ in range(MAX_REDIRECTS):
            response = self._session.request(
                method,
                url,
                auth=auth or ANONYMOUS,
                stream=True,
                timeout=TIMEOUT_SECONDS,
                **options,
            )
            target = self._redirect_target(response)
            if target is None:
                return response
            response.close()
            options.pop("params", None)  # They are in the URL that has answered.
            if self._session.should_strip_auth(response.url, target):
                auth = None
            url = target
        raise Failure(f"more than {MAX_REDIRECTS} redirects, the last one to {url}")

    def _redirect_target(self, response):
        """Return the URL that a response redirects to, or ``None``: also where another method would
        be needed there, or the body would go to another host (RFC 9110, section 15.4)."""
        location = self._session.get_redirect_target(response)
        if location is None:
            return None
        target = urllib.parse.urljoin(response.url, requests.utils.requote_uri(location))
        if response.request.method in ("GET", "HEAD"):
            return target
        keeps_method = response.status_code in (307, 308)
        elsewhere = self._session.should_strip_auth(response.url, target)
        return target if keeps_method and not elsewhere else None

    def pause(self, attempt: int, reason: object, retry_after: str | None = None) -> None:
        """Wait before the next attempt.

        :param attempt: the number of the one that has failed, from 0.
        :param retry_after: the header of that name: seconds, or a date.
        :raises Failure: there were enough of them.
        """
        if attempt >= self.retries:
            raise Failure(str(reason))
        seconds = self._delay(attempt, retry_after)
        logger.info("Trying again in %g s: %s", seconds, reason)
        if self._stop.wait(seconds):
            raise Interrupted

    def _delay(self, attempt, retry_after):
        if self._delay_seconds is not None:
            return self._delay_seconds
        if retry_after:
            return min(max(_seconds_from_now(retry_after), 0), LONGEST_RETRY_AFTER_SECONDS)
        return min(FIRST_DELAY_SECONDS * 2**attempt, LONGEST_DELAY_SECONDS)

    @property
    def _session(self):
        # The sessions of requests are not made for threads.
        if not hasattr(self._local, "session"):
            self._local.session = _Session()
            headers = {"User-Agent": USER_AGENT, "Accept-Encoding": ACCEPTED_ENCODING}
            self._local.session.headers.update(headers)
        return self._local.session


def _seconds_from_now(retry_after):
    """Return the seconds that a Retry-After header names (RFC 9110, section 10.2.3)."""
    try:
        if retry_after.isdecimal():
            return int(retry_after)
        return email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
        return FIRST_DELAY_SECONDS


def check_status(response: requests.Response, *expected: int) -> requests.Response:
    """Return a response that has an expected status.

    :raises NotAllowed: it is 401 or 403.
    :raises Failure: it is another one. The message is the server's.
    """
    if response.status_code in expected:
        return response
    kind = NotAllowed if response.status_code in (401, 403) else Failure
    failure = kind(f"{response.status_code} {response.reason}{_message(response)}")
    failure.status = response.status_code
    raise failure


def _message(response):
    try:
        return f": {json.loads(read_body(response, MAX_MESSAGE_BYTES))['message']}"
    except (urllib3.exceptions.HTTPError, OSError, BodyRefused):
        return ""
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    finally:
        response.close()


class Collection:
    """A collection of a Kinto server."""

    def __init__(self, http: Http, server: str, auth: Any, bucket: str, collection: str):
        self.http = http
        self.server = server.rstrip("/")
        self.path = f"/buckets/{_quote(bucket)}/collections/{_quote(collection)}"
        self._auth = _credentials(auth, server)

    def request(
        self, method: str, path: str, expected: Iterable[int] = (200,), **options: Any
    ) -> requests.Response:
        """Return Kinto's answer to a request on a path, when it has an expected status.

        :raises NotAllowed: it is 401 or 403.
        :raises Failure: it is another one, or there is none.
        """
        response = self.http.request(method, self.server + path, auth=self._auth, **options)
        return check_status(response, *expected)

    def create_if_missing(self) -> None:
        """Create the bucket and the collection, if they are missing and the user may do that.

        :raises Failure: the server refuses for another reason.
        """
        bucket_path = self.path.partition("/collections/")[0]
        if bucket_path != "/buckets/default":  # It is there for every user.
            self._create(bucket_path)
        self._create(self.path)

    def _create(self, path):
        # Where the user may not, the bucket may be there: the next request on it tells.
        self.request("PUT", path, (201, 403, 412), headers={"If-None-Match": "*"}).close()

    def pages(self, fields: str, **params: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield pages of records, the least recently changed first.

        :param fields: of the records, beside ``id``, ``last_modified`` and ``deleted``.
        :param params: Kinto's filters.
        :returns: the timestamp of the collection as it was when the first page was made (later
            changes are later than that), and the records.
        :raises Failure: they cannot be had, or never end.
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
            response, answer = self._json(f"{self.path}/records", query)
            timestamp = timestamp or _timestamp(response)
            records = _records(response, answer)
            yield timestamp, records
            query = _next_query(response)
            if not query:
                return
            last = _last_modified(response, records, after=last)
        raise Failure(f"{self.path} has more than {MAX_PAGES} pages of records")

    def count(self, filters: dict[str, str]) -> int | None:
        """Return how many records there are, or ``None`` where the server does not say.

        :param filters: Kinto's.
        :raises Failure: there is no answer.
        """
        # The latter two are those of proxies that let through no HEAD.
        expected = (200, 405, 501)
        with self.request("HEAD", f"{self.path}/records", expected, params=filters) as response:
            headers = response.headers
            count = headers.get("Total-Objects") or headers.get("Total-Records") or ""
            return int(count) if re.fullmatch(r"[0-9]{1,18}", count) else None

    def _json(self, path, query=None):
        """Return a response with the JSON object in it. One that breaks off is asked for again."""
        for attempt in itertools.count():
            with self.request("GET", path, params=query) as response:
                try:
                    return response, json_object(response)
                except TRANSIENT_ERRORS as error:
                    reason = error
            self.http.pause(attempt, reason)
        raise AssertionError("the attempts never end")

    def record_path(self, record_id: str) -> str:
        """Return the path of a record."""
        return f"{self.path}/records/{_quote(record_id)}"

    def base_url(self) -> str:
        """Return what locations of attachments that are no URLs are appended to."""
        response, value = self._json("/")
        for key in ("capabilities", "attachments", "base_url"):
            value = value.get(key) if isinstance(value, dict) else None
        try:
            urllib.parse.urlsplit(value or "")
        except (AttributeError, TypeError, ValueError) as error:
            raise _not_kinto(response) from error
        return value or ""


def absolute_location(location: str, base_url: str, server: str) -> str:
    """Return the URL of a file.

    :param location: of the attachment: a URL, or what is to be appended to the base URL. One that
        begins with ``/`` is not appended to another path, but is on the host of the server.
    :param base_url: what the server advertises, a URL, a path or nothing.
    :raises ValueError: they make no URL.
    """
    if SCHEME.match(location):
        return location
    if location.startswith("//") or (location.startswith("/") and not SCHEME.match(base_url)):
        return urllib.parse.urljoin(server, location)
    base = urllib.parse.urljoin(f"{server}/", base_url).rstrip("/")
    return f"{base}/{location.lstrip('/')}"


def _credentials(auth, server):
    """Return the credentials for a server as ``requests`` takes them, or ``None``.

    Names and passwords are in UTF-8, as browsers send them and Kinto reads them (RFC 7617, section
    2.1). ``requests`` has Latin-1 for text.
    """
    auth = auth or requests.utils.get_netrc_auth(server)
    if auth is None:
        auth = requests.utils.get_auth_from_url(server)
    if not isinstance(auth, tuple):
        return auth
    # An argument that is not in the charset of the terminal goes as the bytes that it was.
    encoded = tuple(text.encode("utf-8", "surrogateescape") for text in auth)
    return encoded if any(encoded) else None


def json_object(response: requests.Response) -> dict[str, Any]:
    """Return the JSON object in a response.

    :raises Failure: there is none, or it is too large.
    :raises urllib3.exceptions.HTTPError: the connection failed within it.
    """
    try:
        body = json.loads(read_body(response, MAX_ANSWER_BYTES))
    except BodyRefused as refusal:
        raise Failure(f"the answer of {response.url} {refusal}") from refusal
    except (ValueError, RecursionError) as error:
        raise _not_kinto(response) from error
    if not isinstance(body, dict):
        raise _not_kinto(response)
    return body


def _not_kinto(response):
    return Failure(f"the answer of {response.url} is not what Kinto answers")


def _next_query(response):
    """Return the query of the next page, empty where there is none."""
    try:
        # Its host is not used: the credentials are for one server only.
        return urllib.parse.urlsplit(response.headers.get("Next-Page", "")).query
    except ValueError as error:
        raise _not_kinto(response) from error


def _last_modified(response, records, after):
    """Return when the last record of a page was changed, if there is to be a next page.

    :raises Failure: that is not later than the page before: such pages never end.
    """
    last = records[-1].get("last_modified") if records else None
    if not isinstance(last, int) or last <= after:
        raise Failure(f"the pages of {response.url} go on without end")
    return last


def _timestamp(response):
    """Return the timestamp in an ETag, also in one that a proxy has weakened, as when it compresses
    the answer (RFC 9110, section 8.8.1)."""
    match = TIMESTAMP.fullmatch(response.headers.get("ETag", ""))
    if match is None:
        raise Failure(f"the answer of {response.url} has no timestamp")
    return match[2]


def _records(response, answer):
    records = answer.get("data")
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and isinstance(record.get("id"), str) for record in records
    ):
        raise Failure(f"the answer of {response.url} is not a list of records")
    return records


def _quote(text):
    return urllib.parse.quote(text, safe="")


def in_parallel(
    jobs: int, http: Http, work: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[tuple[Any, Any, Failure | None]]:
    """Do work on items in threads, and yield ``(item, result, failure)`` as they end.

    Items are taken as they are needed. On an interruption, work has some seconds to leave.
    """
    items = iter(items)
    running: dict[concurrent.futures.Future, Any] = {}
    executor = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        while True:
            for item in itertools.islice(items, jobs + 1 - len(running)):
                running[executor.submit(work, item)] = item
            if not running:
                return
            for future in _completed(running):
                item = running.pop(future)
                try:
                    yield item, future.result(), None
                except Failure as failure:
                    yield item, None, failure
    except BaseException:
        http.stop()
        concurrent.futures.wait(running, GRACE_SECONDS)
        raise
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _completed(futures):
    """Return those that ended, at least one, in the order in which they began."""
    concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_COMPLETED)
    return [future for future in futures if future.done()]


class Report:
    """What a script says: lines for people or machines, a bar on a terminal, the exit code."""

    def __init__(self, args: argparse.Namespace):
        self._json = args.json
        self._verbose = bool(args.verbosity) and args.verbosity <= logging.INFO
        self._quiet = bool(args.verbosity) and args.verbosity >= logging.CRITICAL
        self._counts: collections.Counter[str] = collections.Counter()
        self._refused = 0
        self._lock = threading.Lock()
        on_terminal = sys.stdout.isatty() and not args.json and not self._quiet
        self._bar = _make_bar() if on_terminal and tqdm else None

    def expect(self, size: int) -> None:
        """Count on so many more bytes to come (or less, where it is negative)."""
        with self._lock:
            if self._bar is not None:
                self._bar.total += size
                self._bar.refresh()

    def advance(self, size: int) -> None:
        """Count so many bytes as done (or as to be done again, where it is negative)."""
        with self._lock:
            if self._bar is not None:
                self._bar.update(size)

    def done(self, action: str, name: str, **details: Any) -> None:
        """Tell that something was done to a file."""
        self._counts[action] += 1
        if self._json:
            self._print({"action": action, "name": name, **details})
        elif self._verbose or (self._bar is None and not self._quiet and action != "unchanged"):
            self._print(f"{action.capitalize()} {name}")

    def left_out(self, names: list[str], message: str) -> None:
        """Tell in one line which files were left out, and why."""
        if self._json:
            line = {"action": "left out", "name": None, "names": names, "message": message}
            self._print(line)
        elif not self._quiet:
            self._print(message)

    def warn(self, name: str, message: str) -> None:
        """Tell what the user may not expect."""
        self._tell("warning", name, message)

    def failed(self, name: str | None, failure: Exception) -> None:
        """Tell that a file has failed, or everything where there is no name."""
        self._counts["failed"] += 1
        self._refused += isinstance(failure, NotAllowed)
        self._tell("failed", name, str(failure))

    def interrupted(self) -> None:
        """Tell that the user interrupted the script."""
        self._tell("interrupted", None, "interrupted")
        self.end()

    def end(self) -> None:
        """Take the bar away, and sum up."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._json:
            self._print({"action": "summary", **self._counts})
        elif not self._quiet:
            counts = (f"{number} {action}" for action, number in self._counts.items())
            self._print(", ".join(counts) or "Nothing to do")
        sys.stdout.flush()

    @property
    def exit_code(self) -> int:
        """0; 1 where something failed; 3 where all that failed was not allowed."""
        if self._counts["failed"] == 0:
            return 0
        return EXIT_NOT_ALLOWED if self._refused == self._counts["failed"] else EXIT_FAILED

    def _tell(self, action, name, message):
        if self._json:
            self._print({"action": action, "name": name, "message": message})
        else:
            self._print(f"{name}: {message}" if name else message, file=sys.stderr)

    def _print(self, what, file=None):
        file = file or sys.stdout
        line = printable(what) if isinstance(what, str) else json.dumps(what)
        line = _in_charset_of(line, file)
        if self._bar is not None:
            self._bar.write(line, file=file)
        else:
            # In one piece: an interruption may come between two.
            print(f"{line}\n", end="", file=file, flush=True)


def _in_charset_of(line, stream):
    encoding = stream.encoding or "ascii"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _make_bar():
    return tqdm.tqdm(total=0, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stdout)
