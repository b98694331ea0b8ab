"""The state of a resumable upload, as Kinto's storage keeps it."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any


RECEIVING = "receiving"
STORED = "stored"
DONE = "done"

DISCARDED = 0
"""The expiry of an upload that was given up, and of which the rest is to be deleted."""


@dataclass(frozen=True)
class Upload:
    """What any worker on any machine needs to continue an upload.

    :ivar user: who began it, empty if the request had no credentials.
    :ivar wanted_key: a key like the one that the file gets.
    :ivar is_unique: whether no other file can have that key.
    :ivar length: how many bytes there will be, ``None`` as long as the client does not know.
    :ivar metadata: as the client sent it.
    :ivar preconditions: the headers of the first request that the record has to fulfil at the end.
    :ivar repr_digest: the digests that the file has to have at the end, as the client sent them.
    :ivar expires: in milliseconds since 1970, ``DISCARDED`` if it was given up.
    :ivar phase: ``RECEIVING``, ``STORED`` (the key is chosen: the file gets it, or has it), or
        ``DONE`` (the file is the record's).
    :ivar generation: counts the requests that have taken over the upload.
    :ivar verified: the bytes after these are of a chunk whose checksum was not compared, if any.
    :ivar completed_until: when another request may complete it, in milliseconds since 1970.
    :ivar parts: the storage's state of each partial file by its name.
    :ivar key: of the stored file.
    :ivar attachment: the metadata of the stored file.
    """

    id: str
    record_uri: str
    user: str
    filename: str
    mimetype: str
    wanted_key: str
    is_unique: bool
    length: int | None
    metadata: str
    data: dict[str, Any]
    permissions: dict[str, Any]
    preconditions: dict[str, str]
    repr_digest: str | None
    expires: int = DISCARDED
    phase: str = RECEIVING
    generation: int = 0
    verified: int | None = None
    completed_until: int = 0
    parts: dict[str, Any] = field(default_factory=dict)
    key: str | None = None
    attachment: dict[str, Any] | None = None

    @property
    def file_name(self) -> str:
        """The name of the partial file that is received, or that is to be published."""
        is_compressed = self.attachment is not None and "original" in self.attachment
        return self.compressed_name if is_compressed else self.id

    @property
    def keys(self) -> list[str]:
        """The keys that the file may have in the storage."""
        targets = [state["target"] for state in self.parts.values() if state]
        return sorted({key for key in [*targets, self.key] if key})

    @property
    def compressed_name(self) -> str:
        """The name of the partial file that is compressed at the end, if it is."""
        return f"{self.id}.gz"

    @property
    def is_being_completed(self) -> bool:
        """Whether a request completes it at the moment."""
        return self.completed_until > now()

    def offset(self, size: int) -> int:
        """Return where a client has to continue.

        Clients report success as soon as this is the length. So the last byte is asked for once
        more until the record has the file.

        :param size: how many bytes there are.
        """
        if self.phase == RECEIVING and size != self.length:
            return size
        assert self.length is not None
        return self.length if self.phase == DONE else max(0, self.length - 1)


def new_id() -> str:
    """Return the id of a new upload, which nobody can guess."""
    return secrets.token_hex(16)


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)
