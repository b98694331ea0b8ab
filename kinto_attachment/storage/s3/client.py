"""The client of S3: one for each process, with retries and the errors they end in."""

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.s3.presigned import presigned_url
from kinto_attachment.storage.s3.transport import Transport


MAX_CONNECTIONS = 256
"""More than a worker has threads, whose number only the WSGI server knows. Unused connections cost
nothing: a pool makes them on demand."""

SHARE_OF_TIMEOUT = 0.9
"""The share of the timeout for a try. The pause before the next try fits into the rest."""

TRANSIENT_STATUSES = (429, 500, 502, 503, 504)


class S3Error(StorageError):
    """S3 refused an operation, or did not answer.

    :ivar code: S3's own code of the error, or ``""`` without an answer.
    :ivar status: the HTTP status, or 0 without an answer.
    """

    def __init__(self, bucket_name: str, error: Exception):
        is_known = isinstance(error, (ClientError, BotoCoreError))
        what = error if is_known else f"{type(error).__name__}: {error}"
        super().__init__(f"S3 bucket {bucket_name}: {what}")
        response: Mapping[str, Any] = error.response if isinstance(error, ClientError) else {}
        self.code: str = response.get("Error", {}).get("Code", "")
        self.status: int = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        self._is_unreachable = isinstance(error, (HTTPClientError, ConnectionError))

    @property
    def is_transient(self) -> bool:
        """Whether a retry may succeed."""
        if self.status == 0:
            return self._is_unreachable
        return self.status in TRANSIENT_STATUSES or self.code == "RequestTimeout"

    @property
    def key_is_taken(self) -> bool:
        """Whether it is the answer to ``If-None-Match: *``."""
        return self.status == 412 or self.code == "ConditionalRequestConflict"

    @property
    def is_about_operation(self) -> bool:
        """Whether the store may not support the operation, or its parameters."""
        return self.status in (400, 404, 405, 501) and self.code != "NoSuchBucket"


class UnexpectedAnswer(StorageError):
    """An answer of S3 lacks a field, or contradicts another answer."""


class S3Client:
    """The boto3 client that the threads of a process share.

    :param options: the settings ``aws.…`` of the connection.
    """

    def __init__(self, options: Mapping[str, Any]):
        self._options = options
        self._tries: int = 1 + options["num_retries"]
        self._lock = threading.Lock()
        self._boto3_client: Any = None
        self._process_id: int | None = None
        self._credentials: Any = None

    @property
    def boto3_client(self) -> Any:
        """The client of this process: made at first use, and again after a fork."""
        with self._lock:
            if self._process_id != os.getpid():
                self._boto3_client = self._make_client(self._addressing_style)
                self._process_id = os.getpid()
            return self._boto3_client

    @property
    def endpoint_url(self) -> str | None:
        """The root of the store, or ``None`` for Amazon's own."""
        if self._options["endpoint_url"] or not self._options["host"]:
            return self._options["endpoint_url"]
        scheme = "https" if self._options["is_secure"] else "http"
        port = f":{self._options['port']}" if self._options["port"] else ""
        return f"{scheme}://{self._options['host']}{port}"

    @property
    def sends_md5(self) -> bool:
        """Whether bodies are sent with an MD5 checksum, which every store supports."""
        return self._checksums == "when_required"

    @property
    def max_silent_seconds(self) -> float:
        """How long a call with all its retries takes if S3 sends nothing."""
        return self._options["timeout"] * self._tries

    def public_url(self, bucket_name: str) -> str:
        """Return the base URL of the objects in a bucket, in the configured style."""
        style = self._addressing_style
        if style == "auto" and self.endpoint_url is None:
            # Otherwise botocore leaves the region out.
            style = "virtual"
        client = self._make_client(style, signature_version=botocore.UNSIGNED)
        params = {"Bucket": bucket_name, "Key": "-"}
        return client.generate_presigned_url("get_object", params).removesuffix("-")

    def presigned_url(
        self, bucket_name: str, url: str, since: int, expires: int, headers: dict[str, str]
    ) -> str:
        """Return a URL of an object that needs no credentials.

        :raises S3Error: there are no credentials to sign it with.
        """
        client = self.boto3_client
        region = client.meta.region_name
        region = "us-east-1" if region in (None, "aws-global") else region
        try:
            credentials = self._credentials and self._credentials.get_frozen_credentials()
            return presigned_url(url, credentials, region, since, expires, headers)
        except BotoCoreError as error:
            raise S3Error(bucket_name, error) from error

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer of S3 to an operation, which is retried if that may help.

        :raises S3Error: S3 refuses, does not answer, or sends an unreadable answer.
        """
        remaining = self._tries
        while True:
            remaining -= 1
            try:
                if "Body" in parameters:
                    parameters["Body"].seek(0)
                return getattr(self.boto3_client, operation)(**parameters)
            except Exception as error:
                # If the answer is not the expected XML, botocore raises any error of its parsers.
                failure = S3Error(parameters["Bucket"], error)
                if not remaining or not failure.is_transient:
                    raise failure from error
            time.sleep(self._options["timeout"] * (1 - SHARE_OF_TIMEOUT) / 2)

    @property
    def _checksums(self) -> Any:
        # Several compatible stores refuse the checksums that Amazon's clients add by default.
        default = "when_required" if self.endpoint_url else "when_supported"
        return self._options["checksums"] or default

    @property
    def _addressing_style(self) -> str:
        return "path" if self._options["use_path_style"] else "auto"

    def _make_client(self, addressing_style: Any, **more: Any) -> Any:
        timeout = self._options["timeout"] * SHARE_OF_TIMEOUT
        config = Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            # Retries are those of `call`: botocore pauses for seconds between its own.
            retries={"total_max_attempts": 1},
            max_pool_connections=MAX_CONNECTIONS,
            request_checksum_calculation=self._checksums,
            response_checksum_validation=self._checksums,
            s3={"addressing_style": addressing_style},
            **more,
        )
        # A session of its own, since the default one is not thread-safe.
        core = botocore.session.Session()
        transport = Transport(timeout, MAX_CONNECTIONS, core)
        # The stubs of botocore know no handlers that return a response.
        core.register("before-send.s3", transport.send)  # type: ignore[arg-type]
        session = boto3.session.Session(
            aws_access_key_id=self._options["access_key"],
            aws_secret_access_key=self._options["secret_key"],
            botocore_session=core,
        )
        if "signature_version" not in more:
            self._credentials = session.get_credentials()
        return session.client(
            "s3",
            region_name=self._options["region"],
            endpoint_url=self.endpoint_url,
            config=config,
        )
