"""Download the attachments of a collection into a folder."""

import argparse
import contextlib
import errno
import gzip
import hashlib
import json
import os
import re
import shutil
import stat
import threading
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kinto_attachment.scripts.common import (
    CHUNK_BYTES,
    DESCRIPTION_FIELDS,
    PARTIALS,
    STATE,
    TRANSIENT_ERRORS,
    Collection,
    Content,
    Failure,
    Http,
    Report,
    absolute_location,
    as_failure,
    attachment_of,
    check_status,
    content_of,
    holds,
    in_parallel,
    make_parser,
    original_of,
    parse,
    run,
    sha256,
)
from kinto_attachment.scripts.names import check_filename, check_part, is_path_of


try:
    import fcntl
except ImportError:  # On Windows.
    fcntl = None


RECORD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
PARTIAL_NAME = re.compile(r"[0-9a-f]{64}")
COPY_NAME = re.compile(r"\.partial-[0-9a-f]{64}", re.IGNORECASE)
NO_LOCKS = {errno.EINVAL, errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, 524}
"""What file systems without locks answer; the last is Linux's own ENOTSUPP."""

LOCKS = 64
MAX_FOLDERS = 100
HAS_ATTACHMENT = {"has_attachment.hash": "true"}
"""Kinto's filter for records with a file."""


def main(argv: list[str] | None = None) -> int:
    """Download what the command line asks for, and return the exit code."""
    parser = _make_parser()
    args = parse(parser, argv)
    source = [args.server.rstrip("/"), args.bucket, args.collection]
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(Folder(args.folder))
            state = State(folder, source, args.full)
        except (OSError, ValueError) as error:
            parser.error(f"--folder {args.folder}: {error}")
        return run(lambda *shared: _download_all(folder, state, *shared), args)


def _make_parser():
    parser = make_parser(
        "Download the attachments of a collection into a folder. Only records that changed since "
        "the last time are asked for.",
    )
    parser.add_argument("-f", "--folder", default=".", help="Where to. (default: %(default)s)")
    parser.add_argument(
        "--full",
        action="store_true",
        help="Ask for all records, as the first time: files that are missing come back.",
    )
    parser.add_argument(
        "--delete",
        action="store_true",
        help="Delete downloaded files whose records have them no more.",
    )
    return parser


def _download_all(
    folder: "Folder",
    state: "State",
    args: argparse.Namespace,
    collection: Collection,
    report: Report,
) -> None:
    if folder.state_was_lost:
        report.warn(STATE, "is empty, as after a power cut, and counts as none")
    if not folder.is_locked:
        report.warn(str(folder.path), "cannot be locked: let no other run download into it")
    downloader = Downloader(args.jobs, args.delete, folder, state, collection, report)
    # First: from here on, the files are those of this collection.
    state.save()
    try:
        complete = downloader.download()
        if args.delete:
            complete = downloader.delete_gone() and complete
    finally:
        # After an interruption, what the threads were at is in the journal.
        state.save()
    folder.forget_journal()
    state.timestamp = downloader.next_timestamp()
    state.save()
    if complete:
        folder.remove_partials()


class InTheWay(Failure):
    """Something in the folder is in the way of a file."""


