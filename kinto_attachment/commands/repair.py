"""Repair what a check finds, if it provably belongs to the plugin.

Missing links are added, stale links removed with their files, and files deleted that the server was
to delete. Orphan files are deleted only on request: a file that was left behind looks like one that
keep_old_files has kept. A file that is missing cannot be brought back.
"""

import argparse
import math
import time
from collections.abc import Iterable, Iterator

from kinto_attachment.commands import options
from kinto_attachment.commands.check import report_totals
from kinto_attachment.commands.detection import find_problems
from kinto_attachment.commands.inventory import Inventory
from kinto_attachment.commands.problems import Finding
from kinto_attachment.commands.remedies import Remedies, RepairOptions, RepairRefused
from kinto_attachment.commands.server import open_server
from kinto_attachment.console import Console
from kinto_attachment.storage.contract import StorageError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    options.add_grace(parser)
    options.add_dry_run(parser)
    parser.add_argument(
        "--delete-files",
        action="store_true",
        help="delete orphan files with random names in the folders of the settings (not if "
        "keep_old_files ever kept files that you still want)",
    )
    parser.add_argument(
        "--now",
        action="store_true",
        help="delete the files in the deletion queue now, before the end of delete_after",
    )
    parser.add_argument(
        "--any-name",
        action="store_true",
        help="with --delete-files, delete orphan files with other names in these folders, too, as "
        "randomize = false produces them; and add links to such files for records of which all "
        "metadata is right",
    )


def run(args: argparse.Namespace, console: Console) -> bool:
    """Repair what can be repaired, and return whether no fault is left.

    :raises StorageError: the storage does not answer.
    """
    server = open_server(args.ini)
    is_fine = True
    with Inventory(server, console) as inventory:
        permitted = RepairOptions(args.delete_files, args.any_name, args.now)
        remedies = Remedies(server, inventory, permitted)
        found = find_problems(server, inventory, console, args.grace, any_name=args.any_name)
        findings: Iterable[Finding]
        findings = (one for one in found if one.is_fault or one.kind.repair)
        if not args.dry_run:
            findings = _old_enough(remedies, findings, console, inventory.listed + args.grace)
        for finding in findings:
            is_repaired = _repair(remedies, finding, console, args.dry_run)
            is_fine = is_fine and (is_repaired or not finding.is_fault)
        report_totals(inventory, console)
    return is_fine


def _old_enough(
    remedies: Remedies, findings: Iterable[Finding], console: Console, old_at: float
) -> Iterator[Finding]:
    """Return findings, last those of undated files, once these files are old enough.

    :param old_at: when all listed files are old enough, on the monotonic clock.
    """
    young = []
    for finding in findings:
        if remedies.deletes_undated(finding) and time.monotonic() < old_at:
            young.append(finding)
        else:
            yield finding
    if young:
        seconds = math.ceil(old_at - time.monotonic())
        console.note(
            "waiting",
            f"Waiting {seconds} seconds (--grace), since {len(young)} files may have been stored "
            "just now, whatever their dates say",
            seconds=seconds,
        )
        _sleep_until(old_at)
    yield from (finding for finding in young if finding.is_confirmed(remedies.server))


def _sleep_until(monotonic: float) -> None:
    time.sleep(max(0, monotonic - time.monotonic()))


def _repair(remedies: Remedies, finding: Finding, console: Console, dry_run: bool) -> bool:
    """Return whether a problem is repaired."""
    record = finding.record_uri or None
    about = {"finding": finding.kind.name, "key": finding.key, "record": record}
    try:
        remedy = remedies.find(finding)
        if dry_run:
            console.report("to repair", f"{finding.line}: would {finding.kind.repair}", **about)
            return False
        remedy()
        if finding.kind.confirm and finding.is_confirmed(remedies.server):
            raise RepairRefused("the problem persists")
    except (RepairRefused, StorageError, FileNotFoundError) as reason:
        console.report("left", f"{finding.line}: left: {reason}", reason=str(reason), **about)
        return False
    console.report("repaired", f"{finding.line}: repaired", **about)
    return True
