"""Files in a bucket of Amazon S3, or of another store that speaks its protocol."""

import base64
import contextlib
import copy
import hashlib
import logging
import mimetypes
import os
import shutil
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from functools import partial
from multiprocessing.util import Finalize
from typing import Any, BinaryIO

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError
from pyramid_storage.exceptions import FileNotAllowed
from pyramid_storage.s3 import S3FileStorage

from kinto_attachment.background import in_background
from kinto_attachment.settings.s3 import aws_values
from kinto_attachment.storage.contract import StorageError, StoredFile
from kinto_attachment.storage.names import REMOTE_NUMBERED_IN_ORDER, candidate_keys, make_key
from kinto_attachment.storage.s3.transport import Body, Transport


logger = logging.getLogger(__name__)

STAGING_FOLDER = ".staging/"
"""Where a large file is complete before it is copied to a name that was free."""

PARTS_IN_FLIGHT = 2
MAX_PARTS = 10_000
MAX_DELETED_AT_ONCE = 1000
"""Limits of S3 ("Amazon S3 multipart upload limits", "DeleteObjects")."""

MAX_COPIED_AT_ONCE_BYTES = 5 * 1024**3
"""The limit of CopyObject. Not every store has UploadPartCopy, which copies what is larger."""

MIN_COPIED_PART_BYTES = 64 * 1024**2

MAX_CONNECTIONS = 256
"""More than a worker has threads, of which only the WSGI server knows the number. What is not used
costs nothing: a pool makes its connections when they are asked for."""

SHARE_OF_TIMEOUT = 0.9
"""What a try gets of the timeout. The pause before the next try fits into the rest."""

TRANSIENT_STATUSES = (429, 500, 502, 503, 504)


class S3Error(StorageError):
    """S3 did not do what it was asked to.

    :ivar code: S3's own word for the error, or ``""`` where it did not answer.
    :ivar status: the HTTP status, or 0 where it did not answer.
    """

    def __init__(self, bucket_name: str, error: Exception):
        is_known = isinstance(error, (ClientError, BotoCoreError))
        what = error if is_known else f"{type(error).__name__}: {error}"
        super().__init__(f"S3 bucket {bucket_name}: {what}")
        response = error.response if isinstance(error, ClientError) else {}
        self.code = response.get("Error", {}).get("Code", "")
        self.status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)

    @property
    def name_is_taken(self) -> bool:
        """Whether it is about ``If-None-Match: *``."""
        return self.status == 412 or self.code == "ConditionalRequestConflict"

    @property
    def is_about_operation(self) -> bool:
        """Whether the store may not know the operation, or its parameters."""
        return self.status in (400, 404, 405, 501) and self.code != "NoSuchBucket"


class OddAnswer(StorageError):
    """S3 answered, and something is missing in what it said."""


