"""Measurements: samples, their median and spread, and the bars that ratios are to reach."""

import statistics
from dataclasses import dataclass, field


@dataclass
class Figure:
    """The samples of one workload.

    :ivar samples: one per round, in the unit.
    :ivar unit: ``ms``, ``s``, ``MB/s``, ``requests/s`` or ``MiB``.
    """

    name: str
    unit: str
    samples: list[float] = field(default_factory=list)

    @property
    def median(self):
        return statistics.median(self.samples)

    @property
    def spread(self):
        """The lower and the upper quartile."""
        if len(self.samples) < 2:
            return self.median, self.median
        lower, _, upper = statistics.quantiles(self.samples, n=4, method="inclusive")
        return lower, upper


@dataclass(frozen=True)
class Bar:
    """A limit of a ratio, or of an amount if there is nothing to divide by.

    :ivar over: the workload that the first one is divided by, round by round.
    :ivar plus: a workload that is added to that.
    :ivar at_least: the least value, or None.
    :ivar at_most: the largest value, or None.
    :ivar stretch_goal: a value that would be better still.
    """

    title: str
    name: str
    over: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    stretch_goal: float | None = None
    plus: str | None = None

    def value(self, figures):
        """Return the median of the ratios of the rounds: a disturbance affects both."""
        samples = figures[self.name].samples
        if self.over is None:
            return statistics.median(samples)
        others = figures[self.over].samples
        if self.plus is not None:
            added = figures[self.plus].samples
            others = [sum(pair) for pair in zip(others, added, strict=True)]
        return statistics.median(
            ours / theirs for ours, theirs in zip(samples, others, strict=True)
        )

    def is_met(self, value):
        if self.at_least is not None:
            return value >= self.at_least
        return value <= self.at_most

    @property
    def limit(self):
        """The bar as it is printed."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


@dataclass
class Outcome:
    """The figures of a scenario, and its bars."""

    scenario: str
    figures: dict[str, Figure]
    bars: tuple[Bar, ...]
