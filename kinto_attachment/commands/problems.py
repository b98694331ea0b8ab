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

CHECK = "kinto-attachment check"

RESTORE = "attach the file again or restore it from a backup"
"""The repair that no command makes."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    :ivar meaning: what is the case, for people.
    :ivar severity: ``FAULT`` or ``INFORMATIONAL``.
    :ivar confirm: returns whether the problem exists now, called in a transaction with the server,
        the key and the record's URI. ``None``: it needs no confirmation.
    :ivar repair: what ``repair`` does, as an imperative, or ``None`` if it does nothing.
    :ivar command: the next command to type, or ``None``.
    """

    name: str
    meaning: str
    severity: str
    confirm: Callable[[Server, str, str], bool] | None
    repair: str | None = None
    command: str | None = None

    @property
    def needs_restore(self) -> bool:
        """Whether ``RESTORE`` comes before the next command, which only checks."""
        return self.command is not None and self.command.startswith(CHECK)


KINDS: dict[str, Kind] = {}
"""Every kind by its name."""


def _fault(
    name: str,
    meaning: str,
    confirm: Callable[[Server, str, str], bool],
    repair: str | None = None,
    command: str = "kinto-attachment repair",
) -> Kind:
    return KINDS.setdefault(name, Kind(name, meaning, FAULT, confirm, repair, command))


def _information(name: str, meaning: str, *more: Any) -> Kind:
    return KINDS.setdefault(name, Kind(name, meaning, INFORMATIONAL, *more))


MISSING_FILE = _fault(
    "missing-file",
    "the record's file does not exist",
    confirm.is_missing,
    command=CHECK,
)
SIZE_MISMATCH = _fault(
    "size-mismatch",
    "the file's size is not the one in its record",
    confirm.is_in_record,
    command=CHECK,
)
HASH_MISMATCH = _fault(
    "hash-mismatch",
    "the file's SHA-256 is not the one in its record",
    confirm.is_in_record,
    command=f"{CHECK} --hash",
)
MISSING_LINK = _fault(
    "missing-link",
    "the record refers to the file without a link, so the file may be deleted",
    confirm.is_unlinked,
    "add the link",
)
METADATA_MISMATCH = _fault(
    "metadata-mismatch",
    "the link's metadata is not the record's",
    confirm.is_different,
    "copy the record's metadata to the link",
)
STALE_LINK = _fault(
    "stale-link",
    "the link's record does not exist",
    confirm.is_stale,
    "remove the link, and delete the file if nothing else refers to it",
)
DETACHED_LINK = _fault(
    "detached-link",
    "the link's record has another attachment or none",
    confirm.is_stale,
    "remove the link, and delete the file if nothing else refers to it",
)
DANGLING_LINK = _fault(
    "dangling-link",
    "the link's file does not exist, and its record does not refer to it",
    confirm.is_stale,
    "remove the link",
)
OVERDUE_DELETION = _fault(
    "overdue-deletion",
    "the file is queued for deletion, and was not deleted in time",
    confirm.is_queued,
    "delete the file if no record refers to it",
)
EXPIRED_UPLOAD = _fault(
    "expired-upload",
    "the resumable upload has expired, and was not deleted in time",
    confirm.is_expired,
    "delete the upload, and its file if no record refers to it",
)
HEARTBEAT_LEFTOVER = _fault(
    "heartbeat-leftover",
    "a heartbeat wrote the file and could not delete it",
    confirm.exists,
    "delete the file",
)
ORPHAN_FILE = _fault(
    "orphan-file",
    "no record refers to it",
    confirm.is_unreferenced,
    "delete the file",
    "kinto-attachment repair --delete-files",
)
UNVERIFIED_ATTACHMENT = _information(
    "unverified-attachment",
    "the record refers to the file without a link, and nothing proves that the file is its own",
    confirm.is_unlinked,
)
UNKNOWN_FILE = _information(
    "unknown-file",
    "the record has a private location, and no link says which file that is",
    confirm.is_unknown,
    None,
    CHECK,
)
POSSIBLE_FILE = _information(
    "possible-file",
    "no link refers to it, but it has the size of a record's unknown file",
    confirm.is_unreferenced,
)
KEPT_FILE = _information(
    "kept-file", "no record refers to it, and keep_old_files is on", confirm.is_unreferenced
)
FOREIGN_FILE = _information(
    "foreign-file",
    "no record refers to it, and the settings produce no such name",
    confirm.is_unreferenced,
)
LEGACY_LINK = _information(
    "legacy-link",
    "an earlier plugin wrote the link, without metadata",
    confirm.is_legacy,
    "copy the record's metadata to the link",
    "kinto-attachment repair",
)
PENDING_DELETION = _information(
    "pending-deletion", "the file is queued for deletion", confirm.is_queued
)
DELETION_SCHEDULED = _information(
    "deletion-scheduled",
    "no record refers to these files, and delete_after has not passed",
    None,
    "delete them now",
    "kinto-attachment repair --now",
)
MISPLACED_FILES = _information(
    "misplaced-files",
    "these files are not where the setting downloads of their collection has them",
    None,
    None,
    "kinto-attachment move-private",
)
UNATTACHED_FILE = _information(
    "unattached-file",
    "a resumable upload stored the file, and its record is not written yet",
    confirm.is_of_upload,
)
INCOMPLETE_UPLOAD = _information(
    "incomplete-upload", "the upload is in progress, or its server was killed", None
)
INCOMPLETE_UPLOADS_UNKNOWN = _information(
    "incomplete-uploads-unknown", "the storage does not list incomplete uploads", None
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
