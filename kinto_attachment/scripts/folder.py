"""The folder of the downloaded files."""

import contextlib
import hashlib
import json
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any

from kinto_attachment.scripts import disk
from kinto_attachment.scripts.content import sha256
from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.journal import Journal
from kinto_attachment.scripts.lock import LockFile, make_real_folder
from kinto_attachment.scripts.names import check_part


STATE = ".last_sync"
PARTIALS = ".partial"
"""What the script keeps in the folder for itself, beside the files."""

PARTIAL_NAME = re.compile(r"[0-9a-f]{64}")
COPY_NAME = re.compile(re.escape(disk.COPY_PREFIX) + "[0-9a-f]{64}", re.IGNORECASE)
MAX_PARTS = 100


class Obstructed(Failure):
    """Something in the folder is in the way of a file."""


class Folder:
    """The folder of the files. No name from a server escapes it, nor through symbolic links.

    It is a context, in which no other run uses the folder.

    :ivar journal: of what is about to be moved into the folder.
    :ivar lost_state: whether a power failure has emptied the saved state.
    :ivar is_locked: whether other runs are kept out, which depends on the file system.
    :raises OSError: it cannot be made.
    :raises ValueError: another run uses it.
    """

    def __init__(self, path: str):
        self.lost_state = False
        self.path = Path(path).resolve()
        self.path.mkdir(parents=True, exist_ok=True)
        self._unsynced: set[Path] = set()
        self._partials = self.path / PARTIALS
        self.journal = Journal(self._partials / "journal")
        self._lock = LockFile(self._partials / "lock")
        self.is_locked = self._lock.is_effective
        try:
            self._remove_copies()
            # macOS and Windows: names that differ here may be one file there.
            self._ignores_case = (self.path / PARTIALS.upper()).exists()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._lock.release()

    # Names

    def key(self, name: str) -> str:
        """Return a key that is equal for all names of one file."""
        return unicodedata.normalize("NFC", name).casefold() if self._ignores_case else name

    def check(self, name: str) -> None:
        """Return if a file of this name belongs into the folder.

        :raises Failure: the name escapes the folder, or is reserved for the script.
        """
        parts = name.split("/")
        for part in parts:
            check_part(part)
        if len(parts) > MAX_PARTS:
            raise Failure("has too long a path")
        if parts[0].casefold() in (STATE, PARTIALS) or COPY_NAME.fullmatch(parts[-1]):
            raise Failure("has a name that is reserved for the script")

    def target(self, name: str) -> Path:
        """Return the path for a file of this name.

        :raises Obstructed: there is something else than a file, or than a folder above it.
        :raises Failure: the name escapes the folder, or is reserved for the script.
        :raises OSError: the file system does not allow the name.
        """
        self.check(name)
        *parents, _ = parts = name.split("/")
        for number in range(1, len(parents) + 1):
            if not stat.S_ISDIR(_mode(self.path.joinpath(*parts[:number])) or stat.S_IFDIR):
                above = "/".join(parts[:number])
                raise Obstructed(f"{above} is not a folder but a file or a link")
        path = self.path.joinpath(*parts)
        if not stat.S_ISREG(_mode(path) or stat.S_IFREG):
            raise Obstructed("a folder or a link has its name")
        return path

    # Files

    def has(self, name: str, hash_: str) -> bool:
        """Return whether the file of this name has this content."""
        try:
            return _hash(self.target(name)) == hash_
        except (OSError, Failure):
            return False

    def move(self, partial: Path, name: str) -> None:
        """Give a complete file its name, in one step. Any thread may do that.

        :raises Failure: the name has become invalid.
        :raises OSError: the file cannot have it.
        """
        target = self.target(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        disk.sync(partial)
        disk.replace(partial, target)
        # All folders above may be new.
        self._unsynced.update(
            folder for folder in target.parents if folder.is_relative_to(self.path)
        )

    def remove(self, name: str, hash_: str) -> bool:
        """Return whether a file was there, which is removed, with the folders that become empty.

        :param hash_: of the content that may be removed.
        :raises Failure: it has another content, or is no file.
        :raises OSError: it cannot be removed.
        """
        target = self.target(name)
        try:
            if _hash(target) != hash_:
                raise Failure("was changed since it was downloaded")
            target.unlink()
        except FileNotFoundError:
            return False
        with contextlib.suppress(OSError):
            for parent in list(target.relative_to(self.path).parents)[:-1]:
                (self.path / parent).rmdir()
        return True

    def partial(self, *key: str) -> Path:
        """Return the path for an incomplete file, the same in every run."""
        return self._partials / hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def remove_partials(self) -> None:
        """Remove the files that were never completed."""
        for path in self._partials.iterdir():
            if PARTIAL_NAME.fullmatch(path.name):
                path.unlink()

    # State

    def load_state(self) -> Any:
        """Return the saved JSON value, or ``None`` if there is none, or a power failure took it.

        :raises ValueError: it is something else.
        """
        try:
            saved = (self.path / STATE).read_bytes()
            # File systems leave zeros in a file that was written shortly before a power failure.
            self.lost_state = not saved.strip(b"\0")
            return None if self.lost_state else json.loads(saved)
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{STATE} is not JSON ({error})") from error

    def save_state(self, state: Any) -> None:
        """Save a JSON value in one step, after all files that were moved before."""
        make_real_folder(self._partials)
        while self._unsynced:
            with contextlib.suppress(FileNotFoundError):
                disk.sync_folder(self._unsynced.pop())
        new = self._partials / "state"
        new.write_text(json.dumps(state))
        disk.sync(new)
        disk.replace(new, self.path / STATE)
        disk.sync_folder(self.path)

    def _remove_copies(self) -> None:
        """Remove the copies that a killed run has left."""
        for entry in self.journal.entries():
            with contextlib.suppress(OSError, Failure):
                disk.copy_path(self.target(entry.name)).unlink()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return sha256(file)


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None
