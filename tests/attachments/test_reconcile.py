"""The decisions on a changed record: every row of the case tables, without a server."""

import pytest

from kinto_attachment.reconcile import RecordState, is_lost_update, needs_source, settle


OWN = {"location": "https://cdn.example.org/own.png", "hash": "a", "size": 1}
FORGED = {**OWN, "hash": "b"}
OTHER = {"location": "https://cdn.example.org/other.png", "hash": "c", "size": 2}
FOREIGN = {"anything": "else"}
LINK = {"id": "1", "location": "own.png", "attachment": OWN, "origin": "/buckets/a/collections/b"}
SECOND_LINK = {**LINK, "id": "2", "location": "second.png", "attachment": OTHER}
LEGACY_LINK = {"id": "3", "location": "own.png"}


def state(*links, permitted=None, initial=None):
    return RecordState(list(links), list(links if initial is None else initial), permitted)


@pytest.mark.parametrize(
    ("old", "new", "known", "expected"),
    [
        pytest.param(OWN, None, state(LINK, permitted=[OWN]), False, id="detached"),
        pytest.param(FOREIGN, FOREIGN, state(), False, id="no file of ours, unchanged"),
        pytest.param(FOREIGN, OTHER, state(), False, id="no file of ours, changed"),
        pytest.param(OWN, OWN, state(LINK, permitted=[OWN]), False, id="unchanged"),
        pytest.param(OWN, OTHER, state(LINK, permitted=[OWN, OTHER]), False, id="by the server"),
        pytest.param(OWN, FORGED, state(LINK, permitted=[OWN]), True, id="forged"),
        pytest.param(OWN, OTHER, state(LINK, permitted=[OWN]), True, id="other file"),
        pytest.param(OWN, FOREIGN, state(LINK, permitted=[OWN]), True, id="no metadata"),
        pytest.param(None, OWN, state(LINK, permitted=[OWN]), False, id="brought back"),
        pytest.param(None, FORGED, state(LINK, permitted=[OWN]), True, id="brought back forged"),
        pytest.param(None, OTHER, state(permitted=[None]), False, id="new record, foreign file"),
        pytest.param(OWN, OWN, state(LEGACY_LINK), False, id="no request, legacy link"),
        pytest.param(OWN, FORGED, state(LEGACY_LINK), True, id="no request, legacy link, forged"),
        pytest.param(OWN, OWN, state(LINK), True, id="no request: the link has to agree"),
        pytest.param(FORGED, FORGED, state(LINK), True, id="a merge patch shows as unchanged"),
    ],
)
def test_new_metadata_is_permitted_or_only_as_a_copy(old, new, known, expected):
    assert needs_source(old, new, known) is expected


@pytest.mark.parametrize(
    ("old", "links", "expected"),
    [
        pytest.param(None, [], False, id="no file"),
        pytest.param(OWN, [LINK], False, id="the file was seen"),
        pytest.param(None, [LINK], True, id="a file that was not seen"),
        pytest.param(OTHER, [LINK], True, id="another file was seen"),
        pytest.param(OWN, [LINK, SECOND_LINK], False, id="one of two was seen"),
    ],
)
def test_a_change_is_a_lost_update_if_it_has_not_seen_the_file(old, links, expected):
    assert is_lost_update(old, links) is expected


@pytest.mark.parametrize(
    ("attachment", "links", "unlink", "rewrite", "is_unlinked"),
    [
        pytest.param(None, [], [], [], False, id="none and no links"),
        pytest.param(None, [LINK, SECOND_LINK], [LINK, SECOND_LINK], [], False, id="none"),
        pytest.param(OWN, [LINK], [], [], False, id="linked, same metadata"),
        pytest.param(FORGED, [LINK], [], [LINK], False, id="linked, other metadata"),
        pytest.param(OWN, [LEGACY_LINK], [], [], False, id="a legacy link has no metadata"),
        pytest.param(OWN, [LINK, SECOND_LINK], [SECOND_LINK], [], False, id="another file, too"),
        pytest.param(OTHER, [LINK], [LINK], [], True, id="about no linked file"),
        pytest.param(FOREIGN, [], [], [], True, id="about no file, and no links"),
    ],
)
def test_links_are_brought_into_agreement(attachment, links, unlink, rewrite, is_unlinked):
    settlement = settle(attachment, links)
    assert settlement.unlink == unlink
    assert settlement.rewrite == rewrite
    assert settlement.is_unlinked is is_unlinked
