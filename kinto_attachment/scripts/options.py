"""The options that both scripts have."""

import argparse
import logging
import urllib.parse
from typing import Any

from kinto_http import BearerTokenAuth, cli_utils


class _Parser(argparse.ArgumentParser):
    def add_argument(self, *names: Any, **options: Any) -> Any:
        # One of kinto_http's, without effect here: nothing is sent in batches.
        return None if "--ignore-batch-4xx" in names else super().add_argument(*names, **options)


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of kinto_http, and those of both scripts."""
    parser = _Parser(description=description)
    cli_utils.add_parser_options(parser, default_retry=5)
    parser.add_argument(
        "-j",
        "--jobs",
        type=positive_integer,
        default=4,
        help="Number of files transferred at once. (default: 4)",
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object per line.")
    return parser


def positive_integer(text: str) -> int:
    """Return the number in an option's text, at least 1."""
    return _number(text, 1)


def natural_number(text: str) -> int:
    """Return the number in an option's text, at least 0."""
    return _number(text, 0)


def _number(text: str, least: int) -> int:
    number = int(text)
    if number < least:
        raise ValueError(text)
    return number


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Return the valid options of a command line, and set up logging.

    :raises SystemExit: with code 2, the usage is wrong.
    """
    args = parser.parse_args(argv)
    for name in ("server", "bucket", "collection"):
        if not getattr(args, name):
            parser.error(f"--{name} is required")
    if not _is_web_url(args.server):
        parser.error("--server should be a URL, like https://kinto.example.com/v1")
    for name in ("server", "bucket", "collection"):
        if not _encodes(getattr(args, name), "utf-8"):
            parser.error(f"--{name} is not in the charset of the terminal")
    token = args.auth
    if isinstance(token, BearerTokenAuth) and not _encodes(f"{token.type}{token.token}", "ascii"):
        parser.error("--auth: a token is of ASCII characters (RFC 6750, section 2.1)")
    if args.retry < 0 or (args.retry_after or 0) < 0:
        parser.error("--retry and --retry-after cannot be negative")
    cli_utils.setup_logger(logging.getLogger(__package__), args)
    if args.verbosity == logging.DEBUG:
        cli_utils.setup_logger(logging.getLogger("urllib3"), args)
    return args


def _encodes(text: str, charset: str) -> bool:
    try:
        text.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


def _is_web_url(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)
