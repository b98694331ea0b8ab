"""A Kinto with the plugin, as a server of tus."""

import contextlib
import itertools

import requests

from tests.support.servers import Server
from tests.support.settings import base_settings
from tests.support.users import ALICE
from tests.tus.target import Target


MAX_SIZE = 1 << 20
COLLECTION = "/buckets/blog/collections/photos"
EXTENSIONS = {
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "checksum",
    "expiration",
    "termination",
}


@contextlib.contextmanager
def ours(folder):
    with (
        _kinto(folder / "usual") as url,
        _kinto(folder / "expiring", resumable_expires_seconds="2") as expiring_url,
    ):
        yield Target(
            creation_url=_urls(url),
            content=_content(folder / "usual" / "files"),
            extensions=EXTENSIONS,
            max_size=MAX_SIZE,
            headers=ALICE,
            metadata={"filename": "story.txt"},
            expiring_url=_urls(expiring_url),
        )


@contextlib.contextmanager
def _kinto(folder, **options):
    """Run a Kinto, and give the URL of its collection."""
    options = {
        "base_path": str(folder / "files"),
        "max_size_bytes": str(MAX_SIZE),
        "resumable_max_open": "1000",
        **options,
    }
    settings = {f"kinto.attachment.{name}": value for name, value in options.items()}
    server = Server("granian", folder, base_settings() | settings)
    try:
        server.wait_until_ready()
        for path in (COLLECTION.removesuffix("/collections/photos"), COLLECTION):
            requests.put(server.url + path, headers=ALICE, timeout=30).raise_for_status()
        yield server.url + COLLECTION
    finally:
        server.stop()


def _urls(collection):
    numbers = itertools.count()
    return lambda: f"{collection}/records/{next(numbers)}/attachment/uploads"


def _content(files):
    def content(created, _):
        record = created.removesuffix("/attachment/uploads")
        answer = requests.get(record, headers=ALICE, timeout=30).json()
        return (files / answer["data"]["attachment"]["location"]).read_bytes()

    return content
