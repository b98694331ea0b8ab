"""The operations of S3 on one bucket."""

import base64
import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.names import is_private
from kinto_attachment.storage.s3.client import S3Client, S3Error, UnexpectedAnswer


PRIVATE_ACL = "private"

MAX_DELETED_AT_ONCE = 1000
"""A limit of S3 ("DeleteObjects")."""


class Bucket:
    """A bucket, and what is known about the store it is in."""

    def __init__(self, name: str, client: S3Client):
        self.name = name
        self.client = client
        self._supports_if_none_match = True

    def __str__(self) -> str:
        return f"S3 bucket {self.name}"

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer of S3 to an operation on the bucket.

        :raises S3Error: S3 refuses, does not answer, or sends an unreadable answer.
        """
        return self.client.call(operation, Bucket=self.name, **parameters)

    def pages(
        self, operation: str, markers: Mapping[str, str], **parameters: Any
    ) -> Iterator[dict[str, Any]]:
        """Return the pages of a list.

        :param markers: ``{parameter: field}``: the parameters that ask for the next page, and the
            fields of a page with their values.
        :raises StorageError: a page cannot be read.
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
                raise UnexpectedAnswer(f"{self}: {operation} repeats the same page")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Raise an error of reading a body in the context as an :class:`S3Error`."""
        try:
            yield
        except Exception as error:
            raise S3Error(self.name, error) from error

    def exists(self, key: str) -> bool:
        """Return whether there is an object of this key.

        :raises S3Error: S3 does not answer that, for example because reading is not allowed.
        """
        try:
            self.call("head_object", Key=key)
        except S3Error as error:
            if error.status == 404:
                return False
            raise
        return True

    def put_if_absent(self, **parameters: Any) -> bool:
        """Return whether an object was made, which it is if no other has the key.

        A store without ``If-None-Match`` overwrites the other: check that the key is free first.

        :raises S3Error: S3 refuses for another reason, or does not answer.
        """
        condition = {"IfNoneMatch": "*"} if self._supports_if_none_match else {}
        try:
            self.call("put_object", **condition, **parameters)
        except S3Error as error:
            if condition and (error.status == 501 or error.code == "NotImplemented"):
                self._supports_if_none_match = False
                return self.put_if_absent(**parameters)
            if condition and error.key_is_taken:
                return False
            raise
        return True

    def delete_many(self, keys: Iterable[str]) -> dict[str, StorageError]:
        """Delete objects, and return those that could not be deleted."""
        keys = list(keys)
        failed: dict[str, StorageError] = {}
        for start in range(0, len(keys), MAX_DELETED_AT_ONCE):
            failed |= self._delete_batch(keys[start : start + MAX_DELETED_AT_ONCE])
        return failed

    def checksum(self, body: bytes | bytearray) -> dict[str, str]:
        """Return the parameters with which S3 verifies a body, unless botocore sends its own."""
        if not self.client.sends_md5:
            return {}
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        return {"ContentMD5": base64.b64encode(digest).decode()}

    def field(self, answer: Mapping[str, Any], *path: str) -> Any:
        """Return a field of an answer, or of a field of it.

        :raises UnexpectedAnswer: it is missing, for example if the store ignores the operation.
        """
        value: Any = answer
        for name in path:
            if not isinstance(value, Mapping) or name not in value:
                raise UnexpectedAnswer(f"{self}: an answer has no {'.'.join(path)}")
            value = value[name]
        return value

    def _delete_batch(self, keys: list[str]) -> dict[str, StorageError]:
        if len(keys) == 1:
            return self._delete_one_by_one(keys)
        objects = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        try:
            answer = self.call("delete_objects", Delete=objects)
            return {
                self.field(failure, "Key"): StorageError(
                    f"{self}: {failure.get('Code')}: {failure.get('Message')}"
                )
                for failure in answer.get("Errors", ())
            }
        except S3Error as error:
            if error.is_about_operation:
                # For example, the store requires another checksum.
                return self._delete_one_by_one(keys)
            return dict.fromkeys(keys, error)
        except UnexpectedAnswer as error:
            return dict.fromkeys(keys, error)

    def _delete_one_by_one(self, keys: list[str]) -> dict[str, StorageError]:
        failed: dict[str, StorageError] = {}
        for index, key in enumerate(keys):
            try:
                self.call("delete_object", Key=key)
            except S3Error as error:
                if not error.status:
                    # S3 does not answer: each of the others would wait for the same timeout.
                    return failed | dict.fromkeys(keys[index:], error)
                failed[key] = error
        return failed


def parameters_of(key: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of an object, with the ACL of a private file if it is one.

    Without any ACL, none is sent: the bucket does not know them, and a policy decides.
    """
    is_open = is_private(key) and "ACL" in parameters
    return {**parameters, "ACL": PRIVATE_ACL} if is_open else dict(parameters)
