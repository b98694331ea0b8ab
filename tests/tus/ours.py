"""This plugin, with its files in a folder or in a bucket."""

import contextlib
import itertools

import requests

from tests.support.scripts import script_storage, start_server
from tests.support.users import ALICE
from tests.tus.target import Target


MAX_SIZE = 1 << 20

EXTENSIONS = {
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "termination",
    "expiration",
    "checksum",
}


@contextlib.contextmanager
def local(folder, request):
    with (
        script_storage(request) as storage,
        _kinto(folder / "usual", storage) as creation_url,
        _kinto(folder / "expiring", storage, attachment__resumable_expires_seconds="2") as expiring,
    ):
        yield _target(creation_url, expiring_url=expiring)


@contextlib.contextmanager
def bucket(folder, request):
    with script_storage(request) as storage, _kinto(folder, storage) as creation_url:
        yield _target(creation_url)


@contextlib.contextmanager
def _kinto(folder, storage, **settings):
    """Run a Kinto, and return a function that returns the URL for uploads of another record."""
    folder.mkdir(exist_ok=True)
    server = start_server(
        folder,
        storage,
        attachment__max_size_bytes=str(MAX_SIZE),
        attachment__resumable_max_open="1000",
        **settings,
    )
    try:
        collection = f"{server.url}/buckets/blog/collections/photos"
        for url in (collection.removesuffix("/collections/photos"), collection):
            requests.put(url, headers=ALICE, timeout=30).raise_for_status()
        numbers = itertools.count()
        yield lambda: f"{collection}/records/record-{next(numbers)}/attachment/uploads"
    finally:
        server.stop()


def _target(creation_url, **more):
    metadata = {"filename": "story.txt"}
    return Target(creation_url, _content, EXTENSIONS, MAX_SIZE, ALICE, metadata, **more)


def _content(creation_url, _):
    record_url = creation_url.removesuffix("/attachment/uploads")
    record = requests.get(record_url, headers=ALICE, timeout=30).json()["data"]
    return requests.get(record["attachment"]["location"], timeout=30).content


OURS = {"local": local, "s3": bucket, "gcs": bucket}

TRIED = dict.fromkeys(OURS, EXTENSIONS - {"expiration"}) | {"local": EXTENSIONS}
"""The extensions that are tried with each. (Expiration needs a server of its own.)"""
