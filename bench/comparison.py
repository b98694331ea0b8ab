"""A comparison: workloads that take turns in rounds."""

import random
from dataclasses import dataclass

from bench.measure import Bar, Figure, Outcome
from bench.workloads import Workload, run


@dataclass(frozen=True)
class Comparison:
    """Workloads that run in turns.

    :ivar unit: of the figures: ``ms``, ``MB/s`` or ``requests/s``.
    """

    title: str
    unit: str
    rounds: int
    workloads: tuple[Workload, ...]
    bars: tuple[Bar, ...] = ()

    def run(self, environment):
        """Return its outcome; the first round is not counted."""
        figures = {c.name: Figure(c.name, self.unit) for c in self.workloads}
        for number in range(self.rounds + 1):
            for workload in in_turns(self.workloads, number):
                seconds = run(environment, workload)
                if number:
                    figures[workload.name].samples.append(self._in_unit(workload, seconds))
                environment.clear()
        return Outcome(self.title, figures, self.bars)

    def _in_unit(self, workload, seconds):
        if self.unit == "ms":
            return seconds * 1000
        return (workload.size / 1e6 if self.unit == "MB/s" else 1) / seconds


def in_turns(workloads, number):
    """Return the workloads in a different order for each round.

    So none always runs after the same one, which leaves its data in the caches.
    """
    return random.Random(number).sample(workloads, len(workloads))
