"""A plugin for the tests of crashes: kills the worker (SIGKILL) at the step that a file names."""

import functools
import os
import signal
from pathlib import Path

from kinto_attachment import records, releases
from kinto_attachment.releases import Releases
from kinto_attachment.unit_of_work import TransactionFiles


HALF = 6 * 1024**2
"""More than the first part of an upload to S3."""


def includeme(config):
    """Have all steps look whether they are the last one, and earlier releases be tried at once."""
    armed = Path(config.get_settings()["killing.armed"])
    releases.SECONDS_BETWEEN_TRIES = 0

    def die_at(step):
        if armed.exists() and armed.read_text() == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(step, function):
        @functools.wraps(function)
        def dying(*args, **kwargs):
            die_at(step)
            return function(*args, **kwargs)

        return dying

    def after(step, function):
        @functools.wraps(function)
        def dying(*args, **kwargs):
            result = function(*args, **kwargs)
            die_at(step)
            return result

        return dying

    def settle(self, success, ids):
        if success and ids:
            die_at("committed and not deleted")
        return after_commit(self, success, ids)

    after_commit, Releases._after_commit = Releases._after_commit, settle
    TransactionFiles.created = before("published", TransactionFiles.created)
    records.write = after("record written", records.write)
    records.add_link = after("link written", records.add_link)
    storage = config.registry.attachment_storage
    storage.delete_many = after("deleted and not struck out", storage.delete_many)
    storage.stage = functools.partial(_stage, storage.stage, die_at)


def _stage(stage, die_at, *args, **kwargs):
    staged = stage(*args, **kwargs)
    write, publish = staged.write, staged.publish
    written = 0

    def write_half(chunk):
        nonlocal written
        write(chunk)
        written += len(chunk)
        if written > HALF:
            die_at("staged half")

    def publish_nothing():
        die_at("staged whole")
        return publish()

    staged.write, staged.publish = write_half, publish_nothing
    return staged
