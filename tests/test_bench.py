"""The benchmark runs, and says which bars are met and which are missed."""

import json

import pytest

from bench import report
from bench.client import MIB
from bench.environment import Environment
from bench.measure import Bar, Figure, Outcome
from bench.scenarios import SMALLEST


@pytest.mark.external
def test_the_smallest_scenario_measures_every_workload(tmp_path):
    with Environment(tmp_path) as environment:
        outcomes = [scenario.run(environment) for scenario in SMALLEST]
        for name, size in (("small", MIB), ("large", MIB + 1)):
            (environment.files / name).write_bytes(bytes(size))
        environment.clear()
        assert (environment.files / "small").exists()
        assert not (environment.files / "large").exists()
    (outcome,) = outcomes
    assert outcome.figures.keys() == {"ours", "put", "bare"}
    assert all(figure.median > 0 for figure in outcome.figures.values())
    report.write_json(tmp_path / "bench.json", outcomes)
    (scenario,) = json.loads((tmp_path / "bench.json").read_text())["scenarios"]
    assert [bar["met"] for bar in scenario["bars"]] == [True]


@pytest.fixture
def outcome():
    figures = {
        "ours": Figure("ours", "MB/s", [100, 20, 300]),
        "bare": Figure("bare", "MB/s", [200, 20, 200]),
    }
    bars = (
        Bar("ours / bare", "ours", "bare", at_least=0.9, stretch_goal=1.1),
        Bar("ours", "ours", at_most=99),
    )
    return Outcome("100 MiB", figures, bars)


def test_a_ratio_is_the_median_of_those_of_the_rounds(outcome):
    assert outcome.bars[0].value(outcome.figures) == 1


def test_figures_have_their_quartiles(outcome):
    assert outcome.figures["ours"].spread == (60, 200)
    assert "100.00 MB/s       (60.00 to 200.00, 3 rounds)" in report.figures_table(outcome)[1]


def test_a_bar_is_met_or_missed(outcome):
    met, missed = report.bars_table([outcome])
    assert met.endswith("1.00  ≥ 0.9, stretch goal 1.1: met")
    assert missed.endswith("100.00  ≤ 99: MISSED")
