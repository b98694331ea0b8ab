"""The folders that the settings name, and the keys that files cannot have beside them.

In a file system, a file and a folder cannot have the same name: a file with the name of a bucket
would keep the files of that bucket out of its folder.
"""

import os
import re
from collections.abc import Iterable, Iterator

from kinto_attachment.settings.limits import ID, MAX_NAME_BYTES, PRIVATE
from kinto_attachment.storage.names import NUMBERED_IN_ORDER, candidate_keys, template_pattern


FILE_EXTENSION = ".file"
MAX_NUMBER = 20
"""The maximum length of the number in a candidate key, reserved so that no dot is cut off."""


class Folders:
    """The folders of all buckets and collections, also of those that do not exist yet.

    :param templates: the settings ``folder``.
    """

    def __init__(self, templates: Iterable[str] = ()):
        # In the last, private files are kept.
        templates = {template for template in templates if template} | {PRIVATE}
        levels = {level for template in templates for level in _levels(template)}
        # Some file systems do not distinguish upper and lower case.
        self._pattern = re.compile("|".join(sorted(levels)) or "(?!)", re.IGNORECASE)
        dots = max((name.count(".") for name in "/".join(templates).split("/")), default=0)
        # No folder has as many dots, since ids have none.
        self._ending = FILE_EXTENSION * (dots + 1)

    def may_include(self, name: str) -> bool:
        """Return whether a folder may have this name, or contain one that has."""
        return bool(self._pattern.fullmatch(name))

    def candidate_keys(self, key: str, in_order: int = NUMBERED_IN_ORDER) -> Iterator[str]:
        """Return the keys to try for a file, none of which can be the name of a folder.

        :param in_order: as of :func:`kinto_attachment.storage.names.candidate_keys`.
        """
        folder, base = os.path.split(key)
        stem = base[: MAX_NAME_BYTES - MAX_NUMBER - len(self._ending)]
        other = os.path.join(folder, stem + self._ending)
        keys = candidate_keys(key, in_order), candidate_keys(other, in_order)
        for usual, unusual in zip(*keys, strict=True):
            yield unusual if self.may_include(usual) else usual


def _levels(template: str) -> list[str]:
    """Return the patterns of a folder, and of those that it is in."""
    pattern = template_pattern(template, bucket_id=ID.pattern, collection_id=ID.pattern)
    names = pattern.split("/")
    return ["/".join(names[:number]) for number in range(1, len(names) + 1)]
