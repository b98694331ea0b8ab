"""The threads that the plugin starts for work in the background."""

import threading

from kinto_attachment import background


def threads():
    """Return all threads for work in the background, busy or idle."""
    return [one for one in threading.enumerate() if one.name == background.THREADS_NAME]


def busy_threads():
    """Return how many of them work."""
    return len(threads()) - background.THREADS._idle
