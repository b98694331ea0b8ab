"""What the tests of the local storage share: files to store, to leave behind and to list."""

import logging
import os
import time


HOUR = 3600


def store(storage, name, content=b"content", unique=False):
    staged = storage.stage(name, "text/plain", unique=unique)
    staged.write(content)
    return staged.publish()


def listing(storage):
    """Return the names of all files in the storage's folder, staged files included."""
    root = storage.base_path
    return sorted(
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root)
        for name in names
    )


def raising(number):
    """Return a function that always fails with this error."""

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def leave(path, content=b"half", age=HOUR):
    """Write a file that was last changed some time ago, and return its path."""
    with open(path, "wb") as file:
        file.write(content)
    make_older(path, age)
    return path


def make_older(path, age=HOUR):
    os.utime(path, (time.time() - age,) * 2, follow_symlinks=False)


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def make_folder(path):
    os.mkdir(path)
    leave(os.path.join(path, "thumbnail.jpg"))
