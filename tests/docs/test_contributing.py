"""The README and the page about contributing, compared with what there is."""

import re

from tests.support.documentation import only, page
from tests.support.paths import ROOT


def test_the_documented_targets_of_make_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = only("CONTRIBUTING", "shell", "make") + only("README", "shell", "make")
    assert set(re.findall(r"\bmake ([a-z0-9-]+)", shown)) == targets - {"help"}


def test_the_documented_paths_exist():
    for name in ("README", "CONTRIBUTING", "CHANGELOG"):
        paths = re.findall(r"``((?:docs|tests|config)/[\w./-]*)``|blob/main/([\w./-]+)", page(name))
        assert paths or name == "CHANGELOG"
        for path in paths:
            assert (ROOT / "".join(path)).exists(), path
