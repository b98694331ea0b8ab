"""The command ``kinto-attachment``, which maintains the files of a server beside it."""

import warnings


# Before Pyramid is imported. The user of the command cannot do anything about this warning.
warnings.filterwarnings(
    "ignore", "pkg_resources is deprecated as an API", UserWarning, r"pyramid\.path$"
)
