"""What earlier runs of the download script know."""

import os
from typing import Any, NamedTuple

from kinto_attachment.scripts.errors import Failure
from kinto_attachment.scripts.folder import STATE, Folder
from kinto_attachment.scripts.journal import Entry


class ObsoleteFile(NamedTuple):
    """A downloaded file that its record does not refer to any more.

    :ivar hash: SHA-256 of what was downloaded.
    :ivar record_id: of the record, which may have another file now.
    """

    hash: str
    record_id: str


class State:
    """The files of a folder, their records, and the time since when records may have changed.

    :param source: the server, bucket and collection of the files.
    :param full: whether all records count as changed.
    :ivar timestamp: all earlier changes are downloaded; ``None`` if none is.
    :ivar names: ``{record id: name}`` of the files.
    :ivar hashes: ``{record id: hash}`` of what was downloaded under these names. Files that were
        there before have none.
    :ivar obsolete: ``{name: ObsoleteFile}``.
    :raises ValueError: the folder is for something else.
    """

    def __init__(self, folder: Folder, source: list[str], full: bool):
        self._folder = folder
        self._source = source
        saved = _checked(folder.load_state())
        if saved.get("source", source) != source:
            raise ValueError(f"contains the files of {' '.join(map(str, saved['source']))}")
        self.timestamp: str | None = None if full else saved.get("timestamp")
        self.names: dict[str, str] = saved.get("names", {})
        self.hashes: dict[str, str] = saved.get("hashes", {})
        self.obsolete = {
            name: ObsoleteFile(*values) for name, values in saved.get("obsolete", {}).items()
        }
        self._owners = {folder.key(name): owner for owner, name in self.names.items()}
        if saved:
            for entry in folder.journal.entries():
                self._replay(entry)
        else:
            folder.journal.clear()

    def save(self) -> None:
        """Save the state for the next run."""
        self._folder.save_state(
            {
                "source": self._source,
                "timestamp": self.timestamp,
                "names": self.names,
                "hashes": self.hashes,
                "obsolete": self.obsolete,
            }
        )

    def claim(self, record_id: str, name: str) -> str:
        """Return the name for the file of a record: with its id if another record has the name.

        :raises Failure: another record has that one, too.
        """
        for candidate in (name, _with_id(name, record_id)):
            if self._owners.get(self._folder.key(candidate), record_id) == record_id:
                if candidate != self.names.get(record_id):
                    self._take(record_id, candidate)
                return candidate
        raise Failure("has a name that other records have")

    def release(self, record_id: str) -> None:
        """Record that a record does not refer to its file any more."""
        name = self.names.pop(record_id, None)
        if name is not None:
            key = self._folder.key(name)
            # The folder may come from a system on which names that are one here are two.
            if self._owners.get(key) == record_id:
                del self._owners[key]
            hash_ = self.hashes.pop(record_id, None)
            if hash_ is not None:
                self.obsolete[name] = ObsoleteFile(hash_, record_id)

    def downloaded(self, record_id: str, name: str, hash_: str) -> None:
        """Record the content of a file."""
        if self.names.get(record_id) == name:
            self.hashes[record_id] = hash_
        elif self._folder.key(name) not in self._owners:
            # The record has changed meanwhile.
            self.obsolete[name] = ObsoleteFile(hash_, record_id)

    def _replay(self, entry: Entry) -> None:
        """Record the file of an unfinished run, if it was moved into the folder."""
        if not self._folder.has(entry.name, entry.hash):
            return
        owner = self._owners.get(self._folder.key(entry.name))
        if owner is not None:
            self.release(owner)
        self._take(entry.record_id, entry.name)
        self.hashes[entry.record_id] = entry.hash

    def _take(self, record_id: str, name: str) -> None:
        self.release(record_id)
        self.names[record_id] = name
        key = self._folder.key(name)
        self._owners[key] = record_id
        for obsolete in [found for found in self.obsolete if self._folder.key(found) == key]:
            self.hashes[record_id] = self.obsolete.pop(obsolete).hash


def _checked(saved: Any) -> dict[str, Any]:
    """Return the saved state, empty if there is none.

    :raises ValueError: this script cannot have saved it.
    """
    if saved is None or isinstance(saved, int):
        # Older scripts saved a timestamp alone.
        return {}
    try:
        source, timestamp = saved["source"], saved["timestamp"] or "0"
        if "obsolete" not in saved:
            # Later ones saved other fields: all records have to be listed again.
            return {"source": list(source)}
        texts = [*source, *saved["names"].values(), *saved["hashes"].values(), timestamp]
        texts += [text for values in saved["obsolete"].values() for text in ObsoleteFile(*values)]
        if not all(isinstance(text, str) for text in texts) or not timestamp.isdecimal():
            raise TypeError
    except (AttributeError, KeyError, TypeError) as error:
        message = f"{STATE} was not written by this script; remove it to start over"
        raise ValueError(message) from error
    return saved


def _with_id(name: str, record_id: str) -> str:
    folder, slash, filename = name.rpartition("/")
    stem, extension = os.path.splitext(filename)
    return f"{folder}{slash}{stem}-{record_id}{extension}"
