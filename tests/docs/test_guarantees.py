"""The guarantees name tests that exist."""

import re

from tests.support.documentation import page
from tests.support.paths import ROOT


def test_all_tests_of_the_guarantees_exist():
    named = set(re.findall(r"``(test_\w+\.py)``", page("docs/reference/guarantees")))
    assert len(named) >= 8
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}
