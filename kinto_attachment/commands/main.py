"""The command line of ``kinto-attachment``."""

import argparse
import io
import logging
import os
import re
import sqlite3
import sys

from kinto.core.storage.exceptions import BackendError

from kinto_attachment.commands import check, copy, relocate, repair
from kinto_attachment.commands.report import Report
from kinto_attachment.commands.server import Unusable, first_line, open_files, open_server
from kinto_attachment.storage.contract import StorageError


EXIT_FINE = 0
EXIT_WRONG = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

DESCRIPTION = """
Look after the files of a Kinto server: compare them with the records that hold them, repair what
is broken, move them. The server may go on meanwhile.
"""

EPILOG = """
Every subcommand exits with 0 where all is well, with 1 where something is wrong (it is told), and
with 2 where the command or the server's settings are wrong (nothing was done).
"""

CHECK = """
Compare records, links and files, and tell what does not fit. Nothing is changed. A link is what
the server writes down for every file that a record holds: what is deleted is decided by it.
"""

REPAIR = """
Mend what "check" finds: make links that are missing, remove those that nothing stands behind, with
their files, and delete files that the server was to delete. Files without a link are left, unless
you say otherwise: nobody can tell one that was left behind from one that keep_old_files kept. A
record whose file is gone can only be told.
"""

RELOCATE = """
Give the locations in records another base URL, when files are served from another address: first
change kinto.attachment.base_url and restart the server, then run this. Records get new timestamps,
so that clients which synchronize see the change; listeners and the history are not told. It may be
interrupted and run again.
"""

COPY = """
Copy all files to the storage of another settings file, under the same names, from a folder to S3
or back. What is there already with the right size and SHA-256 is not copied again. Run it while the
server goes on, and once more for what came late; then switch to the other settings.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand, and return its exit code."""
    args = _parser().parse_args(argv)
    _log_without_traces()
    try:
        return _run(args, Report(args.json))
    except BrokenPipeError:
        # Who read the output has left. What is still to be flushed should not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_WRONG


def _run(args, report):
    try:
        is_fine = args.run(args, report)
    except BrokenPipeError:
        raise
    except Unusable as error:
        report.fail(str(error))
        return EXIT_USAGE
    except StorageError as error:
        report.fail(f"the files cannot be reached: {error}")
        return EXIT_WRONG
    except BackendError as error:
        report.fail(f"the records cannot be reached: {first_line(error)}")
        return EXIT_WRONG
    except io.UnsupportedOperation as error:
        report.fail(f"this backend cannot be looked into: {error}")
        return EXIT_USAGE
    except (OSError, sqlite3.Error) as error:
        report.fail(f"the temporary folder cannot be used: {error}")
        return EXIT_WRONG
    except KeyboardInterrupt:
        report.fail("interrupted")
        return EXIT_INTERRUPTED
    return EXIT_FINE if is_fine else EXIT_WRONG


def _log_without_traces():
    """What the plugin logs, as files that it cannot delete, is told in a line each."""

    class Formatter(logging.Formatter):
        def formatException(self, ei):
            return ""

    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    logging.getLogger("kinto_attachment").setLevel(logging.WARNING)


def _parser():
    parser = argparse.ArgumentParser(
        prog="kinto-attachment", description=DESCRIPTION, epilog=EPILOG
    )
    subparsers = parser.add_subparsers(title="subcommands", required=True, metavar="SUBCOMMAND")
    _add_check(subparsers)
    _add_repair(subparsers)
    _add_relocate(subparsers)
    _add_copy(subparsers)
    return parser


def _add_check(subparsers):
    parser = _add(subparsers, "check", "compare records, links and files", CHECK)
    _add_grace(parser)
    parser.add_argument(
        "--hash",
        action="store_true",
        help="read every file, and compare its SHA-256 with its record, too",
    )
    parser.set_defaults(
        run=lambda args, report: check.run(open_server(args.ini), report, args.grace, args.hash)
    )


def _add_repair(subparsers):
    parser = _add(subparsers, "repair", "mend what a check finds", REPAIR)
    _add_grace(parser)
    _add_dry_run(parser)
    parser.add_argument(
        "--delete-files",
        action="store_true",
        help="delete files without a link, those with random names in the folders of the settings: "
        "not where keep_old_files ever kept files that you still want",
    )
    parser.add_argument(
        "--any-name",
        action="store_true",
        help="with --delete-files: those with other names in these folders, too, as they come with "
        "randomize = false; and link such files with records that say all that is true of them",
    )
    parser.set_defaults(run=_run_repair)


def _run_repair(args, report):
    choices = repair.Choices(args.delete_files, args.any_name)
    return repair.run(open_server(args.ini), report, args.grace, args.dry_run, choices)


def _add_relocate(subparsers):
    parser = _add(subparsers, "relocate", "change the base URL in records", RELOCATE)
    parser.add_argument(
        "--base-url",
        nargs=2,
        required=True,
        metavar=("OLD", "NEW"),
        help="what locations begin with, and what they should begin with ('' for nothing)",
    )
    _add_dry_run(parser)
    parser.set_defaults(
        run=lambda args, report: relocate.run(
            open_server(args.ini), report, *args.base_url, args.dry_run
        )
    )


def _add_copy(subparsers):
    parser = _add(subparsers, "copy", "copy all files to another storage", COPY)
    parser.add_argument(
        "--to", required=True, metavar="INI", help="the settings file with the other storage"
    )
    parser.add_argument(
        "--jobs", type=_positive, default=4, help="how many files at once (default: 4)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="do not read what is there already with the right size",
    )
    parser.set_defaults(
        run=lambda args, report: copy.run(
            open_server(args.ini), open_files(args.to), report, args.jobs, args.quick
        )
    )


def _add(subparsers, name, summary, description):
    parser = subparsers.add_parser(
        name, help=summary, description=description, epilog=EPILOG.replace("Every", "This")
    )
    parser.add_argument(
        "--ini",
        default=os.getenv("KINTO_INI", "config/kinto.ini"),
        help="the server's settings file (default: the environment's KINTO_INI, or "
        "config/kinto.ini)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    return parser


def _add_grace(parser):
    parser.add_argument(
        "--grace",
        type=_duration,
        default="1h",
        metavar="TIME",
        help="leave alone what is younger, as 90s, 30m, 1h or 2d (default: 1h)",
    )


def _add_dry_run(parser):
    parser.add_argument(
        "--dry-run", action="store_true", help="tell what would be done, and do nothing"
    )


def _duration(text):
    match = re.fullmatch(r"(\d+)([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 90s, 30m, 1h or 2d")
    return int(match[1]) * SECONDS[match[2]]


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number larger than 0")
    return int(text)
