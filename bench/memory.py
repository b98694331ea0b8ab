"""How much more memory a server takes for a large file than for a small one."""

from dataclasses import dataclass

from bench.client import MIB
from bench.measure import Bar, Figure, Outcome
from bench.workloads import Setup, Workload, run_on


SMALL_BYTES = MIB
LARGE_BYTES = 1024 * MIB
WARM_UPS = 5


@dataclass(frozen=True)
class Memory:
    """The peak of a new server's resident memory (VmHWM), for 1 MiB and then for 1 GiB.

    :ivar limit: by how many MiB it may grow.
    """

    title: str
    kind: str
    setup: Setup
    content: str
    limit: float

    def run(self, environment):
        """Return the two peaks, and the difference."""
        peaks = [self._peak(environment, size) for size in (SMALL_BYTES, LARGE_BYTES)]
        names = ("1 MiB", "1 GiB", "growth")
        amounts = (*peaks, peaks[1] - peaks[0])
        figures = {
            name: Figure(name, "MiB", [amount / MIB])
            for name, amount in zip(names, amounts, strict=True)
        }
        title = f"memory, {self.title}"
        return Outcome(
            title, figures, (Bar(f"{title}: growth, MiB", "growth", at_most=self.limit),)
        )

    def _peak(self, environment, size):
        server = environment.new_server(self.setup)
        try:
            small = Workload("small", self.kind, SMALL_BYTES, self.setup, self.content)
            for _ in range(WARM_UPS):
                run_on(server, small)
            run_on(server, small._replace(size=size))
            return server.peak_memory()
        finally:
            server.stop()
            environment.clear()
