"""``kinto-attachment repair``: mends what a check finds, as far as it can be proved to be ours."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from kinto_attachment import records
from kinto_attachment.commands import check, objects
from kinto_attachment.commands import findings as kinds
from kinto_attachment.commands.claims import Claims
from kinto_attachment.commands.contents import sha256_of
from kinto_attachment.commands.findings import Finding, attachment_of, links_between, still_holds
from kinto_attachment.commands.inventory import Inventory
from kinto_attachment.commands.report import Report
from kinto_attachment.commands.server import Server
from kinto_attachment.storage.contract import StorageError
from kinto_attachment.storage.names import KeyPatterns


class Untouched(Exception):
    """Something is left as it is: the message says why."""


class Remedy(NamedTuple):
    """What mends a finding.

    :ivar effect: what it does, for people.
    """

    effect: str
    apply: Callable[[], None]


class Choices(NamedTuple):
    """What the operator allows.

    :ivar delete_files: files without link that have a random name.
    :ivar any_name: those with another name, too, and links on them.
    """

    delete_files: bool
    any_name: bool


def run(
    server: Server, report: Report, grace_seconds: float, dry_run: bool, choices: Choices
) -> bool:
    """Mend what can be mended, and return whether nothing is wrong any more.

    :raises StorageError: the storage does not answer.
    """
    is_fine = True
    with Inventory(server, report) as inventory:
        repair = _Repair(server, inventory, choices)
        found = check.look(server, inventory, report, grace_seconds, any_name=choices.any_name)
        findings = (one for one in found if one.is_wrong or one.kind == kinds.OLD_LINK)
        if not dry_run:
            findings = _old_enough(repair, findings, report, inventory.listed + grace_seconds)
        for finding in findings:
            is_mended = _mend(repair, finding, report, dry_run)
            is_fine = is_fine and (is_mended or not finding.is_wrong)
        check.end(report, inventory)
    return is_fine


def _old_enough(repair, findings, report, old_at):
    """Return findings, those last of whose file only this command knows that it is not young.

    :param old_at: when all files that were listed are old enough, on the monotonic clock.
    """
    young = []
    for finding in findings:
        if repair.deletes_undated(finding) and time.monotonic() < old_at:
            young.append(finding)
        else:
            yield finding
    if young:
        seconds = math.ceil(old_at - time.monotonic())
        report.note(
            f"Waiting {seconds} seconds (--grace), since {len(young)} files may have been stored "
            "just now, whatever their dates say",
            what="waiting",
            seconds=seconds,
        )
        _sleep_until(old_at)
    yield from (finding for finding in young if still_holds(repair.server, finding))


def _sleep_until(monotonic):
    time.sleep(max(0, monotonic - time.monotonic()))


def _mend(repair, finding, report, dry_run):
    """Return whether a finding is one no more."""
    about = {"finding": finding.kind, "location": finding.location, "record": finding.record_uri}
    try:
        remedy = repair.remedy(finding)
        if dry_run:
            report.tell("to mend", f"{finding.line}: would be mended: {remedy.effect}", **about)
            return False
        remedy.apply()
        if finding.kind != kinds.OLD_LINK and still_holds(repair.server, finding):
            raise Untouched("it could not be mended")
    except (Untouched, StorageError, FileNotFoundError) as reason:
        report.tell("left", f"{finding.line}: left: {reason}", reason=str(reason), **about)
        return False
    report.tell("mended", f"{finding.line}: mended: {remedy.effect}", **about)
    return True


class _Repair:
    """Knows a remedy for each kind of finding."""

    def __init__(self, server: Server, inventory: Inventory, choices: Choices):
        self.server = server
        self._inventory = inventory
        self._choices = choices
        self._names = KeyPatterns(server.settings)
        self._claims = Claims(server, inventory, choices.any_name)
        self._remedies = {
            kinds.FILE_WITHOUT_LINK: self._for_file_without_link,
            kinds.HEARTBEAT_LEFT: self._for_heartbeat_left,
            kinds.LINK_WITHOUT_RECORD: self._for_stale_link,
            kinds.LINK_NOT_IN_RECORD: self._for_stale_link,
            kinds.LINK_WITHOUT_FILE: self._for_stale_link,
            kinds.LINK_DIFFERS: self._for_different_link,
            kinds.OLD_LINK: self._for_old_link,
            kinds.RECORD_WITHOUT_LINK: self._for_record_without_link,
            kinds.RELEASE_OVERDUE: self._for_release_overdue,
        }

    def remedy(self, finding: Finding) -> Remedy:
        """Return what mends a finding.

        :raises Untouched: it is not to be touched.
        """
        if finding.kind not in self._remedies:
            raise Untouched("attach the file again, or bring it back from a backup")
        return self._remedies[finding.kind](finding)

    def deletes_undated(self, finding: Finding) -> bool:
        """Return whether a file is about to be deleted that may be younger than its date says."""
        if finding.kind != kinds.FILE_WITHOUT_LINK:
            return False
        try:
            self.remedy(finding)
        except Untouched:
            return False
        query = "SELECT 1 FROM files WHERE name = :name AND NOT is_dated"
        return any(self._inventory.rows(query, name=finding.location))

    def _for_file_without_link(self, finding):
        if not self._choices.delete_files:
            raise Untouched("--delete-files deletes it, unless keep_old_files ever kept files")
        if not self._names.match(finding.location).is_random and not self._choices.any_name:
            raise Untouched("--any-name deletes it, too: its name is not a random one")
        if not self._inventory.count("links"):
            raise Untouched("these records hold no files at all: is it the right database?")
        return Remedy("the file is deleted", lambda: self._release([finding.location]))

    def _release(self, locations):
        # Not deleted here: what has a link by then stays.
        with self.server.transaction():
            self.server.releases.write_down(locations)

    def _for_heartbeat_left(self, finding):
        return Remedy("the file is deleted", lambda: self.server.files.delete(finding.location))

    def _for_stale_link(self, finding):
        effect = "the link is removed"
        if finding.kind != kinds.LINK_WITHOUT_FILE:
            effect += ", and the file where nobody else holds it"
        return Remedy(effect, lambda: self._remove_link(finding))

    def _remove_link(self, finding):
        with self.server.transaction():
            links = links_between(self.server, finding)
            # First, since from now on no other transaction can have the record carry the file.
            records.remove_links(self.server.objects, links)
            attachment = attachment_of(self.server, finding.record_uri)
            if records.locates(attachment, finding.location):
                raise Untouched("the record carries the file again")
            if not any(self._is_kept(link) for link in links) and not self._carriers(finding):
                self.server.releases.write_down([finding.location])

    def _is_kept(self, link):
        _, _, bucket_id, _, collection_id = (link.get("origin") or link["collection_uri"]).split(
            "/"
        )
        return self.server.settings.for_collection(bucket_id, collection_id).keep_old_files

    def _carriers(self, finding):
        """Return other records that carry the file, without a link perhaps."""
        query = "SELECT record FROM records WHERE location = :location AND record != :record"
        return list(
            self._inventory.rows(query, location=finding.location, record=finding.record_uri)
        )

    def _for_record_without_link(self, finding):
        attachment = self._verified_attachment(finding)
        twin = self._claims.twin(finding.record_uri, finding.location)
        return Remedy("the link is made", lambda: self._make_link(finding, attachment, twin))

    def _for_different_link(self, finding):
        attachment = self._verified_attachment(finding)
        effect = "the link gets the record's metadata"
        return Remedy(effect, lambda: self._renew_link(finding, attachment))

    def _verified_attachment(self, finding):
        """Return the record's metadata.

        :raises Untouched: they are not those of the file.
        """
        attachment = (kinds.record_of(self.server, finding.record_uri) or {}).get("attachment")
        if not records.locates(attachment, finding.location):
            raise Untouched("the record has changed meanwhile")
        read = []
        actual = sha256_of(self.server.files, finding.location, read.append)
        claimed = [attachment.get("hash"), attachment.get("size")]
        if not records.are_same(claimed, [actual, sum(read)]):
            raise Untouched("the size or the SHA-256 in the record is not that of the file")
        return attachment

    def _make_link(self, finding, attachment, twin):
        with self.server.transaction():
            origin = self._locked_origin(finding, attachment, twin) if twin else None
            if not twin and self._is_known(finding.location):
                raise Untouched("the file was linked or let go meanwhile")
            self._add_link(finding, attachment, origin)

    def _locked_origin(self, finding, attachment, twin):
        """Return where the file of a twin was uploaded to. The twin holds it from now on."""
        for link in objects.links_of(self.server, [twin]):
            said = link.get("attachment") or attachment_of(self.server, twin)
            is_twin = link["location"] == finding.location and records.are_same(said, attachment)
            if is_twin and records.lock_link(self.server.objects, link):
                return link.get("origin") or link["collection_uri"]
        raise Untouched("the record that it copies has changed meanwhile")

    def _is_known(self, location):
        linked = not records.without_links(self.server.objects, [location])
        return linked or bool(records.releases_of(self.server.objects, location))

    def _renew_link(self, finding, attachment):
        with self.server.transaction():
            links = links_between(self.server, finding)
            origin = next((link["origin"] for link in links if "origin" in link), None)
            self._add_link(finding, attachment, origin)

    def _add_link(self, finding, attachment, origin):
        if not records.are_same(attachment_of(self.server, finding.record_uri), attachment):
            raise Untouched("the record has changed meanwhile")
        records.add_link(
            self.server.objects, finding.record_uri, finding.location, attachment, origin
        )

    def _for_old_link(self, finding):
        query = "SELECT size FROM files WHERE name = :name"
        sizes = [size for (size,) in self._inventory.rows(query, name=finding.location)]
        attachment = (kinds.record_of(self.server, finding.record_uri) or {}).get("attachment")
        is_carried = records.locates(attachment, finding.location)
        if not is_carried or not records.are_same([attachment.get("size")], sizes):
            raise Untouched("the file has another size than its record says")
        return Remedy("the link gets metadata", lambda: self._complete(finding, attachment))

    def _complete(self, finding, attachment):
        with self.server.transaction():
            links = links_between(self.server, finding)
            # First: it waits for whoever is removing them.
            removed = records.remove_links(self.server.objects, links)
            carried = attachment_of(self.server, finding.record_uri)
            if not removed or not records.are_same(carried, attachment):
                raise Untouched("the record has changed meanwhile")
            records.add_link(self.server.objects, finding.record_uri, finding.location, attachment)

    def _for_release_overdue(self, finding):
        effect = "the file is deleted where nobody holds it"
        return Remedy(effect, lambda: self._settle_release(finding))

    def _settle_release(self, finding):
        with self.server.transaction():
            for release in records.releases_of(self.server.objects, finding.location):
                locations = records.take_release(self.server.objects, release)
                self.server.releases.write_down(locations)
