"""Workers that are forks of the process of the tests, and share its database and its files."""

import os
import signal

import transaction

from tests.support.resumable import states


def die_after(owner, name, detail=None):
    """Kill this process after the call of a function.

    :param detail: the name or the value of an argument that the call has, or ``transaction`` for
        the commit that follows.
    """
    function = getattr(owner, name)

    def dying(*args, **kwargs):
        result = function(*args, **kwargs)
        if detail == "transaction":
            args[0]._transactions.restart()
            run = args[0]._transactions.run
            args[0]._transactions.run = lambda *more: (run(*more), kill())
        elif detail is None or detail in (*args, *kwargs):
            kill()
        return result

    setattr(owner, name, dying)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(app, step, action):
    """Have a process do something, and be killed at a step of it."""
    child = os.fork()
    if child == 0:
        try:
            for backend in (app.registry.storage, app.registry.permission, app.registry.cache):
                # The connections are those of the other process.
                backend.client.session_factory().get_bind().dispose(close=False)
            die_after(*step)
            action()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the process should reach the step"


def expire_all(app):
    """Let all uploads expire, and what is left of them be deleted."""
    for state in states(app):
        parent = f"__attachments__/uploads{state['record_uri']}"
        app.registry.storage.update(
            "attachment-uploads", parent, state["id"], {**state, "expires": 1}
        )
    transaction.commit()
    app.registry.attachments.uploads.clear_expired()
    app.wait_for_deletions()
