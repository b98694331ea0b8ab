"""The options that several subcommands have."""

import argparse
import os

from kinto_attachment.settings import casts


DEFAULT_GRACE_SECONDS = 3600


def add_ini(parser: argparse.ArgumentParser) -> None:
    """Add ``--ini``."""
    parser.add_argument(
        "--ini",
        default=default_ini(),
        help="the server's settings file (default: KINTO_INI from the environment, or "
        "config/kinto.ini)",
    )


def add_grace(parser: argparse.ArgumentParser) -> None:
    """Add ``--grace``."""
    parser.add_argument(
        "--grace",
        type=_duration,
        default=DEFAULT_GRACE_SECONDS,
        metavar="TIME",
        help="skip what is younger, as in 90s, 30m, 1h or 2d (default: 1h)",
    )


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add ``--dry-run``."""
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done, and do nothing"
    )


def default_ini() -> str:
    """Return the settings file that is used if none is named."""
    return os.getenv("KINTO_INI", "config/kinto.ini")


def positive(text: str) -> int:
    """Return the number in an option's text, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def web_url(text: str) -> str:
    """Return the URL in an option's text, without a slash at its end."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL with http:// or https://")
    return text.rstrip("/")


def _duration(text: str) -> int:
    try:
        return casts.duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
