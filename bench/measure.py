"""What is measured: samples, their median and spread, and the ratios that there are bars for."""

import statistics
from dataclasses import dataclass, field


@dataclass
class Figure:
    """What was measured of one contestant.

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
    """What is to be reached: a ratio, or an amount where there is nothing to divide by.

    :ivar over: the contestant that the first one is divided by, round by round.
    :ivar at_least: the least value, if that is the bar.
    :ivar at_most: the largest, if that is.
    :ivar hope: what would be better still.
    """

    title: str
    name: str
    over: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    hope: float | None = None

    def value(self, figures):
        """Return the median of the ratios of the rounds: what disturbs one disturbs both."""
        samples = figures[self.name].samples
        if self.over is None:
            return statistics.median(samples)
        return statistics.median(
            ours / theirs for ours, theirs in zip(samples, figures[self.over].samples, strict=True)
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
    """What has come out of a scenario."""

    scenario: str
    figures: dict[str, Figure]
    bars: tuple[Bar, ...]
