"""Files of a Google Cloud Storage bucket that come in pieces."""

import uuid
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, BinaryIO

import google_crc32c
from google.cloud.storage import Blob

from kinto_attachment.background import in_background
from kinto_attachment.storage.contract import PartialFile, StorageError, Superseded
from kinto_attachment.storage.gcs.bucket import Bucket, GCSError, encoded_crc32c
from kinto_attachment.storage.gcs.staged import PRECONDITION_FAILED, STAGING_FOLDER, UPLOAD_ID
from kinto_attachment.storage.names import REMOTE_NUMBERED_IN_ORDER, candidate_keys
from kinto_attachment.storage.resumable_hash import ResumableHash


MAX_COMPOSED = 32
"""A limit of GCS ("Composite objects")."""

State = dict[str, Any]
Piece = list[Any]


class GCSPartialFile(PartialFile):
    """Objects in ``.staging/``, of which GCS composes one at the end, in one request.

    (A resumable session could not drop bytes whose checksum is wrong, and would take those of a
    request that was superseded.) Each object is written once. What a request writes after another
    one has taken over is in no state that is saved: it does not count, and the next one deletes it.

    :param state: ``target`` (``None``: no key is taken before the end), ``mimetype``, ``pieces``
        (key, size and, if it is composed, how many times), ``crc32c`` and ``hash`` of their bytes.
    :param part_size: how many bytes a piece has at most when it is sent.
    :param generation: in the keys of what this request sends. So if it is superseded and does not
        know, it deletes nothing of those that came later.
    :param delete_others: deletes all objects of the file that earlier requests sent, but for these.
    :raises Superseded: it has another size.
    """

    def __init__(
        self,
        bucket: Bucket,
        name: str,
        state: State,
        generation: int,
        size: int | None,
        part_size: int,
        delete_others: Callable[[list[str]], None],
    ):
        self.state = state
        self.size = size_of(state)
        if size not in (None, self.size):
            raise Superseded(name)
        self._bucket = bucket
        self._name = name
        self._prefix = f"{staged_prefix(name)}{generation}-"
        self._part_size = part_size
        self._crc32c: int = state["crc32c"]
        self._hash = ResumableHash(state["hash"], self.size)
        self._buffer = bytearray()
        self._filled = 0
        self._piece_crc32c = 0
        self._sent = bytearray()
        self._sending: Future[State] | None = None
        self._delete_others: Callable[[list[str]], None] | None = delete_others
        self._made: list[str] = []

    def write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            if self._filled == self._part_size:
                self._send()
            piece = bytes(left[: self._part_size - self._filled])
            self._buffer[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            self._piece_crc32c = google_crc32c.extend(self._piece_crc32c, piece)
            self._crc32c = google_crc32c.extend(self._crc32c, piece)
            self._hash.update(piece)
            self.size += len(piece)
            left = left[len(piece) :]

    def flush(self) -> None:
        self._wait()
        # A file without bytes is one piece without bytes.
        if self._filled or not self.state["pieces"]:
            self._send()
            self._wait()

    def rewind(self, size: int, state: State | None) -> None:
        """Leave what was sent to the next piece, which deletes it, if there may be one."""
        self._settle()
        if state is None:
            for key in self._made:
                self._bucket.call_if_found(self._bucket.blob(key).delete)

    def open(self) -> BinaryIO:
        keys = self._piece_keys()
        key = keys[0] if len(keys) == 1 else self._compose_staged(keys)
        return self._bucket.open(key, self._part_size)

    def sha256(self) -> str | None:
        return self._hash.hexdigest()

    def free_key(self, key: str) -> str:
        keys = candidate_keys(key, REMOTE_NUMBERED_IN_ORDER)
        return next(one for one in keys if self._bucket.find(one) is None)

    def publish(self, key: str) -> bool:
        # An earlier try may have made it.
        blob = self._bucket.find(key) or self._compose_new(key)
        if (blob.metadata or {}).get(UPLOAD_ID) != self._name:
            return False
        if blob.crc32c != encoded_crc32c(self._crc32c):
            raise StorageError(f"{self._bucket} has composed a file with another CRC32C")
        self._bucket.save_acl(blob)
        return True

    def close(self) -> None:
        self._settle()
        self._buffer, self._sent = bytearray(), bytearray()

    def _send(self) -> None:
        """Send a piece in the background, while the next one is filled."""
        self._wait()
        del self._buffer[self._filled :]
        # The buffer of the previous piece is filled again: there are two, however large the file.
        self._sent, self._buffer, self._filled = self._buffer, self._sent, 0
        crc32c, self._piece_crc32c = self._piece_crc32c, 0
        sums = {"crc32c": self._crc32c, "hash": self._hash.state}
        self._sending = in_background(partial(self._put, self._sent, crc32c, sums))

    def _put(self, content: bytearray, crc32c: int, sums: State) -> State:
        """Return what changes in the state with a piece that was sent."""
        if self._delete_others is not None:
            # Not before: now the state is that of no other request any more.
            self._delete_others(self._piece_keys())
            self._delete_others = None
        key = self._staged_key()
        self._bucket.put(key, content, crc32c)
        pieces = [*self.state["pieces"], [key, len(content), 0]]
        # So one request composes the file, which a request that repeats it finds. And the state
        # stays short, however small the pieces are.
        while len(pieces) >= MAX_COMPOSED:
            pieces = self._compose_last(pieces)
        return {**sums, "pieces": pieces}

    def _compose_last(self, pieces: list[Piece]) -> list[Piece]:
        """Return the pieces with one in place of the last ones, which were composed least often.

        (How often a piece was composed never increases from one to the next.)
        """
        times = pieces[-2][2]
        first = next(number for number, piece in enumerate(pieces) if piece[2] <= times)
        key = self._compose_staged([piece[0] for piece in pieces[first:]])
        return [*pieces[:first], [key, sum(piece[1] for piece in pieces[first:]), times + 1]]

    def _wait(self) -> None:
        """Wait for the piece that is sent, and have it in the state.

        If it could not be sent, this fails again: nothing that follows may be saved.
        """
        if self._sending is not None:
            self.state = {**self.state, **self._sending.result()}
            self._sending = None

    def _settle(self) -> None:
        """Wait for the piece that is sent, if any, whether that fails or not.

        One that arrived later would be there after the next request has deleted all others.
        """
        if self._sending is not None:
            wait([self._sending])

    def _piece_keys(self) -> list[str]:
        return [piece[0] for piece in self.state["pieces"]]

    def _compose_new(self, key: str) -> Blob:
        """Return the object of a key: the file, or what has taken the key meanwhile."""
        blob = self._bucket.blob(key, self.state["mimetype"])
        blob.metadata = {UPLOAD_ID: self._name}
        try:
            self._compose(blob, self._piece_keys(), if_generation_match=0)
        except GCSError as error:
            found = self._bucket.find(key) if error.status == PRECONDITION_FAILED else None
            if found is None:
                raise
            return found
        return blob

    def _compose_staged(self, keys: list[str]) -> str:
        key = self._staged_key()
        self._compose(self._bucket.blob(key), keys)
        return key

    def _compose(self, blob: Blob, keys: list[str], **condition: int) -> None:
        self._bucket.call(blob.compose, [self._bucket.blob(key) for key in keys], **condition)

    def _staged_key(self) -> str:
        self._made.append(f"{self._prefix}{uuid.uuid4().hex}")
        return self._made[-1]


def new_state(mimetype: str) -> State:
    """Return the state of a file without bytes."""
    return {"target": None, "mimetype": mimetype, "pieces": [], "crc32c": 0, "hash": None}


def size_of(state: State) -> int:
    """Return how many bytes there are."""
    return sum(size for _, size, _ in state["pieces"])


def staged_prefix(name: str) -> str:
    """Return what the keys of all objects of a partial file begin with."""
    return f"{STAGING_FOLDER}{name}-"


def generation_of(name: str, key: str) -> int:
    """Return the generation of the request that has sent an object of a partial file."""
    return int(key.removeprefix(staged_prefix(name)).partition("-")[0])
