"""The measured application: a Kinto with the plugin and the usual way, and the baselines."""

import os

from pyramid.paster import get_app, setup_logging

from bench import baselines


setup_logging(os.environ["KINTO_INI"])
kinto = get_app(os.environ["KINTO_INI"])
BASELINES = {
    "/bare": baselines.bare,
    "/bare-file": baselines.bare_file,
    "/discard": baselines.discard,
}


def application(environ, start_response):
    """Serve the baselines without calling Kinto, so that they do not pay for it."""
    return BASELINES.get(environ["PATH_INFO"], kinto)(environ, start_response)
