"""Download the attachments of a collection into a folder."""

import argparse
import contextlib

from kinto_attachment.scripts.collection import Collection
from kinto_attachment.scripts.downloader import Downloader
from kinto_attachment.scripts.folder import STATE, Folder
from kinto_attachment.scripts.options import make_parser, parse
from kinto_attachment.scripts.report import Report
from kinto_attachment.scripts.run import run
from kinto_attachment.scripts.state import State


def main(argv: list[str] | None = None) -> int:
    """Return the exit code of the script with these arguments."""
    parser = _make_parser()
    args = parse(parser, argv)
    source = [args.server.rstrip("/"), args.bucket, args.collection]
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(Folder(args.folder))
            state = State(folder, source, args.full)
        except (OSError, ValueError) as error:
            parser.error(f"--folder {args.folder}: {error}")
        return run(lambda *shared: _download(folder, state, *shared), args)


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Download the attachments of a collection into a folder. Only records that changed since "
        "the last run are requested."
    )
    parser.add_argument("-f", "--folder", default=".", help="Target folder. (default: %(default)s)")
    parser.add_argument(
        "--full",
        action="store_true",
        help="Request all records, as in the first run: missing files are restored.",
    )
    parser.add_argument(
        "--delete",
        action="store_true",
        help="Delete downloaded files that no record refers to any more.",
    )
    return parser


def _download(
    folder: Folder,
    state: State,
    args: argparse.Namespace,
    collection: Collection,
    report: Report,
) -> None:
    if folder.lost_state:
        report.warn(STATE, "is empty, as after a power failure, and is ignored")
    if not folder.is_locked:
        report.warn(
            str(folder.path), "cannot be locked: make sure that no other run downloads into it"
        )
    # First: from here on, the folder is for this collection.
    state.save()
    try:
        downloader = Downloader(folder, state, collection, report, args.delete)
        is_complete = downloader.download()
        if args.delete:
            is_complete = downloader.delete_obsolete() and is_complete
    finally:
        # After an interruption, the journal has what the threads still did.
        state.save()
    folder.journal.clear()
    state.timestamp = downloader.next_timestamp()
    state.save()
    if is_complete:
        folder.remove_partials()
