"""The selection of local files to upload, under the names of their records."""

import fnmatch
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.folder import PARTIALS, STATE
from kinto_attachment.scripts.names import last_part, record_id
from kinto_attachment.scripts.report import Report


JUNK = (
    # By file managers.
    ".ds_store",
    "._*",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    ".directory",
    # By editors and office programs: locks, and unsaved changes.
    ".#*",
    "~$*",
    ".~lock.*#",
    ".*.sw[a-p]",
    "*~",
    # By file systems: deleted files, and the contents of root folders.
    ".nfs*",
    ".fuse_hidden*",
    ".trash",
    ".trash-*",
    ".trashes",
    ".spotlight-v100",
    ".fseventsd",
    "$recycle.bin",
    "system volume information",
    "lost+found",
)
"""Patterns, in lower case, of the names of files that programs leave for themselves."""

NAMES_IN_A_LINE = 3


@dataclass(frozen=True)
class LocalFile:
    """A file to upload.

    :ivar name: the path in the folder of the command line, or the filename. It identifies the file.
    :ivar size: in bytes, for the progress only.
    """

    name: str
    path: str
    size: int

    @property
    def record_id(self) -> str:
        """The id of the record that has the file, the same in every run."""
        return record_id(self.name)


class Selection:
    """The files to upload. Those that are skipped or missing are reported.

    :param paths: of files and folders.
    :param excluded: patterns of names to skip.
    :ivar complete: whether the files are all that were asked for.
    """

    def __init__(self, paths: Iterable[str], excluded: Iterable[str], report: Report):
        self.files: list[LocalFile] = []
        self.complete = True
        self._excluded = tuple(excluded)
        self._report = report
        self._linked: tuple[str, ...] = ()
        self._skipped: list[str] = []
        self._special: list[str] = []
        for path in paths:
            name = os.path.basename(path)
            if os.path.isdir(path):
                self._add_folder(path)
            elif _matches(name, self._excluded):
                self._skipped.append(name)
            else:
                self._add_file(name, path)
        self._summarize(self._skipped, "skipped, as junk of other programs or excluded")
        self._summarize(self._special, "skipped, as neither files nor folders")

    def skips(self, name: str) -> bool:
        """Return whether files of this name are excluded, junk, or behind a link to a folder."""
        parts = name.split("/")
        return (
            name.startswith(self._linked)
            or any(_is_junk(part) for part in parts)
            or any(_matches("/".join(parts[: i + 1]), self._excluded) for i in range(len(parts)))
        )

    def _add_folder(self, root: str) -> None:
        for folder, subfolders, filenames in os.walk(root, onerror=self._fail_folder):
            if folder == root:
                # What the download script keeps in its folder.
                subfolders[:] = [name for name in subfolders if name != PARTIALS]
                filenames[:] = [name for name in filenames if name != STATE]
            for names in (subfolders, filenames):
                names[:] = [name for name in sorted(names) if self._keeps(root, folder, name)]
            for filename in filenames:
                path = os.path.join(folder, filename)
                name = _name_in(root, path)
                if _is_special(path):
                    self._special.append(name)
                else:
                    self._add_file(name, path)
            for subfolder in subfolders:
                path = os.path.join(folder, subfolder)
                if os.path.islink(path):
                    # Links may go in circles.
                    name = _name_in(root, path)
                    self._report.warn(name, "is a link to a folder, and not followed")
                    self._linked += (f"{name}/",)

    def _keeps(self, root: str, folder: str, filename: str) -> bool:
        """Return whether a file or folder is uploaded. If not, it is recorded as skipped."""
        name = _name_in(root, os.path.join(folder, filename))
        if _is_junk(filename) or _matches(name, self._excluded):
            self._skipped.append(name)
            return False
        return True

    def _add_file(self, name: str, path: str) -> None:
        try:
            if not os.path.isfile(path):
                raise Failure("is not a file" if os.path.exists(path) else "does not exist")
            name.encode()
            self.files.append(LocalFile(name, path, os.path.getsize(path)))
        except UnicodeEncodeError:
            self._fail(name, Failure("its name is not UTF-8"))
        except (OSError, Failure) as error:
            self._fail(name, error)

    def _fail_folder(self, error: OSError) -> None:
        self._fail(str(error.filename), error)

    def _fail(self, name: str, error: Failure | OSError) -> None:
        self.complete = False
        self._report.failed(name, error)

    def _summarize(self, names: list[str], reason: str) -> None:
        """Print which files were skipped, in one line."""
        if names:
            more = len(names) - NAMES_IN_A_LINE
            some = ", ".join(names[:NAMES_IN_A_LINE]) + (f" and {more} more" if more > 0 else "")
            message = f"{some}: {reason}"
            self._report.note("skipped", message, name=None, names=names, message=message)


def _is_special(path: str) -> bool:
    """Return whether there is a socket, a pipe or a device, also behind a link."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_junk(filename: str) -> bool:
    return any(fnmatch.fnmatchcase(filename.lower(), pattern) for pattern in JUNK)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a pattern matches a name: its last part, or all of it if the pattern has
    slashes."""
    return any(
        fnmatch.fnmatchcase(name, pattern.removeprefix("/"))
        if "/" in pattern
        else fnmatch.fnmatchcase(last_part(name), pattern)
        for pattern in patterns
    )


def pattern(text: str) -> str:
    """Return the pattern in an option's text, without slashes at its end.

    :raises ValueError: it is empty.
    """
    stripped = text.rstrip("/")
    if not stripped:
        raise ValueError(text)
    return stripped


def _name_in(folder: str, path: str) -> str:
    return os.path.relpath(path, folder).replace(os.sep, "/")
