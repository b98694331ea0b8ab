"""Objects that are written together are those that Kinto's storage writes one by one."""

import pytest
import transaction

from kinto_attachment.writes import write
from tests.support.postgresql import postgresql_backends
from tests.support.settings import unprefixed


@pytest.fixture(params=["memory", pytest.param("postgresql", marks=pytest.mark.external)])
def storage(request, make_app):
    settings = {}
    if request.param == "postgresql":
        settings = unprefixed(postgresql_backends(request.getfixturevalue("postgresql")()))
    yield make_app(**settings).registry.storage
    transaction.abort()


def test_objects_are_added_replaced_and_removed(storage):
    one = {"id": "a", "values": [1, None, "ä", {"id": "b"}], "last_modified": 1234567890123}
    write(storage, [("test", "/p", one), ("test", "/q", {"id": "b"})])
    assert storage.get("test", "/p", "a") == one
    storage.delete("test", "/p", "a")
    other = {"id": "a", "title": "after a tombstone"}
    removed = [("test", "/q", {"id": "b"}), ("test", "/q", {"id": "none"})]
    assert write(storage, [("test", "/p", other)], removed) == {"b"}
    found = storage.get("test", "/p", "a")
    assert found.pop("last_modified") > one["last_modified"]
    assert found == other
    assert storage.list_all("test", "/q") == []


def test_a_removal_alone_is_committed(storage):
    with transaction.manager:
        storage.update("test", "/p", "a", {})
    with transaction.manager:
        assert write(storage, [], [("test", "/p", {"id": "a"})]) == {"a"}
    assert storage.list_all("test", "/p") == []
