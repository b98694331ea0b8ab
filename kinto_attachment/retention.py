"""Retention: whether and how long a file stays when no record refers to it any more.

It is decided by the settings of the collection that the file was uploaded to.
"""

import time
from collections.abc import Iterable
from typing import Any

from kinto_attachment import uris
from kinto_attachment.links import origin_of
from kinto_attachment.settings.values import CollectionSettings, Settings
from kinto_attachment.unit_of_work import Link


def settings_of_file(settings: Settings, link: Link) -> CollectionSettings:
    """Return the settings for the file of a link."""
    return settings.for_collection(*uris.ids_of_collection(origin_of(link)))


def by_due(settings: Settings, links: Iterable[Link]) -> dict[int | None, list[Link]]:
    """Return the links by the time at which their files are to be deleted if they are removed now.

    :returns: the keys are in milliseconds since 1970, or ``None`` for at once. Links to files that
        are kept are left out.
    """
    found: dict[int | None, list[Link]] = {}
    for link in links:
        own = settings_of_file(settings, link)
        if not own.keep_old_files:
            found.setdefault(_due_after(own.delete_after), []).append(link)
    return found


def now() -> int:
    """Return the time in milliseconds since 1970, as Kinto's timestamps."""
    return int(time.time() * 1000)


def time_due(entry: dict[str, Any]) -> int:
    """Return when the files of an entry of the deletion queue are to be deleted, as :func:`now`."""
    due: int = entry.get("due") or entry["last_modified"]
    return due


def _due_after(seconds: int) -> int | None:
    # In whole seconds, so that files that are released together are queued together.
    return (now() // 1000 + seconds + 1) * 1000 if seconds else None