class Folder:
    """The folder of the files. No name from a server leads out of it, through links neither.

    As a context, it is closed at the end: until then, no other run has it.

    :ivar state_was_lost: whether a power cut has left nothing of what was saved.
    :ivar is_locked: whether the file system has locks to see to that.
    :raises OSError: it cannot be made.
    :raises ValueError: another run has it.
    """

    def __init__(self, path: str):
        self.state_was_lost = False
        self._unsynced: set[Path] = set()
        self.path = Path(path).resolve()
        self._partials = self.path / PARTIALS
        self._journal = self._partials / "journal"
        self._lock = self._partials / "lock"
        self.is_locked = True
        self.path.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._locked()
        try:
            self._remove_copies()
            # macOS and Windows: names that differ here may be one file there.
            self._one_case = (self.path / PARTIALS.upper()).exists()
        except BaseException:
            self.close()
            raise

    def key(self, name: str) -> str:
        """Return what is equal for names that are one file."""
        return unicodedata.normalize("NFC", name).casefold() if self._one_case else name

    def target(self, name: str) -> Path:
        """Return the path for a file of this name.

        :raises InTheWay: there is something else than a file, or than a folder above it.
        :raises Failure: the name leads out of the folder or is one of the script's own.
        :raises OSError: it cannot be a name here.
        """
        self.check(name)
        parts = name.split("/")
        for number in range(1, len(parts)):
            parent = self.path.joinpath(*parts[:number])
            if not stat.S_ISDIR(_mode(parent) or stat.S_IFDIR):
                raise InTheWay(f"{'/'.join(parts[:number])} is not a folder but a file or a link")
        path = self.path.joinpath(*parts)
        if not stat.S_ISREG(_mode(path) or stat.S_IFREG):
            raise InTheWay("there is a folder or a link of its name")
        return path

    def check(self, name: str) -> None:
        """Go on where a file of this name stays in the folder.

        :raises Failure: the name leads out of it or is one of the script's own.
        """
        parts = name.split("/")
        for part in parts:
            check_part(part)
        if len(parts) > MAX_FOLDERS:
            raise Failure("has too long a path")
        if parts[0].casefold() in (STATE, PARTIALS):
            raise Failure("has a name that the script keeps for itself")
        if COPY_NAME.fullmatch(parts[-1]):
            raise Failure("has a name that the script keeps for itself")

    def move(self, partial: Path, name: str) -> None:
        """Give a complete file its name, in one step.

        :raises Failure: the name is not one for here (any more).
        :raises OSError: the file cannot have it.
        """
        target = self.target(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        _sync(partial)
        _replace(partial, target)
        # All above, which may be new. Threads may do this at once.
        self._unsynced.update(
            folder for folder in target.parents if folder.is_relative_to(self.path)
        )

    def remove(self, name: str, hash_: str) -> bool:
        """Remove a file, with the folders that it was the last one in. Return whether it was there.

        :param hash_: that of what may be removed.
        :raises Failure: it has another content, or is no file.
        :raises OSError: it cannot be removed.
        """
        target = self.target(name)
        try:
            with target.open("rb") as file:
                if sha256(file) != hash_:
                    raise Failure("was changed since it was downloaded")
            target.unlink()
        except FileNotFoundError:
            return False
        with contextlib.suppress(OSError):
            for parent in list(target.relative_to(self.path).parents)[:-1]:
                (self.path / parent).rmdir()
        return True

    def has(self, name: str, hash_: str) -> bool:
        """Return whether the file of this name has this content."""
        try:
            with self.target(name).open("rb") as file:
                return sha256(file) == hash_
        except (OSError, Failure):
            return False

    def partial(self, *key: str) -> Path:
        """Return the path for a file that is not complete, the same in every run."""
        return self._partials / hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def remove_partials(self) -> None:
        """Remove what there is of files that were not completed."""
        for path in self._partials.iterdir():
            if PARTIAL_NAME.fullmatch(path.name):
                path.unlink()
        with contextlib.suppress(OSError):
            self._partials.rmdir()

    def state(self) -> Any:
        """Return what :meth:`save_state` saved, or ``None``: also where a power cut took it.

        :raises ValueError: there is something else.
        """
        try:
            saved = (self.path / STATE).read_bytes()
            # So file systems leave a file that was written shortly before a power cut.
            self.state_was_lost = not saved.strip(b"\0")
            return None if self.state_was_lost else json.loads(saved)
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{STATE} is not JSON ({error})") from error

    def save_state(self, state: Any) -> None:
        """Save a JSON value, in one step, with all files that were moved before."""
        self._make_partials()
        self._sync_folders()
        new = self._partials / "state"
        with new.open("w") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        _replace(new, self.path / STATE)
        _sync_folder(self.path)

    def journal(self) -> list[list[str]]:
        """Return what was written down by runs that did not come to their end."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in self._journal.read_bytes().splitlines():
                # One may not be whole.
                with contextlib.suppress(ValueError, RecursionError):
                    values = json.loads(line)
                    if isinstance(values, list) and list(map(type, values)) == [str] * 3:
                        found.append(values)
        return found

    def forget_journal(self) -> None:
        """Forget what was written down."""
        self._journal.unlink(missing_ok=True)

    def write_down(self, record_id: str, name: str, hash_: str) -> None:
        """Append to the journal what is about to be the file of a record. Any thread may do that.

        :raises OSError: it cannot be written.
        """
        # In a line of its own, whatever is left of one before.
        line = f"\n{json.dumps([record_id, name, hash_])}".encode()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(self._journal, flags, 0o666)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self) -> None:
        """Let another run have the folder."""
        with contextlib.suppress(OSError):
            self._lock.unlink(missing_ok=True)
            self._partials.rmdir()
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _locked(self):
        """Return a descriptor of the file that is locked. (Windows has no such.)

        Not of the folder: NFSv4 locks only what is open for writing (flock(2), "NFS details").
        """
        self._make_partials()
        while fcntl is not None:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self._lock, flags, 0o666)
                try:
                    self._lock_descriptor(descriptor)
                    # The run that had it before may have removed it since it was opened.
                    if os.path.samestat(os.fstat(descriptor), self._lock.stat()):
                        return descriptor
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
            self._make_partials()
        return None

    def _lock_descriptor(self, descriptor):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError("another run downloads into it") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self.is_locked = False

    def _remove_copies(self):
        """Remove the copies that a run has left which was killed."""
        for _, name, _ in self.journal():
            with contextlib.suppress(OSError, Failure):
                _copy_for(self.target(name)).unlink()

    def _sync_folders(self):
        """Have the names of the files on the disk: the state says that they are there."""
        while self._unsynced:
            with contextlib.suppress(FileNotFoundError):
                _sync_folder(self._unsynced.pop())

    def _make_partials(self):
        self._partials.mkdir(exist_ok=True)
        if self._partials.is_symlink():
            raise ValueError(f"{PARTIALS} is a link")


def _sync(path):
    """Have a file on the disk before anything says that it is."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(path):
    """Have the names in a folder on the disk, where the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):  # On Windows.
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # What some network file systems say of folders.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def _replace(source, target):
    """Give a file another name in one step, on another volume, too.

    :raises OSError: it cannot have it.
    """
    try:
        os.replace(source, target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    copy = _copy_for(target)
    try:
        with source.open("rb") as complete, _open_for_update(copy) as file:
            file.truncate()
            shutil.copyfileobj(complete, file, CHUNK_BYTES)
        _sync(copy)
        os.replace(copy, target)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    source.unlink()


def _copy_for(target):
    """Return the path of what becomes a file, beside it, the same in every run."""
    digest = hashlib.sha256(target.name.encode("utf-8", "surrogateescape")).hexdigest()
    return target.with_name(f"{PARTIALS}-{digest}")


def _mode(path):
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


class Gone(NamedTuple):
    """A downloaded file that its record has no more.

    :ivar hash: of what was downloaded.
    :ivar record_id: of the record, which may have another file now.
    """

    hash: str
    record_id: str


class State:
    """What is known from earlier runs: whose the files are, and since when records are new.

    :param source: whose attachments the folder has: server, bucket and collection.
    :ivar timestamp: nothing changed before it that is not here, or ``None``.
    :ivar names: ``{record id: name}`` of the files.
    :ivar hashes: ``{record id: hash}`` of what was downloaded under these names. Files that were
        there before have none.
    :ivar gone: ``{name: Gone}``, files that no record has any more.
    :raises ValueError: the folder is for something else.
    """

    def __init__(self, folder: Folder, source: list[str], full: bool):
        self._folder = folder
        self._source = source
        saved = _checked(folder.state())
        if saved.get("source", source) != source:
            raise ValueError(f"holds the files of {' '.join(map(str, saved['source']))}")
        self.timestamp: str | None = None if full else saved.get("timestamp")
        self.names: dict[str, str] = saved.get("names", {})
        self.hashes: dict[str, str] = saved.get("hashes", {})
        self.gone = {name: Gone(*gone) for name, gone in saved.get("gone", {}).items()}
        self._owners = {folder.key(name): owner for owner, name in self.names.items()}
        if saved:
            for values in folder.journal():
                self._recall(*values)
        else:
            folder.forget_journal()

    def save(self) -> None:
        """Save it for the next run."""
        self._folder.save_state(
            {
                "source": self._source,
                "timestamp": self.timestamp,
                "names": self.names,
                "hashes": self.hashes,
                "gone": self.gone,
            }
        )

    def claim(self, record_id: str, name: str) -> str:
        """Return the name for the file of a record: another one where it is another record's.

        :raises Failure: that is taken, too.
        """
        for candidate in (name, _with_id(name, record_id)):
            if self._owners.get(self._folder.key(candidate), record_id) == record_id:
                if candidate != self.names.get(record_id):
                    self._take(record_id, candidate)
                return candidate
        raise Failure("has a name that other records have")

    def release(self, record_id: str) -> None:
        """Take note that a record has no file any more, or another one."""
        name = self.names.pop(record_id, None)
        if name is not None:
            key = self._folder.key(name)
            # The folder may come from a system where names that are one here are two.
            if self._owners.get(key) == record_id:
                del self._owners[key]
            hash_ = self.hashes.pop(record_id, None)
            if hash_ is not None:
                self.gone[name] = Gone(hash_, record_id)

    def downloaded(self, record_id: str, name: str, hash_: str) -> None:
        """Take note of what a file is."""
        if self.names.get(record_id) == name:
            self.hashes[record_id] = hash_
        elif self._folder.key(name) not in self._owners:
            # The record has changed meanwhile.
            self.gone[name] = Gone(hash_, record_id)

    def _recall(self, record_id, name, hash_):
        """Take over what a run has downloaded that did not come to its end, if it came to that."""
        if not self._folder.has(name, hash_):
            return
        owner = self._owners.get(self._folder.key(name))
        if owner is not None:
            self.release(owner)
        self._take(record_id, name)
        self.hashes[record_id] = hash_

    def _take(self, record_id, name):
        self.release(record_id)
        self.names[record_id] = name
        key = self._folder.key(name)
        self._owners[key] = record_id
        for gone in [gone for gone in self.gone if self._folder.key(gone) == key]:
            self.hashes[record_id] = self.gone.pop(gone).hash


def _checked(saved):
    """Return the state that was saved, empty where there is none.

    :raises ValueError: this script cannot have saved it.
    """
    if saved is None or isinstance(saved, int):
        # Older scripts saved but a timestamp.
        return {}
    try:
        source, timestamp = saved["source"], saved["timestamp"]
        if "hashes" not in saved:
            # Later ones did not save what they downloaded: all has to be seen again.
            return {"source": list(source)}
        texts = [*source, *saved["names"].values(), *saved["hashes"].values(), timestamp or "0"]
        texts += [text for gone in saved["gone"].values() for text in Gone(*gone)]
        if not all(isinstance(text, str) for text in texts) or not (timestamp or "0").isdecimal():
            raise TypeError
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{STATE} is not one of this script, remove it to start anew") from error
    return saved


def _with_id(name, record_id):
    folder, slash, filename = name.rpartition("/")
    stem, extension = os.path.splitext(filename)
    return f"{folder}{slash}{stem}-{record_id}{extension}"


@dataclass(frozen=True)
class Wanted:
    """The file of a record, to be had.

    :ivar name: of the file in the folder.
    :ivar stored: what the server has.
    :ivar original: what that is once it is decompressed, or ``None`` where it is not compressed.
    """

    record_id: str
    last_modified: Any
    name: str
    location: str
    stored: Content
    original: Content | None

    @property
    def content(self) -> Content:
        return self.original or self.stored


class Downloader:
    """Brings a folder into line with the attachments of a collection."""

    def __init__(
        self,
        jobs: int,
        delete: bool,
        folder: Folder,
        state: State,
        collection: Collection,
        report: Report,
    ):
        self._jobs = jobs
        self._deletes = delete
        self._folder = folder
        self._state = state
        self._collection = collection
        self._http = collection.http
        self._report = report
        self._base_url = ""
        self._timestamp: str | None = None
        self._failed: dict[str, int] = {}
        self._obstructed: dict[str, dict[str, Any]] = {}
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def download(self) -> bool:
        """Get the files of the records that changed, and return whether all are here.

        :raises Failure: the records cannot be had.
        """
        self._base_url = self._collection.base_url()
        since = self._state.timestamp
        self._download_changed(since)
        reason = since and self._reason_to_ask_for_all(since)
        if reason:
            self._report.warn(STATE, f"{reason}: all records are asked for")
            # Also by the next run, if this one does not come to its end.
            self._state.timestamp = None
            self._failed.clear()
            self._download_changed(None)
        self._download_obstructed()
        return not self._failed

    def _download_changed(self, since):
        self._timestamp = None
        for wanted, action, failure in in_parallel(
            self._jobs, self._http, self._get, self._all_wanted(since)
        ):
            self._note(wanted, action, failure)

    def _download_obstructed(self):
        """Get the files that others were in the way of, of which no record has any more.

        These go only now that all records are known, and when the new file is complete.
        """
        for wanted, complete, failure in in_parallel(
            self._jobs, self._http, self._fetch_or_fail, self._wanted_anyway()
        ):
            try:
                if failure is not None:
                    raise failure
                self._clear_the_way(wanted.name)
                self._place(complete, wanted)
            except (Failure, OSError) as error:
                self._note(wanted, None, as_failure(error))
            else:
                self._note(wanted, "downloaded", None)

    def _reason_to_ask_for_all(self, since):
        """Return why the records that changed do not tell what is gone, or ``None`` where they do.

        Kinto forgets deletions with ``kinto purge-deleted``, and when a collection is deleted.
        """
        if int(self._timestamp) < int(since):
            return "the collection is older than it was at the last run"
        if not self._deletes:
            return None
        count = self._collection.count(HAS_ATTACHMENT)
        known = self._state.names.keys() | self._failed.keys() | self._obstructed.keys()
        if count is None or count == len(known):
            return None
        return "the server has not told of all deletions"

    def _note(self, wanted, action, failure):
        if failure is not None:
            self._fail(wanted.record_id, wanted.name, wanted.last_modified, failure)
            return
        if action == "downloaded" or wanted.record_id in self._state.hashes:
            self._state.downloaded(wanted.record_id, wanted.name, wanted.content.hash)
        details = {"size": wanted.content.size, "hash": wanted.content.hash}
        self._report.done(action, wanted.name, record=wanted.record_id, **details)

    def delete_gone(self) -> bool:
        """Delete the files that no record has any more, and return whether none is left.

        Those of records whose new files have failed stay until these are here.
        """
        for name, gone in sorted(self._state.gone.items()):
            if gone.record_id not in self._failed:
                self._delete(name, gone.hash)
        return not self._state.gone

    def next_timestamp(self) -> str | None:
        """Return since when records are to be asked for the next time: the failed ones again."""
        if not self._failed:
            return self._timestamp or self._state.timestamp
        before = min(self._failed.values()) - 1
        return str(max(before, int(self._state.timestamp or 0)))

    def _delete(self, name, hash_):
        try:
            if self._folder.remove(name, hash_):
                self._report.done("deleted", name)
        except OSError as error:
            self._report.failed(name, as_failure(error))
            return
        except Failure as error:
            self._report.warn(name, f"{error}, and stays")
        del self._state.gone[name]

    def _all_wanted(self, since: str | None) -> Iterator[Wanted]:
        """Yield what to get, and release what the records have no more."""
        listed = set()
        query = {"_since": since} if since else {}
        for timestamp, records in self._collection.pages(DESCRIPTION_FIELDS, **query):
            self._timestamp = self._timestamp or timestamp
            wanted = [found for record in records if (found := self._wanted(record))]
            listed.update(record["id"] for record in records)
            self._report.expect(sum(found.stored.size for found in wanted))
            yield from wanted
        if not since:
            for record_id in self._state.names.keys() - listed:
                self._state.release(record_id)

    def _wanted(self, record):
        """Return what to get for a record, or ``None`` where that is nothing (yet)."""
        self._obstructed.pop(record["id"], None)
        if record.get("deleted") or not record.get("attachment"):
            self._state.release(record["id"])
            return None
        try:
            return self._describe(record, self._folder.target)
        except InTheWay as failure:
            if self._deletes:
                self._obstructed[record["id"]] = record
            else:
                self._fail_record(record, failure)
        except (Failure, OSError) as error:
            self._fail_record(record, error)
        return None

    def _wanted_anyway(self) -> Iterator[Wanted]:
        """Yield what to get for the records of files that others are in the way of."""
        for record in self._obstructed.values():
            try:
                yield self._describe(record, self._folder.check)
            except (Failure, OSError) as error:
                self._fail_record(record, error)

    def _clear_the_way(self, name):
        """Delete the files that no record has any more, above a name or below it."""
        key = self._folder.key(name)
        for gone_name, gone in sorted(self._state.gone.items()):
            gone_key = self._folder.key(gone_name)
            is_in_the_way = key.startswith(f"{gone_key}/") or gone_key.startswith(f"{key}/")
            if is_in_the_way and gone.record_id not in self._failed:
                self._delete(gone_name, gone.hash)

    def _describe(self, record, check):
        """Return what to get for a record.

        :param check: raises a failure where there cannot be a file of a name.
        """
        stored, original = attachment_of(record), original_of(record)
        location = record["attachment"].get("location")
        if not isinstance(location, str) or not RECORD_ID.fullmatch(record["id"]):
            raise Failure("the record does not say where its file is")
        filename = (original or stored).filename
        check_filename(filename)
        path = record.get("path")
        # What the upload script says of a file whose filename does not tell its name.
        wished = path if is_path_of(path, filename) else filename
        check(wished)
        name = self._state.claim(record["id"], wished)
        if name != wished:
            self._report.warn(wished, f"is another record's file, this one is written to {name}")
        return Wanted(
            record["id"],
            record.get("last_modified"),
            name,
            self._url(location),
            stored,
            original,
        )

    def _url(self, location):
        try:
            return absolute_location(location, self._base_url, self._collection.server)
        except ValueError as error:
            raise Failure(f"its location is not one to download from: {location}") from error

    def _get(self, wanted):
        """Return what was done for a file.

        :raises Failure: it could not be had, and what was there is as it was.
        """
        # One page after the other may list the same record, changed meanwhile.
        with self._locks[hash(wanted.record_id) % LOCKS]:
            try:
                target = self._folder.target(wanted.name)
                if target.exists() and holds(target, wanted.content):
                    self._report.expect(-wanted.stored.size)
                    return "unchanged"
                self._place(self._fetch(wanted), wanted)
            except OSError as error:
                raise as_failure(error) from error
        return "downloaded"

    def _fetch_or_fail(self, wanted):
        try:
            return self._fetch(wanted)
        except OSError as error:
            raise as_failure(error) from error

    def _fetch(self, wanted):
        """Return the path of the complete file, which does not have its name yet."""
        partial = self._partial(wanted)
        fetch(self._http, wanted.location, wanted.stored, partial, self._report.advance)
        if wanted.original is None:
            return partial
        decompressed = self._partial(wanted, "decompressed")
        try:
            decompress(partial, decompressed, wanted.original, self._http.check)
        except BaseException:
            decompressed.unlink(missing_ok=True)
            raise
        return decompressed

    def _place(self, complete, wanted):
        """Give a complete file its name."""
        partial = self._partial(wanted)
        try:
            # First: were this run killed, nobody else would know whose the file is.
            self._folder.write_down(wanted.record_id, wanted.name, wanted.content.hash)
            self._folder.move(complete, wanted.name)
        finally:
            if complete != partial:
                complete.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)

    def _partial(self, wanted, *parts):
        key = (wanted.record_id, wanted.location, wanted.stored.hash)
        return self._folder.partial(*key, *parts)

    def _fail_record(self, record, error):
        last_modified = record.get("last_modified")
        self._fail(record["id"], _label(record), last_modified, as_failure(error))

    def _fail(self, record_id, name, last_modified, failure):
        since = last_modified if isinstance(last_modified, int) else 0
        self._failed[record_id] = min(since, self._failed.get(record_id, since))
        self._report.failed(name, failure)


def _label(record):
    with contextlib.suppress(Failure):
        return content_of(record).filename or record["id"]
    return record["id"]


class Partial:
    """A file that is being downloaded, kept from run to run until it is complete.

    :param progress: is told how many bytes there are more (or less, where it is negative).
    :ivar size: in bytes.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: Path, progress: Callable[[int], None]):
        self._progress = progress
        self._file = _open_for_update(path)
        self._digest = hashlib.sha256()
        self.size = 0
        for chunk in iter(lambda: self._file.read(CHUNK_BYTES), b""):
            self._count(chunk)

    @property
    def hash(self) -> str:
        return self._digest.hexdigest()

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._count(chunk)

    def restart(self) -> None:
        """Forget what there is."""
        self._file.seek(0)
        self._file.truncate()
        self._progress(-self.size)
        self._digest = hashlib.sha256()
        self.size = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._file.close()

    def _count(self, chunk):
        self._digest.update(chunk)
        self.size += len(chunk)
        self._progress(len(chunk))


