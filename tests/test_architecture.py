"""The modules and who knows whom: each imports only from the rows below its own."""

import ast
from pathlib import Path

import kinto_attachment


ROWS = [
    {"commands"},
    {"kinto_attachment"},
    {"http", "listeners", "migration"},
    {"attachments"},
    {"copies", "resumable"},
    {"reconcile", "deletions"},
    {"retention"},
    {"links"},
    {"legacy_links"},
    {"locks", "paging", "writes"},
    {"unit_of_work", "metadata"},
    {"form", "storage"},
    {"kinto_internals"},
    {"settings", "errors", "signatures", "uris"},
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


EDGES = {"http", "listeners", "kinto_attachment", "playground", "kinto_internals", "scripts"}
"""What may see a request: the HTTP edges, and the room of what Kinto does not document."""

DOCUMENTED = {
    "kinto.core": {"Service", "metrics"},
    "kinto.core.authorization": {"DYNAMIC"},
    "kinto.core.errors": {"ERRORS", "http_error", "raise_invalid"},
    "kinto.core.events": {"ACTIONS", "ResourceChanged"},
    "kinto.core.resource.schema": {
        "ErrorResponseSchema",
        "PermissionsSchema",
        "ResponseHeaderSchema",
    },
    "kinto.core.storage": {"Filter", "Sort", "memory"},
    "kinto.core.storage.exceptions": {"BackendError", "IntegrityError", "ObjectNotFoundError"},
    "kinto.core.storage.postgresql": {"PostgreSQLPluginMigration"},
    "kinto.core.utils": {"COMPARISON", "instance_uri", "json", "sqlalchemy"},
    "kinto.events": {"ServerFlushed"},
}
"""The names of Kinto for plugins (its documentation, and what it exports for them)."""


def sources(*without):
    return [path for path in PACKAGE.rglob("*.py") if module_of(path) not in without]


def test_only_the_edges_see_a_request():
    seen = [
        f"{path.relative_to(PACKAGE)}: {node.arg}"
        for path in sources(*EDGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.arg) and node.arg in ("request", "environ")
    ]
    # Kinto calls a heartbeat with the request, and the others are those of botocore and requests.
    assert sorted(seen) == [
        "storage/gcs/transport.py: request",
        "storage/heartbeat.py: request",
        "storage/s3/presigned.py: request",
        "storage/s3/transport.py: request",
    ]


def test_only_one_module_uses_what_kinto_does_not_document():
    used = {
        f"{path.relative_to(PACKAGE)}: {node.module}.{alias.name}"
        for path in sources("kinto_internals")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kinto"
        for alias in node.names
        if alias.name not in DOCUMENTED.get(node.module, ())
    }
    assert used == set()


def test_private_attributes_are_used_by_their_own_class_only():
    """Beyond ``self``: of objects of the same class, which compare or copy themselves."""
    used = [
        f"{path.relative_to(PACKAGE)}: {ast.unparse(node)}"
        for path in sources("kinto_internals")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and ast.unparse(node) != "os._exit"
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        and not ast.unparse(node.value).startswith("self.")
    ]
    assert used == []


def test_no_module_is_longer_than_400_lines():
    lines = {path.name: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: number for name, number in lines.items() if number > 400} == {}
