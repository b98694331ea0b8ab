"""The command line of ``kinto-attachment``. The docstring of a subcommand is its help."""

import argparse
import io
import logging
import sqlite3

from kinto.core.storage.exceptions import BackendError

from kinto_attachment.commands import check, copy, move_private, options, relocate, repair
from kinto_attachment.commands.server import ServerError, first_line
from kinto_attachment.console import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    Console,
    exit_code_of,
)
from kinto_attachment.storage.contract import StorageError


DESCRIPTION = """
Maintain the files of a Kinto server: compare them with the records that refer to them, repair what
is broken, move them. The server may keep running.
"""

EPILOG = """
The exit code is 0 if all is well, 1 if something is wrong (which is reported), and 2 if the command
or the server's settings are wrong (nothing was done).
"""

SUBCOMMANDS = {
    "check": check,
    "repair": repair,
    "relocate": relocate,
    "copy": copy,
    "move-private": move_private,
}


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand, and return its exit code."""
    args = _make_parser().parse_args(argv)
    _log_without_traces()
    return exit_code_of(lambda: _run(args, Console(args.json)))


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


def _run(args: argparse.Namespace, console: Console) -> int:
    try:
        return EXIT_OK if args.run(args, console) else EXIT_FAILED
    except ServerError as error:
        return _fail(console, EXIT_USAGE, str(error))
    except io.UnsupportedOperation as error:
        message = f"this storage backend does not list its files: {error}"
        return _fail(console, EXIT_USAGE, message)
    except StorageError as error:
        return _fail(console, EXIT_FAILED, f"the files cannot be reached: {error}")
    except BackendError as error:
        return _fail(console, EXIT_FAILED, f"the records cannot be reached: {first_line(error)}")
    except (OSError, sqlite3.Error) as error:
        return _fail(console, EXIT_FAILED, f"the temporary folder cannot be used: {error}")
    except KeyboardInterrupt:
        return _fail(console, EXIT_INTERRUPTED, "interrupted")


def _fail(console: Console, exit_code: int, message: str) -> int:
    """Return the exit code, once the reason is printed."""
    console.finish()
    console.error("failure", f"kinto-attachment: {message}", message=message)
    return exit_code


def _log_without_traces() -> None:
    """Log each message of the plugin, such as a file that it cannot delete, in a line."""

    class Formatter(logging.Formatter):
        def formatException(self, ei: object) -> str:
            return ""

    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    logging.getLogger("kinto_attachment").setLevel(logging.WARNING)
