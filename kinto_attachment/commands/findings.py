"""What a check finds: its names, and whether it still holds on a second look.

An inventory was taken while the server went on. So whatever looks wrong in it is looked at once
more, in Kinto's storage and in that of the files, in an order in which no change that is under way
can mislead: a file is stored before its link, links change in one commit with their record, and a
file is deleted after that.
"""

from dataclasses import dataclass, field
from typing import Any

from kinto_attachment import records
from kinto_attachment.commands import objects
from kinto_attachment.commands.server import Server


FILE_WITHOUT_LINK = "file-without-link"
HEARTBEAT_LEFT = "heartbeat-left-behind"
LINK_WITHOUT_RECORD = "link-without-record"
LINK_NOT_IN_RECORD = "link-not-in-record"
LINK_WITHOUT_FILE = "link-without-file"
LINK_DIFFERS = "link-differs"
RECORD_WITHOUT_LINK = "record-without-link"
RECORD_WITHOUT_FILE = "record-without-file"
WRONG_SIZE = "wrong-size"
WRONG_HASH = "wrong-hash"
RELEASE_OVERDUE = "release-overdue"

UNMANAGED = "unmanaged-attachment"
KEPT_FILE = "kept-file"
FOREIGN_FILE = "foreign-file"
OLD_LINK = "old-link"
RELEASE_PENDING = "release-pending"
UNFINISHED = "unfinished-upload"
UNFINISHED_UNKNOWN = "unfinished-uploads-unknown"

MEANINGS = {
    FILE_WITHOUT_LINK: "no record holds it",
    HEARTBEAT_LEFT: "a heartbeat wrote it and could not delete it",
    LINK_WITHOUT_RECORD: "its record is gone",
    LINK_NOT_IN_RECORD: "its record carries something else",
    LINK_WITHOUT_FILE: "neither is its file there, nor does its record carry it",
    LINK_DIFFERS: "the link has other metadata than the record",
    RECORD_WITHOUT_LINK: "the record carries a file that it does not hold: it may be deleted",
    RECORD_WITHOUT_FILE: "the record's file is gone",
    WRONG_SIZE: "the file has another size than its record says",
    WRONG_HASH: "the file has another SHA-256 than its record says",
    RELEASE_OVERDUE: "it was let go, and is still to be deleted",
    UNMANAGED: "nothing shows that its record ever held it",
    KEPT_FILE: "no record holds it: keep_old_files may have kept it",
    FOREIGN_FILE: "no record holds it, and the settings give no such names",
    OLD_LINK: "an earlier plugin's, without metadata",
    RELEASE_PENDING: "it was let go, and is about to be deleted",
    UNFINISHED: "it is being received, or was when its server was killed",
    UNFINISHED_UNKNOWN: "the storage does not list its unfinished uploads",
}
"""Every name, and what it says."""

TOLD_ONLY = (
    UNMANAGED,
    KEPT_FILE,
    FOREIGN_FILE,
    OLD_LINK,
    RELEASE_PENDING,
    UNFINISHED,
    UNFINISHED_UNKNOWN,
)
"""What is no fault."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check tells.

    :ivar location: of the file, in the storage.
    :ivar record_uri: of the record that it is about, if any.
    :ivar details: more, for machines.
    """

    kind: str
    location: str
    record_uri: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_wrong(self) -> bool:
        """Whether it is a fault."""
        return self.kind not in TOLD_ONLY

    @property
    def line(self) -> str:
        """What is told to people."""
        more = "".join(f", {name} {value}" for name, value in self.details.items())
        record = f" of {self.record_uri}" if self.record_uri else ""
        return f"{self.kind}: {self.location}{record} ({MEANINGS[self.kind]}{more})"


def still_holds(server: Server, finding: Finding) -> bool:
    """Return whether a finding is one on a second look, too.

    :raises StorageError: nobody knows.
    """
    with server.reading():
        return _LOOKS[finding.kind](server, finding)


def record_of(server: Server, record_uri: str) -> dict[str, Any] | None:
    """Return a record as it is now, or ``None``."""
    with server.reading():
        return _record_of(server, record_uri)


def attachment_of(server: Server, record_uri: str) -> Any:
    """Return what a record carries in this transaction, or ``None``."""
    return (_record_of(server, record_uri) or {}).get("attachment")


def _record_of(server, record_uri):
    collection_uri, _, id_ = record_uri.rsplit("/", 2)
    return records.current(server.objects, collection_uri, [id_]).get(id_)


def links_between(server: Server, finding: Finding) -> list[dict[str, Any]]:
    """Return the links of the finding's record on the finding's file."""
    links = objects.links_of(server, [finding.record_uri])
    return [link for link in links if link["location"] == finding.location]


def _is_unheld(server, finding):
    # The release is written down with the link's end, and struck out with the file's.
    location = finding.location
    return (
        bool(records.without_links(server.objects, [location]))
        and not records.releases_of(server.objects, location)
        and server.files.exists(location)
    )


def _is_there(server, finding):
    return server.files.exists(finding.location)


def _is_stale(server, finding):
    # A link that is there after its record was read was there before: they change in one commit.
    attachment = attachment_of(server, finding.record_uri)
    carried = records.locates(attachment, finding.location)
    return not carried and bool(links_between(server, finding))


def _is_different(server, finding):
    before = attachment_of(server, finding.record_uri)
    links = links_between(server, finding)
    unchanged = records.are_same(attachment_of(server, finding.record_uri), before)
    return (
        unchanged
        and records.locates(before, finding.location)
        and any(not records.are_same(link.get("attachment", before), before) for link in links)
    )


def _is_not_linked(server, finding):
    before = links_between(server, finding)
    carried = records.locates(attachment_of(server, finding.record_uri), finding.location)
    return carried and not before and not links_between(server, finding)


def _is_missing(server, finding):
    # A record that still carries it did so when the file was looked for: files go later.
    return not server.files.exists(finding.location) and _is_carried(server, finding)


def _is_carried(server, finding):
    return records.locates(attachment_of(server, finding.record_uri), finding.location)


def _is_old(server, finding):
    return any("attachment" not in link for link in links_between(server, finding))


def _is_released(server, finding):
    return bool(records.releases_of(server.objects, finding.location))


_LOOKS = {
    FILE_WITHOUT_LINK: _is_unheld,
    KEPT_FILE: _is_unheld,
    FOREIGN_FILE: _is_unheld,
    HEARTBEAT_LEFT: _is_there,
    LINK_WITHOUT_RECORD: _is_stale,
    LINK_NOT_IN_RECORD: _is_stale,
    LINK_WITHOUT_FILE: _is_stale,
    LINK_DIFFERS: _is_different,
    RECORD_WITHOUT_LINK: _is_not_linked,
    UNMANAGED: _is_not_linked,
    RECORD_WITHOUT_FILE: _is_missing,
    WRONG_SIZE: _is_carried,
    WRONG_HASH: _is_carried,
    OLD_LINK: _is_old,
    RELEASE_OVERDUE: _is_released,
    RELEASE_PENDING: _is_released,
}
