"""The scenarios of ``make bench`` and of ``make bench-quick``, and their bars: tables."""

import random
from dataclasses import dataclass, replace

from bench.client import MIB
from bench.deletion import Deletion
from bench.measure import Bar, Figure, Outcome
from bench.memory import Memory
from bench.workloads import Setup, Workload, run


KIB = 1024
LARGE = 100 * MIB

LOCAL = Setup()
SYNCED = Setup(fsync=True)
POSTGRESQL = Setup(records="postgresql", fsync=True)
WAITRESS = Setup("waitress")
S3 = Setup(files="s3")


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
            for workload in self._in_turns(number):
                seconds = run(environment, workload)
                if number:
                    figures[workload.name].samples.append(self._in_unit(workload, seconds))
                environment.clear()
        return Outcome(self.title, figures, self.bars)

    def _in_turns(self, number):
        """Return the workloads in a different order for each round.

        So none always runs after the same one, which leaves its data in the caches.
        """
        return random.Random(number).sample(self.workloads, len(self.workloads))

    def _in_unit(self, workload, seconds):
        if self.unit == "ms":
            return seconds * 1000
        return (workload.size / 1e6 if self.unit == "MB/s" else 1) / seconds


def large(title, setup, bars=(), kinds=("ours", "bare", "usual", "discard"), rounds=7):
    """Compare large files."""
    workloads = tuple(Workload(kind, kind, LARGE, setup) for kind in kinds)
    return Comparison(title, "MB/s", rounds, workloads, bars)


def small(title, setup, bar, requests=10, rounds=31):
    """Compare small files and plain records."""
    workloads = tuple(
        Workload(kind, kind, KIB, setup, requests=requests)
        for kind in ("ours", "put", "again", "usual")
    )
    return Comparison(title, "ms", rounds, workloads, (bar,))


def clients(title, rounds=9, requests=200):
    """Compare one client and eight."""
    workloads = tuple(
        Workload(
            f"{kind}, {count} client{'s' * (count > 1)}",
            kind,
            KIB,
            LOCAL,
            "random",
            count,
            requests // count,
        )
        for kind in ("ours", "put")
        for count in (1, 8)
    )
    bar = Bar(
        "8 clients / 1 client, 1 KiB, requests a second",
        "ours, 8 clients",
        "ours, 1 client",
        at_least=1,
    )
    return Comparison(title, "requests/s", rounds, workloads, (bar,))


def size(label, size, rounds, requests=1):
    """Compare files of one size, a point of the plot."""
    workloads = tuple(
        Workload(kind, kind, size, LOCAL, requests=requests)
        for kind in ("ours", "usual", "bare", "discard")
    )
    return Comparison(label, "MB/s", rounds, workloads)


SIZES = {
    "size 1 KiB": KIB,
    "size 100 KiB": 100 * KIB,
    "size 1 MiB": MIB,
    "size 10 MiB": 10 * MIB,
    "size 100 MiB": LARGE,
    "size 1 GiB": 1024 * MIB,
}
"""The points of the plot."""

SMALL_BAR = {"name": "ours", "over": "put", "at_most": 1.3, "stretch_goal": 1.1}

