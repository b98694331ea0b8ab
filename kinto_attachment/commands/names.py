"""Names of stored files: which of them the settings of a server give."""

import re
from dataclasses import dataclass

from kinto_attachment.settings import CollectionSettings, Settings


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
        self._forms = [
            (re.compile(_form(own)), own)
            for own in (settings.everywhere, *settings.resources.values())
        ]

    def judge(self, name: str) -> Verdict:
        """Return what a name says."""
        matching = [own for form, own in self._forms if form.fullmatch(name)]
        return Verdict(
            bool(matching),
            any(own.randomize and "{filename}" in own.filename_pattern for own in matching),
            any(own.keep_old_files for own in matching),
        )


def is_of_heartbeat(name: str) -> bool:
    """Return whether a file is one that a heartbeat writes and deletes at once."""
    return bool(HEARTBEAT.fullmatch(name))


def _form(settings: CollectionSettings) -> str:
    folder = _filled(settings.folder, bucket_id=ID, collection_id=ID)
    filename = UUID4 if settings.randomize else STEM
    stem = _filled(settings.filename_pattern, datetime="[0-9]{14}", rid=ID, filename=filename)
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
