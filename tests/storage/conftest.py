"""A local storage, and the ways to publish a file in it."""

import os

import pytest

from kinto_attachment.storage import small
from kinto_attachment.storage.local import LocalStorage


@pytest.fixture
def storage(tmp_path):
    storage = LocalStorage(str(tmp_path / "files"), "https://cdn.test/")
    storage.prepare()
    return storage


@pytest.fixture
def staging(storage):
    return os.path.join(storage.base_path, ".staging")


WAYS = {
    "unique": lambda storage, name: storage.stage(name, "text/plain", unique=True),
    "free": lambda storage, name: storage.stage(name, "text/plain"),
    "over": lambda storage, name: storage.replace(name, "text/plain"),
}


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def stage(request, storage, monkeypatch):
    """Return a function that stages a file with content, for each way to publish it.

    In its folder, as if it were not small.
    """
    monkeypatch.setattr(small, "MAX_SMALL_BYTES", -1)

    def staged(name, content=b"content"):
        staged = request.param(storage, name)
        staged.write(content)
        return staged

    return staged
