"""Names of stored files: which of them the settings of a server give."""

import os
import re
from dataclasses import dataclass

from kinto_attachment.settings.options import MAX_RID, CollectionSettings, Settings
from kinto_attachment.storage import stored_name


UUID4 = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
HEARTBEAT = re.compile(f"heartbeat-{UUID4}")

ID = "[A-Za-z0-9_-]+"
STEM = "[A-Za-z0-9_.-]+"
ENDING = r"(-[0-9]+)?(\.[A-Za-z0-9_.-]+)?"
"""The number of a name that was taken, and the extension."""


@dataclass(frozen=True)
class Verdict:
    """What the name of a file that nobody holds says about it.

    :ivar is_ours: whether the settings give such names.
    :ivar is_random: whether it is one of the names that nobody but the plugin makes.
    :ivar is_kept: whether ``keep_old_files`` is on where such names are given.
    """

    is_ours: bool
    is_random: bool
    is_kept: bool


class Names:
    """The forms of the names that the settings give to files."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._forms = [
            (re.compile(_form(own)), own)
            for own in (settings.defaults, *settings.resources.values())
        ]

    def judge(self, name: str) -> Verdict:
        """Return what a name says."""
        matching = [own for form, own in self._forms if form.fullmatch(name)]
        return _verdict(matching)

    def judge_upload(
        self, name: str, bucket_id: str, collection_id: str, record_id: str, filename: str
    ) -> Verdict:
        """Return what a name says, if it were to be that of a file uploaded to this record."""
        own = self._settings.for_collection(bucket_id, collection_id)
        form = _form(
            own,
            bucket_id=re.escape(bucket_id),
            collection_id=re.escape(collection_id),
            rid=f"[_-]*{re.escape(record_id[:MAX_RID].strip('.-_'))}[_-]*",
        )
        # As any filename gives it, whatever the settings are.
        extension = os.path.splitext(stored_name(filename, "", randomize=True))[1]
        if not re.fullmatch(form, name) or not name.lower().endswith(extension):
            return Verdict(False, False, False)
        return _verdict([own])


def is_of_heartbeat(name: str) -> bool:
    """Return whether a file is one that a heartbeat writes and deletes at once."""
    return bool(HEARTBEAT.fullmatch(name))


def _verdict(matching: list[CollectionSettings]) -> Verdict:
    return Verdict(
        bool(matching),
        any(own.randomize and "{filename}" in own.filename_pattern for own in matching),
        any(own.keep_old_files for own in matching),
    )


def _form(
    settings: CollectionSettings, bucket_id: str = ID, collection_id: str = ID, rid: str = ID
) -> str:
    folder = _filled(settings.folder, bucket_id=bucket_id, collection_id=collection_id)
    filename = UUID4 if settings.randomize else STEM
    stem = _filled(settings.filename_pattern, datetime="[0-9]{14}", rid=rid, filename=filename)
    return f"{folder}/{stem}{ENDING}" if folder else f"{stem}{ENDING}"


def _filled(template, **placeholders):
    """Return the pattern of a template: its text as it is, its placeholders as they say."""
    for name, pattern in placeholders.items():
        assert "|" not in pattern
        template = template.replace(f"{{{name}}}", f"\0{name}\0")
    text = re.escape(template)
    for name, pattern in placeholders.items():
        text = text.replace(re.escape(f"\0{name}\0"), pattern)
    return text
