"""Which local files are to be uploaded, and under which names."""

import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kinto_attachment.scripts.common import PARTIALS, STATE, Failure, Report, as_failure
from kinto_attachment.scripts.names import record_id


LITTER = (
    # Of file managers.
    ".ds_store",
    "._*",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    ".directory",
    # Of editors and office programs: locks, and what they have not saved yet.
    ".#*",
    "~$*",
    ".~lock.*#",
    ".*.sw[a-p]",
    "*~",
    # Of file systems: deleted files, and what volumes have in their root folders.
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
"""Patterns of names, in lower case, that programs leave in folders for themselves."""

NAMES_IN_A_LINE = 3


@dataclass(frozen=True)
class LocalFile:
    """A file to upload.

    :ivar name: what makes it the same file: its path in the folder that was given, or its filename.
    :ivar size: in bytes, for the progress only.
    """

    name: str
    path: str
    size: int

    @property
    def record_id(self) -> str:
        """The id of the record that has the file, the same at all times."""
        return record_id(self.name)


@dataclass
class Selection:
    """The files to upload, and what was not looked for.

    :ivar complete: whether the files are all that were asked for.
    :ivar linked: how the names of files behind links to folders begin.
    """

    excluded: tuple[str, ...]
    files: list[LocalFile] = field(default_factory=list)
    complete: bool = True
    linked: tuple[str, ...] = ()

    def leaves_out(self, name: str) -> bool:
        """Return whether files of this name are not looked for."""
        return name.startswith(self.linked) or _is_left_out(name, self.excluded)


def select(paths: Iterable[str], excluded: Iterable[str], report: Report) -> Selection:
    """Return the files of the command line, and those in its folders.

    :param excluded: patterns of names to leave out.
    """
    selection = Selection(tuple(excluded))
    left_out: list[str] = []
    special: list[str] = []
    for name, path, is_named in _walk(paths, selection.excluded, left_out):
        if path is None:
            report.warn(name, "is a link to a folder, and not followed")
            selection.linked += (f"{name}/",)
        elif isinstance(path, OSError):
            selection.complete = False
            report.failed(name, as_failure(path))
        elif not is_named and _is_special(path):
            special.append(name)
        else:
            _add(selection, name, path, report)
    for names, what in (
        (left_out, "left out, as litter of other programs or excluded"),
        (special, "left out, since they are neither files nor folders"),
    ):
        if names:
            report.left_out(names, f"{_enumeration(names)}: {what}")
    return selection


def _add(selection, name, path, report):
    try:
        if not os.path.isfile(path):
            raise Failure("is not a file" if os.path.exists(path) else "does not exist")
        _check_name(name)
        selection.files.append(LocalFile(name, path, os.path.getsize(path)))
    except (OSError, Failure) as error:
        selection.complete = False
        report.failed(name, as_failure(error))


def _is_special(path):
    """Return whether there is a socket, a pipe or a device, also behind a link."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _walk(
    paths: Iterable[str], excluded: tuple[str, ...], left_out: list[str]
) -> Iterator[tuple[str, Any, bool]]:
    """Yield the name and the path of every file, and whether it was named itself. Instead of the
    path, there is the ``OSError`` of a folder that cannot be read, and ``None`` for a link to a
    folder: these may go in circles.

    :param left_out: gets the names of files and folders that were met and left out.
    """
    for path in paths:
        if not os.path.isdir(path):
            name = os.path.basename(path)
            if _matches(name, excluded):
                left_out.append(name)
            else:
                yield name, path, True
            continue
        errors: list[OSError] = []
        for folder, subfolders, filenames in os.walk(path, onerror=errors.append):
            if folder == path:
                _leave_out_what_is_not_content(subfolders, filenames)
            for names in (subfolders, filenames):
                names[:] = _kept(path, folder, names, excluded, left_out)
            for filename in filenames:
                found = os.path.join(folder, filename)
                yield _name_in(path, found), found, False
            for subfolder in subfolders:
                found = os.path.join(folder, subfolder)
                if os.path.islink(found):
                    yield _name_in(path, found), None, False
        for error in errors:
            yield str(error.filename), error, False


def _kept(root, folder, filenames, excluded, left_out):
    """Return, sorted, those names in a folder that are not left out."""
    kept = []
    for filename in sorted(filenames):
        name = _name_in(root, os.path.join(folder, filename))
        if _is_litter(filename) or _matches(name, excluded):
            left_out.append(name)
        else:
            kept.append(filename)
    return kept


def _is_left_out(name, excluded):
    parts = name.split("/")
    if any(_is_litter(part) for part in parts):
        return True
    return any(_matches("/".join(parts[:number]), excluded) for number in range(1, len(parts) + 1))


def _is_litter(filename):
    return any(fnmatch.fnmatchcase(filename.lower(), pattern) for pattern in LITTER)


def _matches(name, patterns):
    """Return whether a pattern matches a name: its last part, or all of it where the pattern has
    slashes."""
    filename = name.rpartition("/")[2]
    return any(
        fnmatch.fnmatchcase(name, pattern.removeprefix("/"))
        if "/" in pattern
        else fnmatch.fnmatchcase(filename, pattern)
        for pattern in patterns
    )


def pattern(text: str) -> str:
    """Return the pattern in an option's text. A slash at its end says nothing more.

    :raises ValueError: it is empty.
    """
    stripped = text.rstrip("/")
    if not stripped:
        raise ValueError(text)
    return stripped


def _enumeration(names):
    more = len(names) - NAMES_IN_A_LINE
    text = ", ".join(names[:NAMES_IN_A_LINE])
    return f"{text} and {more} more" if more > 0 else text


def _name_in(folder, path):
    return os.path.relpath(path, folder).replace(os.sep, "/")


def _leave_out_what_is_not_content(subfolders, filenames):
    """Forget what the download script keeps in its folder."""
    for names, name in ((subfolders, PARTIALS), (filenames, STATE)):
        if name in names:
            names.remove(name)


def _check_name(name):
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise Failure("its name is not UTF-8") from error
