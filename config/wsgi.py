"""The WSGI application for servers that import one, like granian: ``KINTO_INI`` names the file."""

import os

from pyramid.paster import get_app, setup_logging


setup_logging(os.environ["KINTO_INI"])
application = get_app(os.environ["KINTO_INI"])
