"""The command ``kinto-attachment``: looks after the files of a server, beside it.

The server imports nothing of it.
"""

import warnings


# Before Pyramid is imported: who runs the command can do nothing about how Pyramid finds its files.
warnings.filterwarnings(
    "ignore", "pkg_resources is deprecated as an API", UserWarning, r"pyramid\.path$"
)
