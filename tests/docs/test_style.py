"""The form of the pages."""

import re

import pytest

from tests.support.documentation import NAMES, page


MAX_CHARACTERS = 100

CANNOT_BE_WRAPPED = re.compile(
    # What a terminal shows, a row of a table, a long URL or a dotted name.
    r"^\.\. code-block:: console\n\n(?:(?: {4}.*)?\n)+|^=+  .*\n(?:.+\n)+|.*\S{60}.*\n",
    re.MULTILINE,
)


@pytest.mark.parametrize("name", NAMES)
def test_no_line_is_too_long(name):
    text = CANNOT_BE_WRAPPED.sub("", page(name))
    assert [line for line in text.splitlines() if len(line) > MAX_CHARACTERS] == []


def test_the_readme_is_short():
    assert len(page("README").splitlines()) <= 220
