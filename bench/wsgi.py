"""The application that is measured: a Kinto with the plugin and the usual way, and the rivals."""

import os

from pyramid.paster import get_app, setup_logging

from bench import rivals


setup_logging(os.environ["KINTO_INI"])
kinto = get_app(os.environ["KINTO_INI"])


def application(environ, start_response):
    """Serve the rivals before Kinto: they pay for none of it."""
    rival = {"/bare": rivals.bare, "/discard": rivals.discard}.get(environ["PATH_INFO"], kinto)
    return rival(environ, start_response)
