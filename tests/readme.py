"""The README's examples, as they are printed."""

import re
import textwrap

from tests.support import ROOT


CODE_BLOCK = re.compile(
    r"^\.\. code-block:: (?P<language>\w+)\n\n(?P<code>(?:(?: {4}.*)?\n)+)", re.MULTILINE
)


def blocks(language):
    """Return the code blocks of a language, in their order."""
    readme = (ROOT / "README.rst").read_text()
    return [
        textwrap.dedent(block["code"]).strip()
        for block in CODE_BLOCK.finditer(readme)
        if block["language"] == language
    ]
