"""Files of a bucket that come in pieces."""

import contextlib
import logging
from collections.abc import Mapping
from concurrent.futures import Future, wait
from typing import Any, BinaryIO

from kinto_attachment.background import in_background
from kinto_attachment.storage.contract import PartialFile, StorageError, Superseded
from kinto_attachment.storage.names import REMOTE_NUMBERED_IN_ORDER, candidate_keys
from kinto_attachment.storage.resumable_hash import ResumableHash
from kinto_attachment.storage.s3.bucket import Bucket, parameters_of
from kinto_attachment.storage.s3.client import S3Error
from kinto_attachment.storage.s3.multipart import MAX_PARTS
from kinto_attachment.storage.s3.staged import STAGING_FOLDER, copy_object
from kinto_attachment.storage.s3.transport import Body


logger = logging.getLogger(__name__)

MARK = "upload"
"""The metadata of an object that tells which upload has made it."""

BLOCK_BYTES = 256 * 1024
"""What is read at once."""

State = dict[str, Any]


class S3PartialFile(PartialFile):
    """A multipart upload, and an object for what is less than a part.

    Its state has the ETags, so that S3 need not list parts. What a request sends after another one
    has taken over is in no state that is saved, so it does not count.

    :param state: ``target`` (the key, if no other file can have it), ``mimetype``, ``part_size``,
        ``upload_id``, ``etags``, ``tail`` (its key and its size), ``old_tails``, ``hash``.
    :param parameters: of the object: its headers and its ACL.
    :raises Superseded: it has another size.
    """

    def __init__(
        self,
        bucket: Bucket,
        name: str,
        state: State,
        generation: int,
        size: int | None,
        parameters: Mapping[str, str],
    ):
        self.state = state
        self.size = size_of(state)
        if size not in (None, self.size):
            raise Superseded(name)
        self._bucket = bucket
        self._name = name
        self._tail_key = tail_key(name, generation)
        self._upload_key = state["target"] or STAGING_FOLDER + name
        self._parameters = {**parameters, "ContentType": state["mimetype"]}
        self._hash = ResumableHash(state["hash"], self.size)
        self._buffer: bytearray | None = None
        self._sending: Future[tuple[str, str | None]] | None = None
        self._is_whole = False
        # No state that is saved refers to these, unlike to those that this request replaces.
        self._unreferenced = state["old_tails"]

    def write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            if len(self._loaded()) == self.state["part_size"]:
                self._send_part()
            piece = left[: self.state["part_size"] - len(self._loaded())]
            self._loaded().extend(piece)
            self._hash.update(bytes(piece))
            self.size += len(piece)
            left = left[len(piece) :]

    def flush(self) -> None:
        self._wait()
        if self.size == size_of(self.state):
            return
        self._bucket.delete_many(self._unreferenced)
        self._bucket.call("put_object", Key=self._tail_key, **self._body(self._loaded()))
        old = {*self.state["old_tails"], *(self.state["tail"] or ())[:1]}
        self.state = {
            **self.state,
            "tail": [self._tail_key, len(self._loaded())],
            "old_tails": sorted(old.difference(self._unreferenced, [self._tail_key])),
            "hash": self._hash.state,
        }

    def rewind(self, size: int, state: State | None) -> None:
        """Delete what the state does not refer to, but parts, which others replace."""
        self._settle()
        kept = state or new_state(None, "", 0)
        if self.state["upload_id"] != kept["upload_id"]:
            abort(self._bucket, self._upload_key, self.state["upload_id"])
        if self._tail_key not in (kept["tail"] or ()):
            self._bucket.delete_many([self._tail_key])

    def open(self) -> BinaryIO:
        self._finish()
        return self._bucket.field(self._bucket.call("get_object", Key=self._upload_key), "Body")

    def sha256(self) -> str | None:
        return self._hash.hexdigest()

    def free_key(self, key: str) -> str:
        if self.state["target"]:
            return self.state["target"]
        keys = candidate_keys(key, REMOTE_NUMBERED_IN_ORDER)
        return next(one for one in keys if not self._bucket.exists(one))

    def publish(self, key: str) -> bool:
        self._finish()
        if key == self._upload_key:
            return True
        # An empty object reserves the key.
        mark = {MARK: self._name}
        found = self._head(key)
        if found is None:
            if not self._bucket.put_if_absent(Key=key, Body=Body(b""), Metadata=mark):
                return False
        elif found.get("Metadata") != mark:
            return False
        parameters = {**parameters_of(key, self._parameters), "Metadata": mark}
        part_size = self.state["part_size"]
        copy_object(self._bucket, self._upload_key, key, self.size, parameters, part_size)
        return True

    def close(self) -> None:
        self._buffer = None
        self._settle()

    def _loaded(self) -> bytearray:
        """Return the bytes after the last part."""
        if self._buffer is None:
            self._buffer = bytearray()
            if tail := self.state["tail"]:
                body = self._bucket.field(self._bucket.call("get_object", Key=tail[0]), "Body")
                with contextlib.closing(body):
                    # There may be more, of a request that was killed before it saved how many.
                    while chunk := body.read(min(BLOCK_BYTES, tail[1] - len(self._buffer))):
                        self._buffer += chunk
                if len(self._buffer) != tail[1]:
                    raise StorageError(f"{self._bucket}: {tail[0]} has lost bytes")
        return self._buffer

    def _send_part(self) -> None:
        """Send a part in the background, while the next one is filled."""
        self._wait()
        number = len(self.state["etags"]) + 1
        if number > MAX_PARTS:
            raise StorageError(f"{self._bucket} takes no more than {MAX_PARTS} parts of a file")
        if self.state["upload_id"] is None:
            parameters = self._upload_parameters()
            answer = self._bucket.call("create_multipart_upload", **parameters)
            self.state = {**self.state, "upload_id": self._bucket.field(answer, "UploadId")}
        part, hash_ = self._loaded(), self._hash.state
        self._buffer = bytearray()
        self._sending = in_background(lambda: (self._upload_part(number, part), hash_))

    def _wait(self) -> None:
        """Wait for the part that is sent, and have it in the state.

        If it could not be sent, this fails again: nothing that follows may be saved.
        """
        if self._sending is None:
            return
        etag, hash_ = self._sending.result()
        self._sending = None
        tail = self.state["tail"]
        self.state = {
            **self.state,
            "etags": [*self.state["etags"], etag],
            "tail": None,
            "old_tails": [*self.state["old_tails"], *([tail[0]] if tail else [])],
            "hash": hash_,
        }

    def _settle(self) -> None:
        """Wait for the part that is sent, if any, whether that fails or not.

        One that arrives after an abort stays, and after that of another request, replaces it.
        """
        if self._sending is not None:
            wait([self._sending])

    def _upload_part(self, number: int, part: bytearray) -> str:
        parameters = {**self._upload(), **self._body(part)}
        answer = self._bucket.call("upload_part", PartNumber=number, **parameters)
        return self._bucket.field(answer, "ETag")

    def _finish(self) -> None:
        """Have the object at its first key. Does nothing if it is there."""
        if self._is_whole:
            return
        self._wait()
        if self.state["upload_id"] is None:
            parameters = {**self._upload_parameters(), **self._body(self._loaded())}
            self._bucket.call("put_object", **parameters)
        else:
            self._complete()
        self._is_whole = True

    def _complete(self) -> None:
        etags = list(self.state["etags"])
        try:
            if self._loaded():
                etags.append(self._upload_part(len(etags) + 1, self._loaded()))
            parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, start=1)]
            self._bucket.call(
                "complete_multipart_upload", MultipartUpload={"Parts": parts}, **self._upload()
            )
        except S3Error:
            # An earlier try may have completed it, and lost the answer.
            whole = self._head(self._upload_key)
            if whole is None or whole["ContentLength"] != self.size:
                raise

    def _upload(self) -> dict[str, str]:
        return {"Key": self._upload_key, "UploadId": self.state["upload_id"]}

    def _upload_parameters(self) -> dict[str, str]:
        key = self._upload_key
        parameters = {"Key": key, **parameters_of(key, self._parameters)}
        if not self.state["target"]:
            parameters.pop("ACL", None)
        return parameters

    def _body(self, content: bytearray) -> dict[str, Any]:
        return {"Body": Body(content), **self._bucket.checksum(content)}

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            return self._bucket.call("head_object", Key=key)
        except S3Error as error:
            if error.status == 404:
                return None
            raise


