"""The report of a script: what happened to which file."""

import argparse
import logging
from typing import Any

from kinto_attachment.console import EXIT_FAILED, EXIT_NOT_ALLOWED, EXIT_OK, Console
from kinto_attachment.scripts.errors import NotAllowed


class Report(Console):
    """A console on which a line is about a file, with a bar for the bytes of all files."""

    def __init__(self, args: argparse.Namespace):
        level = args.verbosity or logging.WARNING
        super().__init__(args.json, kind_key="action", quiet=level >= logging.CRITICAL)
        self._prints_all = args.json or level <= logging.INFO
        self._refused = 0
        self.begin(None, total=0, keep=True)

    def done(self, action: str, name: str, **details: Any) -> None:
        """Print what was done to a file, if a bar does not show enough of that."""
        if self._prints_all or (self._bar is None and action != "unchanged"):
            self.report(action, f"{action.capitalize()} {name}", name=name, **details)
        else:
            self.counts[action] += 1

    def warn(self, name: str, message: str) -> None:
        """Print what the user may not expect."""
        self.error("warning", f"{name}: {message}", name=name, message=message)

    def failed(self, name: str | None, failure: Exception) -> None:
        """Print and count the failure of a file, or of the whole run if it has no name."""
        self.counts["failed"] += 1
        self._refused += isinstance(failure, NotAllowed)
        # The other text has the path as well.
        reason = failure.strerror if name and isinstance(failure, OSError) else None
        message = reason or str(failure)
        line = f"{name}: {message}" if name else message
        self.error("failed", line, name=name, message=message)

    def interrupted(self) -> None:
        """Print that the user interrupted the script."""
        self.error("interrupted", "interrupted", name=None, message="interrupted")
        self.summarize()

    def summarize(self) -> None:
        """Print the counts."""
        self.end(**self.counts)

    @property
    def exit_code(self) -> int:
        """The exit code: 3 if all failures are refusals of the server."""
        if not self.counts["failed"]:
            return EXIT_OK
        return EXIT_NOT_ALLOWED if self._refused == self.counts["failed"] else EXIT_FAILED
