"""Console output of the command lines: lines for people or machines, a progress bar, exit codes.

It imports the standard library alone, since the scripts run where only kinto-http is installed.
"""

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, TypeVar


try:
    import tqdm
except ImportError:  # Only the extra "scripts" installs it.
    tqdm = None  # type: ignore[assignment]  # No bars are shown.


T = TypeVar("T")

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_ALLOWED = 3
EXIT_INTERRUPTED = 130


class OutputError(Exception):
    """The output cannot be written. (Not an ``OSError``, which may concern any other file.)

    :ivar is_closed: whether the reader of the output has closed it.
    """

    def __init__(self, error: OSError):
        super().__init__(f"the output cannot be written: {error}")
        self.is_closed = isinstance(error, BrokenPipeError)


def exit_code_of(work: Callable[[], int]) -> int:
    """Return the exit code that work returns, or 1 if its output cannot be written."""
    try:
        return work()
    except OutputError as error:
        if not error.is_closed:
            print(error, file=sys.stderr)
        # The interpreter flushes what is left, and that should not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


class Console:
    """Prints lines, counts them by kind, and shows a progress bar on a terminal.

    Any thread may move the bar. One thread prints.

    :param as_json: whether a line is a JSON object, of its kind and details.
    :param kind_key: the key of the kind in this object.
    :param quiet: whether errors alone are printed for people.
    :ivar counts: ``{kind: number of lines}``.
    """

    def __init__(self, as_json: bool, kind_key: str = "what", quiet: bool = False):
        self._as_json = as_json
        self._kind_key = kind_key
        self._quiet = quiet
        self._shows_bars = bool(tqdm and sys.stdout.isatty() and not as_json and not quiet)
        self._bar: Any = None
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def report(self, kind: str, line: str, /, **details: Any) -> None:
        """Print and count what was found or done."""
        self.counts[kind] += 1
        self.note(kind, line, **details)

    def note(self, kind: str, line: str, /, **details: Any) -> None:
        """Print something that is not counted."""
        if self._as_json:
            self._print_json(kind, details)
        elif not self._quiet:
            self._print(line, sys.stdout)

    def error(self, kind: str, line: str, /, **details: Any) -> None:
        """Print an error: for people to the standard error, also if the console is quiet."""
        if self._as_json:
            self._print_json(kind, details)
        else:
            self._print(line, sys.stderr)

    def end(self, line: str = "", /, **details: Any) -> None:
        """Remove the bar, and print a summary: for people a line and the counts."""
        self.finish()
        counts = ", ".join(f"{number} {kind}" for kind, number in self.counts.items())
        self.note("summary", "; ".join(filter(None, [line, counts])) or "Nothing to do", **details)

    def track(self, what: str, items: Iterable[T]) -> Iterator[T]:
        """Return the items, while a bar counts them."""
        self.begin(what, unit=f" {what}")
        for item in items:
            self.advance(1)
            yield item
        self.finish()

    def begin(
        self, what: str | None, total: int | None = None, unit: str = "B", keep: bool = False
    ) -> None:
        """Show a bar.

        :param total: the number of units, or ``None`` if it is unknown.
        :param keep: whether the bar remains on the terminal when it is finished.
        """
        self.finish()
        if self._shows_bars:
            in_bytes = unit == "B"
            self._bar = tqdm.tqdm(
                desc=what,
                total=total,
                unit=unit,
                unit_scale=in_bytes,
                unit_divisor=1024 if in_bytes else 1000,
                file=sys.stdout,
                leave=keep,
            )

    def expect(self, count: int) -> None:
        """Add to the total of the bar (or subtract from it, if the count is negative)."""
        with self._lock:
            if self._bar is not None:
                self._bar.total += count
                self._bar.refresh()

    def advance(self, count: int) -> None:
        """Move the bar (back, if the count is negative)."""
        with self._lock:
            if self._bar is not None:
                self._bar.update(count)

    def finish(self) -> None:
        """Finish the bar."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    def _print_json(self, kind: str, details: dict[str, Any]) -> None:
        self._write(json.dumps({self._kind_key: kind, **details}), sys.stdout)

    def _print(self, line: str, file: TextIO) -> None:
        # Nothing else than text reaches the terminal.
        self._write(
            "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line),
            file,
        )

    def _write(self, line: str, file: TextIO) -> None:
        encoding = file.encoding or "ascii"
        line = line.encode(encoding, "backslashreplace").decode(encoding)
        try:
            if self._bar is not None:
                self._bar.write(line, file=file)
            else:
                # In one piece: an interruption may come between two.
                print(f"{line}\n", end="", file=file, flush=True)
        except OSError as error:
            raise OutputError(error) from error