GRANIAN_LARGE = large(
    "100 MiB, granian, local, fsync = false",
    LOCAL,
    (
        Bar("100 MiB, granian: ours / bare", "ours", "bare", at_least=0.9, stretch_goal=1.1),
        Bar("100 MiB, granian: ours / usual way", "ours", "usual", at_least=6, stretch_goal=9),
    ),
    rounds=15,
)
SYNCED_LARGE = large(
    "100 MiB, granian, local, fsync = true",
    SYNCED,
    (Bar("100 MiB, granian, both synced: ours / bare", "ours", "bare fsync", at_least=0.9),),
    kinds=("ours", "bare fsync"),
)
WAITRESS_LARGE = large(
    "100 MiB, waitress, local, fsync = false",
    WAITRESS,
    (Bar("100 MiB, waitress: ours / bare", "ours", "bare", at_least=0.9),),
    rounds=15,
)
SMALL = small(
    "1 KiB, granian, memory, fsync = false",
    LOCAL,
    Bar("1 KiB / plain PUT, time, memory", **SMALL_BAR),
)
SMALL_POSTGRESQL = small(
    "1 KiB, granian, PostgreSQL, fsync = true",
    POSTGRESQL,
    Bar("1 KiB / plain PUT, time, PostgreSQL, both synced", **SMALL_BAR),
)
CR_LF = Comparison(
    "100 MiB of CR LF",
    "MB/s",
    5,
    (
        Workload("ours, random", "ours", LARGE, LOCAL),
        Workload("ours, CR LF", "ours", LARGE, LOCAL, "crlf"),
        Workload("bare, CR LF", "bare", LARGE, LOCAL, "crlf"),
    ),
    (Bar("100 MiB: CR LF / random", "ours, CR LF", "ours, random", at_least=0.5),),
)
CR_LF_USUAL = Comparison(
    "10 MiB of CR LF",
    "MB/s",
    3,
    (
        Workload("ours, CR LF", "ours", 10 * MIB, LOCAL, "crlf"),
        Workload("usual, CR LF", "usual", 10 * MIB, LOCAL, "crlf"),
    ),
)
CLIENTS = clients("1 KiB, 8 clients, granian, memory")
GZIP = Comparison(
    "100 MiB of text, gzip, granian, local",
    "MB/s",
    3,
    (
        Workload("ours", "gzip", LARGE, LOCAL, "text"),
        Workload("usual", "usual gzip", LARGE, LOCAL, "text"),
    ),
    (Bar("gzip of text: ours / usual way", "ours", "usual", at_least=5),),
)
TO_S3 = Comparison(
    "100 MiB, granian, S3",
    "MB/s",
    5,
    (
        Workload("ours", "ours", LARGE, S3),
        Workload("upload_file", "upload_file", LARGE, S3),
    ),
    (Bar("S3 100 MiB: ours / upload_file", "ours", "upload_file", at_least=0.9),),
)
MEMORY = (
    Memory("local", "ours", LOCAL, "random", 8),
    Memory("gzip", "gzip", LOCAL, "text", 8),
    Memory("S3, parts of 8 MiB", "ours", S3, "random", 24),
    Memory("default bucket", "default", LOCAL, "random", 8),
)
CURVE = (
    size("size 1 KiB", SIZES["size 1 KiB"], 9, requests=50),
    size("size 100 KiB", SIZES["size 100 KiB"], 9, requests=20),
    size("size 1 MiB", SIZES["size 1 MiB"], 9, requests=5),
    size("size 10 MiB", SIZES["size 10 MiB"], 5),
    size("size 100 MiB", SIZES["size 100 MiB"], 3),
    size("size 1 GiB", SIZES["size 1 GiB"], 1),
)

SCENARIOS = (
    GRANIAN_LARGE,
    SYNCED_LARGE,
    WAITRESS_LARGE,
    SMALL,
    SMALL_POSTGRESQL,
    CR_LF,
    CR_LF_USUAL,
    CLIENTS,
    GZIP,
    TO_S3,
    *MEMORY,
    *CURVE,
    # At the end: after that, making files takes longer for a while (see ``Environment.clear``).
    Deletion("a bucket of 10,000 attachments", 10_000),
    Deletion("a bucket of 2,000 attachments, PostgreSQL", 2_000, POSTGRESQL),
)

QUICK = (
    replace(GRANIAN_LARGE, rounds=2),
    replace(WAITRESS_LARGE, rounds=2),
    replace(SMALL, rounds=10),
    replace(SMALL_POSTGRESQL, rounds=10),
    replace(CLIENTS, rounds=2),
    Deletion("a bucket of 500 attachments", 500, rounds=1),
)
"""What a change of the code is tried with, within a minute."""

SMALLEST = (
    Comparison(
        "1 KiB, once",
        "ms",
        1,
        tuple(Workload(kind, kind, KIB, LOCAL) for kind in ("ours", "put", "bare")),
        (Bar("1 KiB / plain PUT, time", "ours", "put", at_most=1000),),
    ),
)
"""What the suite runs, so that the benchmark works when it is needed."""
