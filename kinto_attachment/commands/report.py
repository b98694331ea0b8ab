"""What a command says: lines for people or machines, a bar on a terminal."""

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any


try:
    import tqdm
except ImportError:  # Only the extra "scripts" brings it.
    tqdm = None


class Report:
    """Prints what was found and done, and counts it.

    :ivar counts: ``{what: how often}``.
    """

    def __init__(self, as_json: bool):
        self._as_json = as_json
        on_terminal = sys.stdout.isatty() and not as_json
        self._with_bar = bool(on_terminal and tqdm)
        self._bar: Any = None
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def tell(self, what: str, line: str, **details: Any) -> None:
        """Tell one thing that was found or done.

        :param what: its name, by which it is counted.
        :param details: more for machines.
        """
        self.counts[what] += 1
        self._print(line, {"what": what, **details})

    def note(self, line: str, **details: Any) -> None:
        """Tell something that is not counted."""
        self._print(line, details)

    def watched(self, what: str, items: Iterable[Any]) -> Iterator[Any]:
        """Return the items, while a bar counts them."""
        self.begin(what, unit=f" {what}")
        for item in items:
            self.advance(1)
            yield item
        self.finish()

    def begin(self, what: str, total: int | None = None, unit: str = "B") -> None:
        """Start a bar, of so many units or of an unknown number."""
        self.finish()
        if self._with_bar:
            in_bytes = {"unit_scale": True, "unit_divisor": 1024} if unit == "B" else {}
            self._bar = tqdm.tqdm(
                desc=what, total=total, unit=unit, file=sys.stdout, leave=False, **in_bytes
            )

    def advance(self, count: int) -> None:
        """Move the bar by so many units. (Threads may do that.)"""
        with self._lock:
            if self._bar is not None:
                self._bar.update(count)

    def finish(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def end(self, line: str = "", **details: Any) -> None:
        """Sum up."""
        self.finish()
        counts = ", ".join(f"{number} {what}" for what, number in self.counts.items())
        summary = "; ".join(filter(None, [line, counts]))
        self._print(summary, {"what": "summary", **details, "counts": dict(self.counts)})

    def fail(self, message: str) -> None:
        """Tell why the command ends here."""
        self.finish()
        if self._as_json:
            print(json.dumps({"what": "failure", "message": message}), flush=True)
        else:
            print(f"kinto-attachment: {_printable(message)}", file=sys.stderr, flush=True)

    def _print(self, line, details):
        line = json.dumps(details) if self._as_json else _printable(line)
        encoding = sys.stdout.encoding or "ascii"
        line = line.encode(encoding, "backslashreplace").decode(encoding)
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)


def _printable(text):
    """Return text that does nothing to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
