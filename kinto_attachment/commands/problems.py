"""The kinds of problem: a table of all that a check can find.

A new kind is one entry here, a query in :mod:`~kinto_attachment.commands.detection` and, if it can
be repaired, a remedy in :mod:`~kinto_attachment.commands.remedies`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kinto_attachment.commands import confirm
from kinto_attachment.commands.server import Server


FAULT = "fault"
INFORMATIONAL = "informational"

RESTORE = "attach the file again or restore it from a backup"
CHECK = "kinto-attachment check"
REPAIR = "kinto-attachment repair"

COMPLETE_LINK = "copy the record's metadata to the link"
REMOVE_LINK_AND_FILE = "remove the link, and delete the file if nothing else refers to it"


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    :ivar meaning: what is the case, for people.
    :ivar severity: ``FAULT`` or ``INFORMATIONAL``.
    :ivar confirm: returns whether the problem exists now, called in a transaction with the server,
        the key and the record's URI. ``None``: it needs no confirmation.
    :ivar repair: what ``repair`` does, as an imperative, or ``None`` if it does nothing.
    :ivar manual: what to do before the next command, or ``None``.
    :ivar command: the next command to type, or ``None``.
    """

    name: str
    meaning: str
    severity: str
    confirm: Callable[[Server, str, str], bool] | None
    repair: str | None = None
    manual: str | None = None
    command: str | None = None


KINDS: dict[str, Kind] = {}
"""Every kind by its name."""


def _kind(*args: Any, **options: Any) -> Kind:
    kind = Kind(*args, **options)
    KINDS[kind.name] = kind
    return kind


MISSING_FILE = _kind(
    "missing-file",
    "the record's file does not exist",
    FAULT,
    confirm.is_missing,
    manual=RESTORE,
    command=CHECK,
)
SIZE_MISMATCH = _kind(
    "size-mismatch",
    "the file's size is not the one in its record",
    FAULT,
    confirm.is_in_record,
    manual=RESTORE,
    command=CHECK,
)
HASH_MISMATCH = _kind(
    "hash-mismatch",
    "the file's SHA-256 is not the one in its record",
    FAULT,
    confirm.is_in_record,
    manual=RESTORE,
    command=f"{CHECK} --hash",
)
MISSING_LINK = _kind(
    "missing-link",
    "the record refers to the file without a link, so the file may be deleted",
    FAULT,
    confirm.is_unlinked,
    repair="add the link",
    command=REPAIR,
)
METADATA_MISMATCH = _kind(
    "metadata-mismatch",
    "the link's metadata is not the record's",
    FAULT,
    confirm.is_different,
    repair=COMPLETE_LINK,
    command=REPAIR,
)
STALE_LINK = _kind(
    "stale-link",
    "the link's record does not exist",
    FAULT,
    confirm.is_stale,
    repair=REMOVE_LINK_AND_FILE,
    command=REPAIR,
)
DETACHED_LINK = _kind(
    "detached-link",
    "the link's record has another attachment or none",
    FAULT,
    confirm.is_stale,
    repair=REMOVE_LINK_AND_FILE,
    command=REPAIR,
)
DANGLING_LINK = _kind(
    "dangling-link",
    "the link's file does not exist, and its record does not refer to it",
    FAULT,
    confirm.is_stale,
    repair="remove the link",
    command=REPAIR,
)
OVERDUE_DELETION = _kind(
    "overdue-deletion",
    "the file is queued for deletion, and was not deleted in time",
    FAULT,
    confirm.is_queued,
    repair="delete the file if no record refers to it",
    command=REPAIR,
)
HEARTBEAT_LEFTOVER = _kind(
    "heartbeat-leftover",
    "a heartbeat wrote the file and could not delete it",
    FAULT,
    confirm.exists,
    repair="delete the file",
    command=REPAIR,
)
ORPHAN_FILE = _kind(
    "orphan-file",
    "no record refers to it",
    FAULT,
    confirm.is_unreferenced,
    repair="delete the file",
    command=f"{REPAIR} --delete-files",
)

UNVERIFIED_ATTACHMENT = _kind(
    "unverified-attachment",
    "the record refers to the file without a link, and nothing proves that the file is its own",
    INFORMATIONAL,
    confirm.is_unlinked,
)
KEPT_FILE = _kind(
    "kept-file",
    "no record refers to it, and keep_old_files is on",
    INFORMATIONAL,
    confirm.is_unreferenced,
)
FOREIGN_FILE = _kind(
    "foreign-file",
    "no record refers to it, and the settings produce no such name",
    INFORMATIONAL,
    confirm.is_unreferenced,
)
LEGACY_LINK = _kind(
    "legacy-link",
    "an earlier plugin wrote the link, without metadata",
    INFORMATIONAL,
    confirm.is_legacy,
    repair=COMPLETE_LINK,
    command=REPAIR,
)
PENDING_DELETION = _kind(
    "pending-deletion",
    "the file is queued for deletion",
    INFORMATIONAL,
    confirm.is_queued,
)
INCOMPLETE_UPLOAD = _kind(
    "incomplete-upload",
    "the upload is in progress, or its server was killed",
    INFORMATIONAL,
    None,
)
INCOMPLETE_UPLOADS_UNKNOWN = _kind(
    "incomplete-uploads-unknown",
    "the storage does not list incomplete uploads",
    INFORMATIONAL,
    None,
)


@dataclass(frozen=True)
class Finding:
    """A problem that a check has found.

    :ivar key: of the file in the storage.
    :ivar record_uri: of the record concerned, or empty.
    :ivar details: more, for machines.
    """

    kind: Kind
    key: str
    record_uri: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_fault(self) -> bool:
        """Whether something is to be repaired."""
        return self.kind.severity == FAULT

    @property
    def line(self) -> str:
        """The finding in a line for people."""
        more = "".join(f", {name} {value}" for name, value in self.details.items())
        record = f" of {self.record_uri}" if self.record_uri else ""
        return f"{self.kind.name}: {self.key}{record} ({self.kind.meaning}{more})"

    def is_confirmed(self, server: Server) -> bool:
        """Return whether the problem exists in the storages as they are now.

        :raises StorageError: the storage does not answer.
        """
        if self.kind.confirm is None:
            return True
        with server.reading():
            return self.kind.confirm(server, self.key, self.record_uri)
