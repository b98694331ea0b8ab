"""The tables of the oracles."""

from pathlib import Path

from tests.tus.oracles import DIFFERENCES, EXTENSIONS, ORACLES


def test_every_difference_is_one_of_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for names in DIFFERENCES.values():
        assert [name for name in names if f"def {name.partition('[')[0]}(" not in tests] == []
    assert ORACLES.keys() == DIFFERENCES.keys() == EXTENSIONS.keys()
