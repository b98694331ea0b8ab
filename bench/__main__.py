"""Run the benchmark: ``python -m bench [--quick] [--only WORDS]``."""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench import report
from bench.environment import Environment
from bench.scenarios import QUICK, SCENARIOS, SIZES


RESULTS = Path(__file__).parent.parent / "var" / "bench"


def main():
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within a minute")
    parser.add_argument("--only", default="", help="scenarios with these words in their titles")
    arguments = parser.parse_args()
    scenarios = QUICK if arguments.quick else SCENARIOS
    chosen = [scenario for scenario in scenarios if arguments.only in scenario.title]
    RESULTS.mkdir(parents=True, exist_ok=True)
    stop_on_sigterm()
    print(report.machine())
    results = RESULTS / ("quick.json" if arguments.quick else "bench.json")
    outcomes = []
    with (
        tempfile.TemporaryDirectory(dir=RESULTS) as folder,
        Environment(Path(folder)) as environment,
    ):
        for outcome in _run(chosen, environment):
            outcomes.append(outcome)
            # Each time: a run that is stopped leaves what it has measured.
            report.write_json(results, outcomes)
    print("\nTo reach:", *report.bars_table(outcomes), sep="\n")
    _draw(RESULTS / "bench.png", outcomes)


def stop_on_sigterm():
    """End by an exception then, so that the servers are stopped, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("The benchmark was stopped"))


def _run(scenarios, environment):
    begin = time.monotonic()
    for number, scenario in enumerate(scenarios, 1):
        outcome = scenario.run(environment)
        lines = report.figures_table(outcome)
        elapsed = time.monotonic() - begin
        print(f"\n[{number}/{len(scenarios)}, {elapsed:.0f} s]", "\n".join(lines), flush=True)
        yield outcome


def _draw(path, outcomes):
    if any(outcome.scenario in SIZES for outcome in outcomes):
        from bench.plot import draw

        draw(path, SIZES, outcomes)
        print(f"\nThe plot is {path}")


if __name__ == "__main__":
    main()
