"""The page about the design, compared with the package."""

import re
from pathlib import Path

import kinto_attachment
from tests.support.documentation import page, table
from tests.support.paths import ROOT
from tests.test_architecture import ROWS


DESIGN = "docs/explanation/design"
PACKAGE = Path(kinto_attachment.__file__).parent


def quoted(text):
    return re.findall(r"``([^`]+)``", text)


def modules():
    """Return the modules of the package, but for the empty ones."""
    return {
        str(path.relative_to(PACKAGE).with_suffix(""))
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py" or "def " in path.read_text()
    }


def test_every_module_is_in_the_table():
    described = [name for names, _ in table(DESIGN, "Module") for name in quoted(names)]
    assert sorted(described) == sorted(modules())


def test_the_rows_are_those_of_the_imports():
    assert [set(quoted(rooms)) for _, rooms, _ in table(DESIGN, "Row")] == ROWS


def test_what_is_to_be_changed_exists():
    for _, text in table(DESIGN, "To …"):
        known = modules()
        named = [name for name in quoted(text) if re.fullmatch(r"[a-z_]+(/[a-z_]+)+", name)]
        assert set(named) <= known
        for test in re.findall(r"tests/[\w/]+\.py", text):
            assert (ROOT / test).exists(), test


def test_every_name_in_code_exists():
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    text = page(DESIGN).split("The modules\n", 1)[0]
    for name in re.findall(r"``(\w+)(?:\([^`]*\))?``", text):
        assert re.search(rf"\b{re.escape(name)}\b", source), name
