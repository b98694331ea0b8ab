"""The servers that the tests see: this plugin, or others (``TUS_ORACLES``) with differences."""

import os
from pathlib import Path

import pytest

from tests.tus.client import Tus
from tests.tus.oracles import DIFFERENCES, EXTENSIONS, ORACLES
from tests.tus.ours import OURS, TRIED


FOLDER = Path(__file__).parent
TARGETS = ORACLES if os.environ.get("TUS_ORACLES") else OURS


def pytest_generate_tests(metafunc):
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", TARGETS, indirect=True, scope="session")


def pytest_collection_modifyitems(config, items):
    """Leave out the tests of extensions that a server lacks, and mark its differences."""
    # All items of the run come here.
    here = [item for item in items if item.path.parent == FOLDER and "target" in item.fixturenames]
    lacking = [item for item in here if not is_applicable(item)]
    items[:] = [item for item in items if item not in lacking]
    config.hook.pytest_deselected(items=lacking)
    for item in here:
        reason = difference(item)
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def is_applicable(item):
    needed = {marker.args[0] for marker in item.iter_markers("extension")}
    return needed <= {**EXTENSIONS, **TRIED}[target_of(item)]


def target_of(item):
    return item.callspec.params["target"]


def difference(item):
    """Return the reason why the test of a server is expected to fail, or ``None``."""
    known = DIFFERENCES.get(target_of(item), {})
    parameter = item.callspec.id.removeprefix(target_of(item)).removeprefix("-")
    return known.get(item.originalname) or known.get(f"{item.originalname}[{parameter}]")


@pytest.fixture(scope="session")
def target(external, request, tmp_path_factory):
    with TARGETS[request.param](tmp_path_factory.mktemp(request.param), request) as target:
        yield target


@pytest.fixture
def tus(target):
    """A client of the server, with a URL for its uploads."""
    return Tus(target)
