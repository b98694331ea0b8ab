"""The limits of ids and of names in a storage."""

import re


MAX_NAME_BYTES = 255
"""The longest name that file systems allow in a path."""

MAX_RID = 100
"""How many characters of a record's id go into the name of its file."""

MAX_STEM = 180
"""The longest name made of a random one, so that an extension fits behind it."""

MAX_FOLDER_LEVELS = 15
"""How many folders a file may be in, so that its key is found at the end of any URL."""

PRIVATE = "private"
"""The first folder of the files that are fetched with the permission on their record only."""

MAX_LINK_SECONDS = 7 * 86400
"""How long presigned URLs of S3 and of Google Cloud Storage are valid at most."""

ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]*")
"""An id that Kinto gives a bucket or a collection (``kinto.core.storage.generators``)."""
