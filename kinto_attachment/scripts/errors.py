"""The errors of the scripts."""


class Failure(Exception):
    """A file or a request failed. The message is for people.

    :ivar status: the status of the response, or ``None`` if there is none.
    """

    status: int | None = None


class NotAllowed(Failure):
    """The server responded with 401 or 403."""


class Interrupted(Exception):
    """The user interrupted the script, and its threads have to end."""
