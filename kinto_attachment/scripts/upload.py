"""Upload files as the attachments of records."""

import argparse
import os

from kinto_attachment.scripts.collection import Collection
from kinto_attachment.scripts.options import make_parser, natural_number, parse
from kinto_attachment.scripts.report import Report
from kinto_attachment.scripts.run import run
from kinto_attachment.scripts.selection import LocalFile, Selection, pattern
from kinto_attachment.scripts.uploader import Uploader


def main(argv: list[str] | None = None) -> int:
    """Return the exit code of the script with these arguments."""
    parser = _make_parser()
    args = parse(parser, argv)
    for path in args.files:
        if os.path.isdir(path) and not args.recursive:
            parser.error(f"{path} is a folder (see --recursive)")
    return run(lambda *shared: _upload(parser, *shared), args)


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Upload files as the attachments of records. Unchanged files are not sent."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="File or folder to upload.")
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="Upload the files in folders."
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        type=pattern,
        metavar="PATTERN",
        help="Skip files and folders whose name matches (like `*.tmp`). A pattern with slashes "
        "matches the path in the folder. Can be repeated.",
    )
    parser.add_argument("--force", action="store_true", help="Send all files, also unchanged ones.")
    parser.add_argument(
        "--gzip",
        action="store_true",
        help="Compress files, and describe the originals in `original`.",
    )
    parser.add_argument(
        "--keep-filenames",
        action="store_true",
        help="Ask the server to store files under their own names, if it allows that.",
    )
    parser.add_argument(
        "--resume-above",
        type=natural_number,
        default=64,
        metavar="MIB",
        help="Send files larger than this so that another run can go on if this one is interrupted."
        " (default: 64)",
    )
    parser.add_argument(
        "--delete",
        action="store_true",
        help="Delete the records of uploaded files that are no longer among these files.",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="Print what would be done, and do nothing."
    )
    return parser


def _upload(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    collection: Collection,
    report: Report,
) -> None:
    selection = Selection(args.files, args.exclude, report)
    files = selection.files
    _refuse_equal_names(parser, files)
    report.expect(sum(file.size for file in files))
    if not args.dry_run:
        collection.create_if_missing()
    uploader = Uploader(args, collection, report)
    all_sent = uploader.upload(files)
    if args.delete:
        reason = _reason_to_keep(files, selection.complete, all_sent)
        if reason:
            report.warn("--delete", f"nothing is deleted, since {reason}")
        else:
            uploader.delete_all_but({file.record_id for file in files}, selection)


def _reason_to_keep(files: list[LocalFile], complete: bool, all_sent: bool) -> str | None:
    """Return why no record should be deleted, or ``None``: a missing file may still exist."""
    if not complete:
        return "not all files could be found"
    if not files:
        return "there are no files"
    return None if all_sent else "not all files could be sent"


def _refuse_equal_names(parser: argparse.ArgumentParser, files: list[LocalFile]) -> None:
    paths: dict[str, str] = {}
    for file in files:
        if file.name in paths:
            first = paths[file.name]
            parser.error(f"{first} and {file.path} would both be the record of {file.name!r}")
        paths[file.name] = file.path
