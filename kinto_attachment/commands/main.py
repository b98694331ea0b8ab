"""The command line of ``kinto-attachment``. The docstring of a subcommand is its help."""

import argparse
import io
import logging
import os
import sqlite3
import sys

from kinto.core.storage.exceptions import BackendError

from kinto_attachment.commands import check, copy, options, relocate, repair
from kinto_attachment.commands.report import Report
from kinto_attachment.commands.server import ServerError, first_line
from kinto_attachment.storage.contract import StorageError


EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

DESCRIPTION = """
Maintain the files of a Kinto server: compare them with the records that refer to them, repair what
is broken, move them. The server may keep running.
"""

EPILOG = """
The exit code is 0 if all is well, 1 if something is wrong (which is reported), and 2 if the command
or the server's settings are wrong (nothing was done).
"""

SUBCOMMANDS = {"check": check, "repair": repair, "relocate": relocate, "copy": copy}


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand, and return its exit code."""
    args = _make_parser().parse_args(argv)
    _log_without_traces()
    try:
        return _run(args, Report(args.json))
    except BrokenPipeError:
        # The reader of the output has gone. What is still to be flushed should not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kinto-attachment", description=DESCRIPTION, epilog=EPILOG
    )
    subparsers = parser.add_subparsers(title="subcommands", required=True, metavar="SUBCOMMAND")
    for name, module in SUBCOMMANDS.items():
        summary, _, details = (module.__doc__ or "").partition("\n")
        subparser = subparsers.add_parser(
            name, help=summary, description=summary + details, epilog=EPILOG
        )
        options.add_ini(subparser)
        subparser.add_argument("--json", action="store_true", help="print one JSON object a line")
        module.add_options(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def _run(args: argparse.Namespace, console: Report) -> int:
    try:
        return EXIT_OK if args.run(args, console) else EXIT_FAILED
    except BrokenPipeError:
        raise
    except ServerError as error:
        console.fail(str(error))
        return EXIT_USAGE
    except io.UnsupportedOperation as error:
        console.fail(f"this storage backend does not list its files: {error}")
        return EXIT_USAGE
    except StorageError as error:
        console.fail(f"the files cannot be reached: {error}")
    except BackendError as error:
        console.fail(f"the records cannot be reached: {first_line(error)}")
    except (OSError, sqlite3.Error) as error:
        console.fail(f"the temporary folder cannot be used: {error}")
    except KeyboardInterrupt:
        console.fail("interrupted")
        return EXIT_INTERRUPTED
    return EXIT_FAILED


def _log_without_traces() -> None:
    """Log each message of the plugin, such as a file that it cannot delete, in a line."""

    class Formatter(logging.Formatter):
        def formatException(self, ei):
            return ""

    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    logging.getLogger("kinto_attachment").setLevel(logging.WARNING)