def _open_for_update(path):
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+b")


def fetch(
    http: Http, location: str, stored: Content, path: Path, progress: Callable[[int], None]
) -> None:
    """Complete a partial file, which may exist already, with what the server has.

    :raises Failure: it could not be completed (what there is stays for another run), or it is
        something else than what was asked for (and goes).
    :raises OSError: it cannot be written.
    """
    with Partial(path, progress) as partial:
        resumed = partial.size > 0
        _complete(http, location, stored, partial)
        if partial.hash != stored.hash and resumed:
            partial.restart()
            _complete(http, location, stored, partial)
        if partial.hash != stored.hash:
            path.unlink()
            raise Failure(f"its hash is {partial.hash} instead of {stored.hash}")


def _complete(http, location, stored, partial):
    if partial.size > stored.size:
        partial.restart()
    attempt = 0
    farthest = partial.size
    while partial.size != stored.size:
        with _ask(http, location, partial.size) as response:
            reason = _receive(http, response, stored.size, partial)
        if partial.size > farthest:
            # A large file over a line that breaks now and then comes to its end.
            farthest = partial.size
            attempt = 0
        if partial.size < stored.size:
            http.pause(attempt, reason)
            attempt += 1


def _ask(http, location, start):
    if not location.lower().startswith(("http://", "https://")):
        raise Failure(f"its location is not one to download from: {location}")
    # Encoded for the transfer, it would be other bytes, with another hash and other ranges.
    headers = {"Accept-Encoding": "identity"}
    if start:
        # Without If-Range: whether it is still the same file, the hash tells.
        headers["Range"] = f"bytes={start}-"
    response = http.request("GET", location, headers=headers)
    return check_status(response, 200, *((206, 416) if start else ()))


