"""A bucket of Google Cloud Storage: its client, its limits in time, its errors."""

import base64
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, cast

import google.auth
from google.api_core.exceptions import Conflict, from_http_response
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud.storage import Blob, Client
from google.cloud.storage.retry import DEFAULT_RETRY
from google.oauth2.service_account import Credentials
from pyramid.exceptions import ConfigurationError

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.gcs.transport import BlockAdapter
from kinto_attachment.storage.names import is_private


PRIVATE_ACL = "private"
MEDIA_TYPE = "application/octet-stream"

SILENT_SHARE = 2 / 3
"""The share of the timeout for each request. After the rest of it, none is retried."""


# Otherwise the library reads the bucket in the background, for traces, and without our timeout.
os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")


class GCSError(StorageError):
    """GCS refused a request, did not answer, or there are no credentials for it.

    :ivar status: the HTTP status, or 0 without an answer.
    """

    def __init__(self, bucket: "Bucket", error: Exception):
        super().__init__(f"{bucket}: {type(error).__name__}: {error}")
        # That of the last try, if it was retried.
        self.status: int = getattr(getattr(error, "cause", error), "code", None) or 0


class Bucket:
    """A bucket, with the settings ``gcloud.…``.

    :ivar retry: how failures that may pass are retried.
    :raises ConfigurationError: the credentials are not those of a service account.
    """

    def __init__(self, options: Mapping[str, Any]):
        self._options = {name.removeprefix("gcloud."): value for name, value in options.items()}
        self.name: str = self._options["bucket_name"]
        self._acl: str | None = self._options["acl"]
        timeout: float = self._options["timeout"]
        self.max_silent_seconds = timeout * SILENT_SHARE
        self.retry = DEFAULT_RETRY.with_delay(0.2, 2).with_timeout(timeout * (1 - SILENT_SHARE))
        self._credentials = self._read_credentials()
        self._lock = threading.Lock()
        self._process_id: int | None = None
        self._connection: Any = None

    def __str__(self) -> str:
        return f"GCS bucket {self.name}"

    @property
    def client(self) -> Client:
        """The client of this process."""
        return self._connect()[0]

    @property
    def session(self) -> AuthorizedSession:
        """The HTTP connections of this process, with credentials."""
        return self._connect()[1]

    def blob(self, key: str, mimetype: str | None = None) -> Blob:
        """Return an object, which may not exist, with the headers to store it with."""
        blob = self.client.bucket(self.name).blob(key)
        if mimetype:
            blob.content_type = mimetype
            blob.cache_control = self._options["cache_control"]
            blob.content_disposition = self._options["content_disposition"]
        return blob

    def find(self, key: str) -> Blob | None:
        """Return the object of a key, if there is one.

        :raises GCSError: GCS does not answer that.
        """
        blob = self.blob(key)
        return blob if self.call_if_found(blob.reload) else None

    def open(self, key: str, chunk_size: int) -> BinaryIO:
        """Return an object, opened for reading.

        :param chunk_size: how many bytes are in memory.
        :raises FileNotFoundError: there is none.
        """
        blob = self.find(key)
        if blob is None:
            raise FileNotFoundError(key)
        # As it is stored, also if earlier plugins gave it a Content-Encoding.
        parameters = {"raw_download": True, "if_generation_match": blob.generation}
        return self.call(blob.open, "rb", chunk_size=chunk_size, **parameters)

    def put(self, key: str, content: bytearray, crc32c: int) -> None:
        """Make an object, of which no other request knows the key, without metadata.

        ("Single-request uploads". The library's own function copies the content.)

        :raises StorageError: GCS does not take it, or has another checksum of it.
        """
        with self.errors():
            stored = self.retry(self._post_media)(key, content, encoded_crc32c(crc32c))
            if stored.get("crc32c") != encoded_crc32c(crc32c):
                raise StorageError(f"{self} has received a piece with another CRC32C")

    def acl_of(self, key: str) -> str | None:
        """Return the predefined ACL of an object, if one is sent: private files have their own."""
        return PRIVATE_ACL if self._acl and is_private(key) else self._acl

    def save_acl(self, blob: Blob) -> None:
        """Give an object the ACL, if there is one, that no request to compose or copy it can."""
        if acl := self.acl_of(blob.name):
            blob.acl.loaded = True  # Otherwise it is loaded, without our timeout.
            self.call(blob.acl.save_predefined, acl)

    def call_if_found(self, method: Callable[..., Any]) -> bool:
        """Call a method of an object, and return whether the object exists.

        :raises GCSError: GCS refuses, or does not answer.
        """
        try:
            self.call(method)
        except GCSError as error:
            # Nothing is known about the objects of a bucket that is missing.
            if error.status != 404 or "bucket does not exist" in str(error):
                raise
            return False
        return True

    def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what a method of the library returns.

        :raises GCSError: GCS refuses, or does not answer.
        """
        with self.errors():
            return method(*args, timeout=self.max_silent_seconds, retry=self.retry, **kwargs)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the errors of the library, of requests and of urllib3 into ours."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            raise GCSError(self, error) from error

    def _post_media(self, key: str, content: bytearray, crc32c: str) -> dict[str, Any]:
        """Return what GCS knows about the object that it has made."""
        response = self.session.request(
            "POST",
            f"{self.client.api_endpoint}/upload/storage/v1/b/{self.name}/o",
            params={"uploadType": "media", "name": key},
            # An empty bytearray would be sent without a length.
            data=content or b"",
            headers={"Content-Type": MEDIA_TYPE, "X-Goog-Hash": f"crc32c={crc32c}"},
            timeout=self.max_silent_seconds,
        )
        if not response.ok:
            raise from_http_response(response)
        return cast(dict[str, Any], response.json())

    def _connect(self) -> tuple[Client, AuthorizedSession]:
        """Return what this process has made at its first use, or makes after a fork.

        :raises GCSError: there are no credentials, or the bucket cannot be created.
        """
        with self._lock, self.errors():
            if self._process_id != os.getpid():
                self._connection = self._make_connection()
                self._process_id = os.getpid()
            return self._connection

    def _read_credentials(self) -> Any:
        path = self._options["credentials"]
        if not path:
            return AnonymousCredentials() if self._options["endpoint_url"] else None
        try:
            return Credentials.from_service_account_file(path, scopes=Client.SCOPE)
        except (OSError, ValueError) as error:
            setting = f"kinto.attachment.gcloud.credentials = {path}"
            raise ConfigurationError(f"{setting}: {error}") from error

    def _make_connection(self) -> tuple[Client, AuthorizedSession]:
        credentials, project = self._credentials, None
        if credentials is None:
            credentials, project = google.auth.default(scopes=Client.SCOPE)
        project = self._options["project"] or project or getattr(credentials, "project_id", None)
        # With a request of its own for tokens: that of the session retries connections three times.
        session = AuthorizedSession(credentials, auth_request=Request())
        for scheme in ("https://", "http://"):
            session.mount(scheme, BlockAdapter())
        options = {"api_endpoint": self._options["endpoint_url"]}
        client = Client(project, credentials, _http=session, client_options=options)
        if self._options["auto_create_bucket"]:
            self._create_if_missing(client)
        return client, session

    def _create_if_missing(self, client: Client) -> None:
        limits: dict[str, Any] = {"timeout": self.max_silent_seconds, "retry": self.retry}
        if client.lookup_bucket(self.name, **limits) is None:
            bucket = client.bucket(self.name)
            uniform = self._options["uniform_bucket_level_access"]
            bucket.iam_configuration.uniform_bucket_level_access_enabled = uniform
            with contextlib.suppress(Conflict):  # Another worker has created it.
                acl = self._options["auto_create_acl"]
                client.create_bucket(bucket, predefined_acl=acl, **limits)


def encoded_crc32c(crc32c: int) -> str:
    """Return a CRC32C as GCS writes it."""
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode()
