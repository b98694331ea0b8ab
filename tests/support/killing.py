"""A plugin for the tests of crashes: kills the worker, or hangs, at the step that a file names."""

import functools
import os
import signal
import threading
from pathlib import Path

from kinto_attachment import deletions
from kinto_attachment.deletions import Deletions
from kinto_attachment.http.record import Record
from kinto_attachment.links import Links
from kinto_attachment.unit_of_work import UnitOfWork


HALF = 6 * 1024**2
"""More than the first part of an upload to S3."""


def includeme(config):
    """Make each step check if it is the last one, and retry earlier deletions at once."""
    armed = Path(config.get_settings()["killing.armed"])
    deletions.SECONDS_BETWEEN_RETRIES = 0

    def die_at(step):
        if armed.exists() and armed.read_text() == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def hang_at(step):
        if armed.exists() and armed.read_text() == step:
            armed.write_text("hanging")
            threading.Event().wait()

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

    Deletions._process_later = before("committed and not deleted", Deletions._process_later)
    UnitOfWork.add_new_file = before("published", UnitOfWork.add_new_file)
    Record.write = after("record written", Record.write)
    Links.change = after("link written", Links.change)
    storage = config.registry.attachments.files
    delete_many = storage.delete_many

    def delete_or_hang(keys):
        hang_at("deletion hangs")
        return delete_many(keys)

    storage.delete_many = after("deleted and not struck out", delete_or_hang)
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
