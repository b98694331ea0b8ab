"""The modules and who knows whom: each imports only from the rows below its own."""

import ast
from pathlib import Path

import kinto_attachment


ROWS = [
    {"commands"},
    {"kinto_attachment"},
    {"http", "listeners", "migration"},
    {"attachments"},
    {"reconcile", "deletions"},
    {"links"},
    {"legacy_links"},
    {"locks", "paging"},
    {"unit_of_work", "metadata"},
    {"kinto_internals", "form", "storage"},
    {"settings", "errors", "uris"},
    {"scripts", "playground"},
    {"background", "console"},
]
PACKAGE = Path(kinto_attachment.__file__).parent


def row_of(module):
    return next(number for number, row in enumerate(ROWS) if module in row)


def module_of(path):
    """Return the module, or the package inside of ours, that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return "kinto_attachment" if first == "__init__.py" else first.removesuffix(".py")


def imported_by(path):
    """Return those of our modules that a file imports."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        else:
            continue
        modules |= {name.split(".")[1] for name in dotted if name.startswith("kinto_attachment.")}
    return modules


def test_every_module_has_its_row():
    assert {module_of(path) for path in PACKAGE.rglob("*.py")} == set().union(*ROWS)


def test_modules_import_only_from_rows_below_their_own():
    wrong = [
        f"{module_of(path)} imports {imported}"
        for path in PACKAGE.rglob("*.py")
        for imported in imported_by(path) - {module_of(path)}
        if row_of(imported) <= row_of(module_of(path))
    ]
    assert wrong == []


def test_form_knows_no_request_and_no_storage():
    source = "".join(path.read_text() for path in (PACKAGE / "form").glob("*.py"))
    assert "request." not in source
    assert "transaction" not in source
