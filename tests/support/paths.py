"""Where the project is, and where its commands are."""

import sys
from pathlib import Path


ROOT = Path(__file__).parent.parent.parent
SCRIPTS = Path(sys.executable).parent