def _receive(http, response, size, partial):
    """Add a response to a partial file, and return why it is not complete, if it is not."""
    if response.status_code == 416:
        partial.restart()
        return "the server has less than what was there"
    if response.status_code == 200 and partial.size:
        partial.restart()
    if response.status_code == 206 and not _starts_at(response, partial.size):
        raise Failure("the server answered with another range than was asked for")
    try:
        for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
            http.check()
            if partial.size + len(chunk) > size:
                partial.restart()
                raise Failure(f"the server sends more than the {size} bytes of the file")
            partial.append(chunk)
    except TRANSIENT_ERRORS as error:
        return error
    return "the server sent less than the whole file"


def _starts_at(response, start):
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def decompress(source: Path, target: Path, original: Content, check: Callable[[], None]) -> None:
    """Decompress a file into another one, not a byte longer than the original.

    :param check: called all along, may raise.
    :raises Failure: the outcome is not the original.
    :raises OSError: a file cannot be read or written.
    """
    digest = hashlib.sha256()
    left = original.size
    with gzip.open(source) as compressed, _open_for_update(target) as file:
        file.truncate()
        for chunk in _decompressed(compressed):
            check()
            left -= len(chunk)
            if left < 0:
                raise Failure(f"decompressed, it has more than its {original.size} bytes")
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != original.hash:
        raise Failure(f"decompressed, its hash is {digest.hexdigest()} instead of {original.hash}")


def _decompressed(file):
    try:
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Failure(f"cannot be decompressed: {error}") from error
