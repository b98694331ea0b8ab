"""The journal of a run, with the files that it was about to put into place."""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """The file of a record.

    :ivar hash: SHA-256 of its content.
    """

    record_id: str
    name: str
    hash: str


class Journal:
    """A file of entries, which outlives a run that is killed."""

    def __init__(self, path: Path):
        self._path = path

    def entries(self) -> list[Entry]:
        """Return the entries of runs that did not finish."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in self._path.read_bytes().splitlines():
                # It may be incomplete.
                with contextlib.suppress(ValueError, RecursionError):
                    values = json.loads(line)
                    if isinstance(values, list) and list(map(type, values)) == [str] * 3:
                        found.append(Entry(*values))
        return found

    def append(self, entry: Entry) -> None:
        """Append an entry. Any thread may do that.

        :raises OSError: it cannot be written.
        """
        # On a line of its own, even if the one before is incomplete.
        line = f"\n{json.dumps(entry)}".encode()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(self._path, flags, 0o666)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        """Remove all entries."""
        self._path.unlink(missing_ok=True)
