#!/usr/bin/env python
"""Download the attachments of a collection into a folder: see ``--help``."""

import sys
from pathlib import Path


# For a checkout, where only kinto-http is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kinto_attachment.scripts.download import main  # noqa: E402


if __name__ == "__main__":
    sys.exit(main())
