#!/usr/bin/env python
"""Upload files as the attachments of records: see ``--help``."""

import sys
from pathlib import Path


# For a checkout, where only kinto-http is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kinto_attachment.scripts.upload import main  # noqa: E402


if __name__ == "__main__":
    sys.exit(main())