def new_state(target: str | None, mimetype: str, part_size: int) -> State:
    """Return the state of a file without bytes."""
    return {
        "target": target,
        "mimetype": mimetype,
        "part_size": part_size,
        "upload_id": None,
        "etags": [],
        "tail": None,
        "old_tails": [],
        "hash": None,
    }


def size_of(state: State) -> int:
    """Return how many bytes there are."""
    return len(state["etags"]) * state["part_size"] + (state["tail"][1] if state["tail"] else 0)


def tail_key(name: str, generation: int) -> str:
    """Return the key of the bytes after the last part, as a request has written them."""
    return f"{STAGING_FOLDER}{name}-{generation}"


def abort(bucket: Bucket, key: str, upload_id: str | None) -> None:
    """Delete the parts of a multipart upload, if there is one.

    :raises S3Error: they cannot be deleted.
    """
    if upload_id is None:
        return
    try:
        bucket.call("abort_multipart_upload", Key=key, UploadId=upload_id)
    except S3Error as error:
        if error.code != "NoSuchUpload":
            raise


def uploads_of(bucket: Bucket, key: str) -> list[str]:
    """Return the ids of all multipart uploads of a key, none if S3 does not list them."""
    try:
        # Nobody else begins one of this key: there are few.
        answer = bucket.call("list_multipart_uploads", Prefix=key)
    except S3Error as error:
        if error.is_transient:
            raise
        logger.info("Multipart uploads of %s that a worker has lost may stay: %s", key, error)
        return []
    found = answer.get("Uploads", ())
    return [bucket.field(one, "UploadId") for one in found if one.get("Key") == key]


def discard(bucket: Bucket, name: str, state: State, generation: int, is_last: bool) -> None:
    """Delete what is left of a partial file.

    :param is_last: whether the multipart uploads are listed, since a worker that is killed after
        it has begun one has not saved its id.
    :raises StorageError: something cannot be deleted.
    """
    key = state["target"] or STAGING_FOLDER + name
    lost = uploads_of(bucket, key) if is_last else []
    for upload_id in {state["upload_id"], *lost}:
        abort(bucket, key, upload_id)
    tails = [tail_key(name, number) for number in range(1, generation + 1)]
    for failure in bucket.delete_many([STAGING_FOLDER + name, *tails]).values():
        raise failure