class Connection:
    """What the threads of a worker share: one client per process, and its multipart uploads."""

    def __init__(self, options: Mapping[str, Any]):
        self._options = options
        self._tries = 1 + options["num_retries"]
        self._lock = threading.Lock()
        self._client: Any = None
        self._process_id: int | None = None
        self._unfinished: set[MultipartUpload] = set()

    @property
    def client(self) -> Any:
        """The boto3 client, made at first use and anew after a fork."""
        with self._lock:
            if self._process_id != os.getpid():
                self._client = self._make_client(self._addressing_style)
                self._process_id = os.getpid()
                self._unfinished = set()
                # Unlike atexit, this is also run in the worker processes of granian.
                Finalize(None, self._abort_unfinished, exitpriority=1)
            return self._client

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
        """Whether MD5 is the checksum of what is sent, as every store knows it."""
        return self._checksums == "when_required"

    @property
    def max_silent_seconds(self) -> float:
        """The seconds after which a call with all its tries is over, if S3 does not say a word."""
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

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Return what S3 answers.

        It is asked again where that may help.

        :raises S3Error: it refuses, does not answer, or answers what cannot be understood.
        """
        for remaining in reversed(range(self._tries)):
            try:
                if "Body" in parameters:
                    parameters["Body"].seek(0)
                return getattr(self.client, operation)(**parameters)
            except Exception as error:
                # Of an answer that is no XML, or another, botocore raises what its parsers do.
                failure = S3Error(parameters["Bucket"], error)
                if not remaining or not _is_transient(error, failure):
                    raise failure from error
            time.sleep(self._options["timeout"] * (1 - SHARE_OF_TIMEOUT) / 2)
        raise AssertionError("the last try returns or raises")

    def begun(self, upload: "MultipartUpload") -> None:
        """Remember an upload, to be aborted should the worker be stopped."""
        self._unfinished.add(upload)

    def ended(self, upload: "MultipartUpload") -> None:
        """Forget an upload that is completed or aborted."""
        self._unfinished.discard(upload)

    def _abort_unfinished(self):
        uploads = list(self._unfinished)
        for upload in uploads:
            upload.abandon()
        deadline = time.monotonic() + self.max_silent_seconds
        for upload in uploads:
            if time.monotonic() > deadline:
                logger.warning("Multipart uploads stay, since S3 is too slow for aborting them")
                return
            upload.abort()

    @property
    def _checksums(self):
        # Several stores that speak the protocol refuse the checksums that Amazon's clients add.
        default = "when_required" if self.endpoint_url else "when_supported"
        return self._options["checksums"] or default

    @property
    def _addressing_style(self):
        return "path" if self._options["use_path_style"] else "auto"

    def _make_client(self, addressing_style, **more):
        timeout = self._options["timeout"] * SHARE_OF_TIMEOUT
        config = Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            # The tries are those of `call`: botocore pauses for seconds between its own.
            retries={"total_max_attempts": 1},
            max_pool_connections=MAX_CONNECTIONS,
            request_checksum_calculation=self._checksums,
            response_checksum_validation=self._checksums,
            s3={"addressing_style": addressing_style},
            **more,
        )
        # A session of its own, since the default one is not thread-safe.
        core = botocore.session.Session()
        core.register("before-send.s3", Transport(timeout, MAX_CONNECTIONS, core).send)
        return boto3.session.Session(botocore_session=core).client(
            "s3",
            region_name=self._options["region"],
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self._options["aws_access_key_id"],
            aws_secret_access_key=self._options["aws_secret_access_key"],
            config=config,
        )


class S3Storage(S3FileStorage):
    """A bucket.

    A small file stays in memory until it is published, by one request. A larger one is sent part
    by part while it comes, as a multipart upload, which nobody sees until it is completed.
    """

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], prefix: str) -> "S3Storage":
        """Return the storage of these settings, which have the names of pyramid_storage's.

        :param settings: text or typed values.
        :raises ConfigurationError: one is wrong.
        """
        values = aws_values(settings, prefix)
        options = {name.removeprefix("aws."): value for name, value in values.items()}
        options["aws_access_key_id"] = options.pop("access_key")
        options["aws_secret_access_key"] = options.pop("secret_key")
        return cls(extensions=settings.get(f"{prefix}extensions", "default"), **options)

    def __init__(
        self,
        bucket_name: str,
        acl: str | None,
        base_url: str,
        extensions: str,
        part_size_bytes: int,
        cache_control: str | None,
        content_disposition: str | None,
        **connection_options: Any,
    ):
        super().__init__(bucket_name, acl, base_url, extensions, **connection_options)
        self._connection = Connection(connection_options)
        self._part_size = part_size_bytes
        self._object_parameters = _set_only(
            ACL=acl, CacheControl=cache_control, ContentDisposition=content_disposition
        )
        self._knows_if_none_match = True
        self._lists_uploads = True
        self.base_url = base_url or self._connection.public_url(bucket_name)

    def __str__(self) -> str:
        return f"S3 bucket {self.bucket_name}"

    def __dir__(self) -> list[str]:
        # Kinto's metrics evaluate every attribute when the server starts: too early for a client.
        return [name for name in super().__dir__() if name != "s3_client"]

    @property
    def s3_client(self) -> Any:
        """The boto3 client of this process."""
        return self._connection.client

    @property
    def part_size(self) -> int:
        """How many bytes of a file stay in memory, or go into one part."""
        return self._part_size

    def url(self, filename: str) -> str:
        """Return the location of a stored file: the base URL and its name."""
        return self.base_url + urllib.parse.quote(filename)

    def stage(self, name: str, mimetype: str, unique: bool = False) -> "S3StagedFile":
        """Return a new staged file. Nothing is sent yet."""
        parameters = {**self._object_parameters, "ContentType": mimetype}
        return S3StagedFile(self, name, parameters, unique)

    def replace(self, name: str, mimetype: str) -> "S3StagedFile":
        """Return a new staged file that takes this very name when it is published."""
        parameters = {**self._object_parameters, "ContentType": mimetype}
        return S3StagedFile(self, name, parameters, unique=True, replaces=True)

    def open(self, name: str) -> BinaryIO:
        """Return a stored file, opened for reading.

        :raises FileNotFoundError: there is none.
        """
        try:
            return self.field(self.call("get_object", Key=name), "Body")
        except S3Error as error:
            if error.code == "NoSuchKey":
                raise FileNotFoundError(name) from error
            raise

    def exists(self, filename: str, bucket_name: str | None = None) -> bool:
        """Return whether there is a stored file of this name.

        :raises StorageError: nobody knows, as where reading is not allowed.
        """
        try:
            self._of_bucket(bucket_name).call("head_object", Key=filename)
        except S3Error as error:
            if error.status == 404:
                return False
            raise
        return True

    def delete(self, filename: str, bucket_name: str | None = None) -> bool:
        """Delete a stored file and return whether there was one."""
        existed = self.exists(filename, bucket_name)
        self._of_bucket(bucket_name).call("delete_object", Key=filename)
        return existed

    def delete_many(self, names: Iterable[str]) -> dict[str, StorageError]:
        """Delete stored files, and return those that could not be deleted."""
        names = list(names)
        failed = {}
        for start in range(0, len(names), MAX_DELETED_AT_ONCE):
            failed |= self._delete_batch(names[start : start + MAX_DELETED_AT_ONCE])
        return failed

    def files(self) -> Iterator[StoredFile]:
        """Return all stored files.

        :raises StorageError: the bucket cannot be listed.
        """
        for stored in self._objects():
            if not stored.key.startswith(STAGING_FOLDER):
                yield stored

    def incomplete_uploads(self) -> Iterator[StoredFile]:
        """Return what is staged: multipart uploads (of which no size is told), and whole files.

        :raises StorageError: they cannot be listed.
        """
        yield from self._objects(Prefix=STAGING_FOLDER)
        if not self._lists_uploads:
            return
        try:
            yield from self._uploads()
        except S3Error as error:
            if not error.is_about_operation:
                raise
            self._lists_uploads = False
            logger.warning("Multipart uploads are left out, since they cannot be listed: %s", error)

    def _objects(self, **parameters):
        markers = {"ContinuationToken": "NextContinuationToken"}
        for page in self._pages("list_objects_v2", markers, parameters):
            for stored in page.get("Contents", ()):
                name, size = self.field(stored, "Key"), self.field(stored, "Size")
                modified = self.field(stored, "LastModified").timestamp()
                # For a multipart upload, Amazon tells when it began ("Working with object
                # metadata", System-defined object metadata).
                is_dated = "-" not in stored.get("ETag", "-")
                yield StoredFile(name, size, modified, is_dated)

    def _uploads(self):
        markers = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        for page in self._pages("list_multipart_uploads", markers, {}):
            for upload in page.get("Uploads", ()):
                begun = self.field(upload, "Initiated").timestamp()
                yield StoredFile(self.field(upload, "Key"), None, begun)

    def _pages(self, operation, markers, parameters):
        """Return the pages of a list.

        :param markers: ``{parameter: field}``, the parameters that ask for the next page, and what
            they are in the previous one.
        """
        following: dict[str, str] = {}
        while True:
            page = self.call(operation, **parameters, **following)
            yield page
            if not page.get("IsTruncated"):
                return
            previous = following
            following = {name: self.field(page, field) for name, field in markers.items()}
            if following == previous:
                raise OddAnswer(f"{self}: {operation} returns the same page again and again")

    def save_file(
        self,
        file: BinaryIO,
        filename: str,
        folder: str | None = None,
        bucket_name: str | None = None,
        randomize: bool = False,
        extensions: Iterable[str] | None = None,
        acl: str | None = None,
        replace: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Store a file, and return the name that it got.

        :param extensions: ``()`` allows any, as on pyramid_storage's local files.
        :param replace: overwrite what has the name.
        :param headers: Content-Type, Cache-Control, Content-Disposition.
        :raises FileNotAllowed: the extension is not an allowed one.
        """
        if extensions != () and not self.filename_allowed(filename, extensions):
            raise FileNotAllowed()
        name = make_key(os.path.basename(filename), folder or "", randomize)
        parameters = self._object_parameters | _parameters_of(filename, headers or {})
        if acl:
            parameters["ACL"] = acl
        storage = self._of_bucket(bucket_name)
        staged = S3StagedFile(storage, name, parameters, randomize or replace, replace)
        try:
            file.seek(0)
            shutil.copyfileobj(file, staged)
            return staged.publish()
        finally:
            staged.discard()

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Return what S3 answers on an operation on the bucket.

        :raises S3Error: it refuses, does not answer, or answers what cannot be understood.
        """
        return self._connection.call(operation, Bucket=self.bucket_name, **parameters)

    def field(self, answer: Mapping[str, Any], *path: str) -> Any:
        """Return a field of an answer, or of one that is inside of another.

        :raises OddAnswer: it is missing, as where a store does not know the operation.
        """
        value: Any = answer
        for name in path:
            if not isinstance(value, Mapping) or name not in value:
                raise OddAnswer(f"{self}: an answer has no {'.'.join(path)}")
            value = value[name]
        return value

    def call_if_free(self, operation: str, **parameters: Any) -> bool:
        """Return whether an object was made, which it is where the name is free.

        A store that does not know ``If-None-Match`` overwrites: look whether the name is free
        before.
        """
        condition = {"IfNoneMatch": "*"} if self._knows_if_none_match else {}
        try:
            self.call(operation, **condition, **parameters)
        except S3Error as error:
            if condition and (error.status == 501 or error.code == "NotImplemented"):
                self._knows_if_none_match = False
                return self.call_if_free(operation, **parameters)
            if condition and error.name_is_taken:
                return False
            raise
        return True

    def begin_upload(self, key: str, parameters: Mapping[str, str]) -> "MultipartUpload":
        """Return a new multipart upload.

        :raises S3Error: it cannot begin.
        """
        return MultipartUpload(self, self._connection, key, parameters)

    def checksum(self, body: bytes | bytearray) -> dict[str, str]:
        """Return the parameters that have S3 verify what it got (botocore may do that itself)."""
        if not self._connection.sends_md5:
            return {}
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        return {"ContentMD5": base64.b64encode(digest).decode()}

    def _of_bucket(self, bucket_name):
        if bucket_name in (None, self.bucket_name):
            return self
        other = copy.copy(self)
        other.bucket_name = bucket_name
        return other

    def _delete_batch(self, names):
        if len(names) == 1:
            return self._delete_one_by_one(names)
        keys = {"Objects": [{"Key": name} for name in names], "Quiet": True}
        try:
            return self._undeleted(self.call("delete_objects", Delete=keys))
        except OddAnswer as error:
            return dict.fromkeys(names, error)
        except S3Error as error:
            if error.is_about_operation:
                # As where the store wants another checksum with it.
                return self._delete_one_by_one(names)
            return dict.fromkeys(names, error)

    def _undeleted(self, answer):
        return {
            self.field(failure, "Key"): StorageError(
                f"{self}: {failure.get('Code')}: {failure.get('Message')}"
            )
            for failure in answer.get("Errors", ())
        }

    def _delete_one_by_one(self, names):
        failed: dict[str, StorageError] = {}
        for index, name in enumerate(names):
            try:
                self.call("delete_object", Key=name)
            except S3Error as error:
                if not error.status:
                    # It does not answer: each of the others would be waited for as long.
                    return failed | dict.fromkeys(names[index:], error)
                failed[name] = error
        return failed


class MultipartUpload:
    """An object that is sent part by part, and that nobody sees until it is completed."""

    def __init__(
        self,
        storage: S3Storage,
        connection: Connection,
        key: str,
        parameters: Mapping[str, str],
    ):
        self._storage = storage
        self._connection = connection
        self._parts: list[Future] = []
        self._failed = False
        self._abandoned = threading.Event()
        answer = storage.call("create_multipart_upload", Key=key, **parameters)
        self._target = {"Key": key, "UploadId": storage.field(answer, "UploadId")}
        connection.begun(self)

    def send(self, body: bytes | bytearray) -> None:
        """Send the next part, while the caller goes on. It waits where two are on their way.

        :raises StorageError: a part could not be sent.
        """
        # Handed over, so that its memory is free before somebody who waits for the part goes on.
        bodies = [body]
        self._add(lambda number: self._send(number, bodies.pop()))

    def wait_for_turn(self) -> None:
        """Wait until fewer than two parts are on their way.

        :raises StorageError: a part could not be sent.
        """
        if len(self._parts) >= PARTS_IN_FLIGHT:
            self._etag(self._parts[-PARTS_IN_FLIGHT])

    def copy(self, source: str, first: int, last: int) -> None:
        """Have S3 copy the next part from another object, bytes ``first`` to ``last``.

        :raises StorageError: a part could not be copied.
        """
        self._add(lambda number: self._copy(number, source, first, last))

    def complete(self) -> None:
        """Make the object, over what may have its name.

        :raises StorageError: that cannot be done, or a part could not be sent.
        """
        parts = [
            {"PartNumber": number, "ETag": self._etag(part)}
            for number, part in enumerate(self._parts, start=1)
        ]
        with self._failures_noticed():
            self._storage.call(
                "complete_multipart_upload", MultipartUpload={"Parts": parts}, **self._target
            )
        self._connection.ended(self)

    def abandon(self) -> None:
        """Send nothing more of the parts that are on their way."""
        self._abandoned.set()

    def abort(self) -> None:
        """Forget all parts. Where that fails, the lifecycle rule of the bucket clears them."""
        self.abandon()
        # A part that arrives after the abort would stay.
        wait(self._parts, timeout=self._connection.max_silent_seconds)
        try:
            self._storage.call("abort_multipart_upload", **self._target)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                logger.warning("The multipart upload %s stays: %s", self._target, error)
        self._connection.ended(self)

    def discard(self) -> None:
        """Abort; where S3 has failed before, without waiting for it."""
        if self._failed:
            in_background(self.abort)
        else:
            self.abort()

    def _add(self, transfer: Callable[[int], str]) -> None:
        number = len(self._parts) + 1
        if number > MAX_PARTS:
            raise StorageError(
                f"{self._storage} takes no more than {MAX_PARTS} parts of a file: "
                "kinto.attachment.aws.part_size_bytes is too small for it"
            )
        self.wait_for_turn()
        self._parts.append(in_background(partial(transfer, number)))

    def _send(self, number, body):
        checksum = self._storage.checksum(body)
        body = Body(body, self._abandoned)
        answer = self._storage.call(
            "upload_part", PartNumber=number, Body=body, **self._target, **checksum
        )
        return self._storage.field(answer, "ETag")

    def _copy(self, number, source, first, last):
        answer = self._storage.call(
            "upload_part_copy",
            PartNumber=number,
            CopySource={"Bucket": self._storage.bucket_name, "Key": source},
            CopySourceRange=f"bytes={first}-{last}",
            **self._target,
        )
        return self._storage.field(answer, "CopyPartResult", "ETag")

    def _etag(self, part):
        with self._failures_noticed():
            return part.result()

    @contextlib.contextmanager
    def _failures_noticed(self):
        try:
            yield
        except BaseException:
            self._failed = True
            raise


class S3StagedFile:
    """A file that is being written: in memory, and once it is too large for that, as an upload.

    :param unique: whether nobody else asks for the name, or it is to be taken in any case.
    :param replaces: whether something may have the name that must not be deleted.
    """

    def __init__(
        self,
        storage: S3Storage,
        name: str,
        parameters: Mapping[str, str],
        unique: bool,
        replaces: bool = False,
    ):
        self._storage = storage
        self._name = name
        self._parameters = parameters
        self._unique = unique
        self._replaces = replaces
        # The key of an upload is told when it begins: only a unique one is free when it ends.
        self._key = name if unique else f"{STAGING_FOLDER}{uuid.uuid4()}"
        self._size = 0
        self._buffer = bytearray()
        self._filled = 0
        self._upload: MultipartUpload | None = None

    def write(self, chunk: bytes) -> None:
        """Append these bytes.

        :raises StorageError: S3 does not take them.
        """
        self._size += len(chunk)
        remaining = memoryview(chunk)
        while remaining:
            if self._filled == self._storage.part_size:
                self._send_part()
            room = self._storage.part_size - self._filled
            self._fill(remaining[:room])
            remaining = remaining[room:]

    def publish(self) -> str:
        """Return the name under which the file is stored now.

        :raises StorageError: it cannot be stored.
        """
        del self._buffer[self._filled :]
        name = self._put() if self._upload is None else self._complete()
        self._buffer = bytearray()
        return name

    def discard(self) -> None:
        """Forget the file. Does nothing where it is published or discarded."""
        self._buffer = bytearray()
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.discard()

    def _fill(self, piece):
        end = self._filled + len(piece)
        if end > len(self._buffer):
            self._grow(end)
        self._buffer[self._filled : end] = piece
        self._filled = end

    def _grow(self, size):
        """Have room for so many bytes. (A bytearray that grows by itself takes an eighth more.)

        While two parts are on their way, for half of the next one: that is enough to have it ready
        soon after, and with what else is in memory then less than three parts in all.
        """
        part = self._storage.part_size
        if self._upload is None:
            size = min(max(size, 2 * len(self._buffer)), part)
        elif size <= part // 2:
            size = part // 2
        else:
            self._upload.wait_for_turn()
            size = part
        grown = bytearray(size)
        grown[: len(self._buffer)] = self._buffer
        self._buffer = grown

    def _send_part(self):
        if self._upload is None:
            self._upload = self._storage.begin_upload(self._key, self._upload_parameters())
        # What is sent stays as it is: the bytes that follow go into a new buffer.
        part, self._buffer, self._filled = self._buffer, bytearray(), 0
        self._upload.send(part)

    def _put(self):
        parameters = {
            "Body": Body(self._buffer),
            **self._parameters,
            **self._storage.checksum(self._buffer),
        }
        if self._unique:
            self._put_unique(parameters)
            return self._name
        return self._to_free_name(
            lambda name: self._storage.call_if_free("put_object", Key=name, **parameters)
        )

    def _put_unique(self, parameters):
        try:
            self._storage.call("put_object", Key=self._key, **parameters)
        except S3Error as error:
            if error.status not in range(400, 500):
                self._delete_doubtful()
            raise

    def _delete_doubtful(self):
        """Delete what S3 may have stored and only failed to say so."""
        if not self._replaces:
            in_background(lambda: self._storage.delete_many([self._key]))

    def _complete(self):
        self._send_part()
        try:
            self._upload.complete()
        except S3Error:
            # Whatever it says: to the next try it answers that there is no such upload.
            self._delete_doubtful()
            raise
        self._upload = None
        if self._unique:
            return self._name
        made = [self._key]
        try:
            name = self._reserve_name()
            made.append(name)
            self._copy(name)
        except BaseException:
            in_background(lambda: self._storage.delete_many(made))
            raise
        self._storage.delete_many([self._key])
        return name

    def _reserve_name(self):
        """Return a name that was free, and is now that of an empty object nobody knows of.

        (Completing an upload with ``If-None-Match`` would do, but is not atomic in every store.)
        """
        return self._to_free_name(
            lambda name: self._storage.call_if_free("put_object", Key=name, Body=Body(b""))
        )

    def _upload_parameters(self):
        if self._unique:
            return self._parameters
        return {name: value for name, value in self._parameters.items() if name != "ACL"}

    def _copy(self, name):
        """Copy the complete file from its key to a name that is reserved."""
        if self._size > MAX_COPIED_AT_ONCE_BYTES:
            self._copy_in_parts(name)
            return
        answer = self._storage.call(
            "copy_object",
            Key=name,
            CopySource={"Bucket": self._storage.bucket_name, "Key": self._key},
            MetadataDirective="REPLACE",
            **self._parameters,
        )
        # A store that does not know the operation may take it for the upload of an empty file.
        self._storage.field(answer, "CopyObjectResult", "ETag")

    def _copy_in_parts(self, name):
        part_size = max(MIN_COPIED_PART_BYTES, self._storage.part_size)
        upload = self._storage.begin_upload(name, self._parameters)
        try:
            for first in range(0, self._size, part_size):
                upload.copy(self._key, first, min(first + part_size, self._size) - 1)
            upload.complete()
        except BaseException:
            upload.discard()
            raise

    def _to_free_name(self, store):
        for name in candidate_keys(self._name, REMOTE_NUMBERED_IN_ORDER):
            # Asked first, for stores that do not know If-None-Match.
            if not self._storage.exists(name) and store(name):
                return name
        raise OddAnswer(f"{self._storage}: every name like {self._name} is taken")


def _is_transient(error, failure):
    if failure.status == 0:
        return isinstance(error, (HTTPClientError, ConnectionError))
    return failure.status in TRANSIENT_STATUSES or failure.code == "RequestTimeout"


def _parameters_of(filename, headers):
    mimetype = headers.get("Content-Type") or mimetypes.guess_type(filename)[0]
    return _set_only(
        ContentType=mimetype or "application/octet-stream",
        CacheControl=headers.get("Cache-Control"),
        ContentDisposition=headers.get("Content-Disposition"),
    )


def _set_only(**parameters):
    return {name: value for name, value in parameters.items() if value}
