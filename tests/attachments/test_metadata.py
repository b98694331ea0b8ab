"""When two values are the same JSON."""

import itertools

import pytest

from kinto_attachment.metadata import are_equal


DIFFERENT = [
    None,
    True,
    1,
    1.0,
    "1",
    [],
    [1],
    [True],
    [1, 1],
    {},
    {"size": 1},
    {"size": True},
    {"size": 1, "hash": None},
    {"hash": 1},
    {"original": {"size": 1}},
    {"original": {"size": 1.0}},
]


@pytest.mark.parametrize(("one", "other"), itertools.combinations(DIFFERENT, 2))
def test_values_that_are_not_the_same_json_differ(one, other):
    assert not are_equal(one, other)
    assert not are_equal(other, one)


@pytest.mark.parametrize("value", [*DIFFERENT, {"b": [1, {"c": None}], "a": {"d": "é"}}])
def test_a_value_equals_its_copy_whatever_the_order_of_its_names(value):
    copied = dict(reversed(value.items())) if isinstance(value, dict) else value
    assert are_equal(value, copied)


def test_a_tuple_is_an_array():
    assert are_equal((1, "a"), [1, "a"])
