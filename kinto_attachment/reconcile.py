"""Decisions on the attachment of a record that was changed. Pure: no storage, no request.

A change by a client is judged by :func:`is_lost_update` and :func:`needs_source`. *Its own files*
are those that the record is or was linked to in the running transaction; *permitted* is metadata
that the record had before the request, or that code on the server gave it:

====================== ================================= =============================
attachment before      attachment now                    decision
====================== ================================= =============================
anything               null, or absent                   permitted
about no own file      about no own file                 permitted: it is no file of ours
about an own file      permitted metadata                permitted
about an own file      anything else                     only as a copy
none                   about an own file, permitted      permitted
none                   about an own file, else           only as a copy
unlocked: no own file  anything, and there are links     refused: it is a lost update
====================== ================================= =============================

*Only as a copy*: refused, unless another record that the writer may read has the very metadata.

The state in which the transaction leaves the record is then brought into agreement with its links
by :func:`settle`:

====================== ================================= =============================
attachment             links                             decision
====================== ================================= =============================
none                   any                               unlink
about a linked file    with the same metadata            keep
about a linked file    with other metadata               keep, and rewrite if permitted
about a linked file    to other files                    unlink those
about no linked file   any                               unlink; link it if it is a copy
====================== ================================= =============================

All private files that a record ever had are at one location: the hash tells them apart.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kinto_attachment.metadata import are_equal, is_among, is_located_at, refers_to
from kinto_attachment.unit_of_work import Link


@dataclass(frozen=True)
class RecordState:
    """What a transaction knows of the links of a record.

    :ivar links: those that it came across, removed ones too.
    :ivar initial: as they were when it first came across the record.
    :ivar permitted: see the module; ``None`` for a record that was changed without a request of its
        own, as by other plugins.
    """

    links: list[Link] = field(default_factory=list)
    initial: list[Link] = field(default_factory=list)
    permitted: list[Any] | None = None


@dataclass(frozen=True)
class Settlement:
    """What is to be done with the links of a record.

    :ivar unlink: those to be removed.
    :ivar rewrite: those whose metadata has changed.
    :ivar is_unlinked: whether the attachment is about none of the files.
    """

    unlink: list[Link]
    rewrite: list[Link]
    is_unlinked: bool


def is_lost_update(old: Any, links: list[Link]) -> bool:
    """Return whether a change was made without having seen the file that the record has.

    :param old: the attachment that the writer has seen.
    :param links: those of the record.
    """
    return bool(links) and not any(refers_to(old, link) for link in links)


def needs_source(old: Any, new: Any, state: RecordState) -> bool:
    """Return whether new metadata is permitted only as a copy of that of another record."""
    if new is None or not _is_about_own_file(old, new, state):
        return False
    if state.permitted is not None:
        return not is_among(new, state.permitted)
    # What Kinto gives as the old record is what it was, but for a merge patch; links show what it
    # was if they have metadata.
    has_metadata = any("attachment" in link for link in state.links)
    return has_metadata or not are_equal(old, new)


def settle(
    attachment: Any, links: list[Link], refers: Callable[[Any, Link], bool] = refers_to
) -> Settlement:
    """Return what is to be done with the links of a record, given its attachment by now.

    :param refers: whether the attachment is about the file of a link.
    """
    kept = [link for link in links if refers(attachment, link)]
    return Settlement(
        unlink=[link for link in links if link not in kept],
        rewrite=[
            link for link in kept if not are_equal(link.get("attachment", attachment), attachment)
        ],
        is_unlinked=attachment is not None and not kept,
    )


def _is_about_own_file(old: Any, new: Any, state: RecordState) -> bool:
    if old is None:
        return any(is_located_at(new, link) for link in state.links)
    earlier = [old, *(state.permitted or ())]
    if any(is_located_at(one, link) for one in earlier for link in state.links):
        return True
    return are_equal(old, new) and bool(state.initial)
