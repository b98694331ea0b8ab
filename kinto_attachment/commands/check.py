"""Compare records, links and files.

Every problem is reported with the next command to type, and nothing is changed. A link says that a
record refers to a file; a file without a link may be deleted.
"""

import argparse
import shlex

from kinto_attachment.commands import options
from kinto_attachment.commands.detection import find_problems
from kinto_attachment.commands.inventory import Inventory
from kinto_attachment.commands.problems import MISPLACED_FILES, RESTORE, Finding, Kind
from kinto_attachment.commands.server import open_server
from kinto_attachment.console import Console


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    options.add_grace(parser)
    parser.add_argument(
        "--hash",
        action="store_true",
        help="read every file, and compare its SHA-256 with that in its record",
    )


def run(args: argparse.Namespace, console: Console) -> bool:
    """Report all problems, and return whether none of them is a fault.

    :raises StorageError: the storage does not answer.
    """
    server = open_server(args.ini)
    has_faults = False
    with Inventory(server, console) as inventory:
        for finding in find_problems(server, inventory, console, args.grace, args.hash):
            _report(finding, console, args)
            has_faults = has_faults or finding.is_fault
        report_totals(inventory, console)
    return not has_faults


def report_totals(inventory: Inventory, console: Console) -> None:
    """Report how much was compared."""
    totals = {table: inventory.count(table) for table in ("files", "links", "records")}
    line = "Compared " + ", ".join(f"{number} {what}" for what, number in totals.items())
    if inventory.unlocated:
        line += f" (and {inventory.unlocated} records whose attachment is not in this storage)"
    console.end(line, unlocated=inventory.unlocated, **totals, counts=console.counts)


def _report(finding: Finding, console: Console, args: argparse.Namespace) -> None:
    kind = finding.kind
    command = kind.command and shlex.join([*kind.command.split(), *_options_of(args, kind)])
    next_step = f"; next: {command}" if command else ""
    if kind.needs_restore:
        next_step = f"; {RESTORE}{next_step}"
    console.report(
        kind.name,
        f"{finding.line}{next_step}",
        key=finding.key,
        record=finding.record_uri or None,
        severity=kind.severity,
        **finding.details,
        next=command,
    )


def _options_of(args: argparse.Namespace, kind: Kind) -> list[str]:
    """Return the options with which the next command sees what this one sees."""
    ini = ["--ini", args.ini] if args.ini != options.default_ini() else []
    grace = ["--grace", str(args.grace)] if args.grace != options.DEFAULT_GRACE_SECONDS else []
    # move-private has no option for that: it moves what is younger, too.
    return ini if kind is MISPLACED_FILES else [*ini, *grace]
