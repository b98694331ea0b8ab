"""The folders that the settings may ask for, and the names that files cannot have beside them.

In a file system, a file and a folder of one name exclude one another: whoever gave a file the name
of a bucket would keep the files of that bucket out of its folder.
"""

import os
import re
import string
from collections.abc import Iterable, Iterator

from kinto_attachment.settings.limits import ID, MAX_NAME_BYTES
from kinto_attachment.storage.names import NUMBERED_IN_ORDER, candidate_keys


FILE_EXTENSION = ".file"
MAX_NUMBER = 20
"""How many characters the number of a name that is taken may have, for no dot to be cut off."""


class Folders:
    """The folders of all buckets and collections, whichever there will be.

    :param templates: the settings ``folder``.
    """

    def __init__(self, templates: Iterable[str] = ()):
        templates = {template for template in templates if template}
        levels = {level for template in templates for level in _levels(template)}
        # Upper and lower case: they are the same in some file systems.
        self._pattern = re.compile("|".join(sorted(levels)) or "(?!)", re.IGNORECASE)
        dots = max((name.count(".") for name in "/".join(templates).split("/")), default=0)
        # No folder has as many dots, since ids have none.
        self._ending = FILE_EXTENSION * (dots + 1)

    def may_include(self, name: str) -> bool:
        """Return whether a folder may be called like this, or be inside of one that is."""
        return bool(self._pattern.fullmatch(name))

    def candidate_keys(self, name: str, in_order: int = NUMBERED_IN_ORDER) -> Iterator[str]:
        """Return the names to try for a file, none of which a folder may have.

        :param in_order: as of :func:`kinto_attachment.storage.names.candidate_keys`.
        """
        folder, base = os.path.split(name)
        stem = base[: MAX_NAME_BYTES - MAX_NUMBER - len(self._ending)]
        other = os.path.join(folder, stem + self._ending)
        names = candidate_keys(name, in_order), candidate_keys(other, in_order)
        for usual, unusual in zip(*names, strict=True):
            yield unusual if self.may_include(usual) else usual


def _levels(template):
    """Return the patterns of a folder, and of those that it is in."""
    pattern = "".join(
        re.escape(literal) + (ID.pattern if placeholder else "")
        for literal, placeholder, _, _ in string.Formatter().parse(template)
    )
    names = pattern.split("/")
    return ["/".join(names[:number]) for number in range(1, len(names) + 1)]
