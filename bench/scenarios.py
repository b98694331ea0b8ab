"""The scenarios of ``make bench`` and of ``make bench-quick``, and their bars: tables."""

import random
from dataclasses import dataclass, replace

from bench.client import MIB
from bench.deletion import Deletion
from bench.measure import Bar, Figure, Outcome
from bench.memory import Memory
from bench.ways import Contestant, Place, run


KIB = 1024
LARGE = 100 * MIB

LOCAL = Place()
SYNCED = Place(fsync=True)
POSTGRESQL = Place(records="postgresql", fsync=True)
WAITRESS = Place("waitress")
S3 = Place(files="s3")


@dataclass(frozen=True)
class Race:
    """Contestants that run in turns.

    :ivar unit: in which the figures are told, ``ms``, ``MB/s`` or ``requests/s``.
    """

    title: str
    unit: str
    rounds: int
    contestants: tuple[Contestant, ...]
    bars: tuple[Bar, ...] = ()

    def run(self, ground):
        """Return what has come out of it, the first round of each not counted."""
        figures = {c.name: Figure(c.name, self.unit) for c in self.contestants}
        for number in range(self.rounds + 1):
            for contestant in self._in_turns(number):
                seconds = run(ground, contestant)
                if number:
                    figures[contestant.name].samples.append(self._in_unit(contestant, seconds))
                ground.clear()
        return Outcome(self.title, figures, self.bars)

    def _in_turns(self, number):
        """Return the contestants in an order of its own for each round.

        So nobody always runs after the same one, which leaves more or less behind in the caches.
        """
        return random.Random(number).sample(self.contestants, len(self.contestants))

    def _in_unit(self, contestant, seconds):
        if self.unit == "ms":
            return seconds * 1000
        return (contestant.size / 1e6 if self.unit == "MB/s" else 1) / seconds


def large(title, place, bars=(), ways=("ours", "bare", "usual", "discard"), rounds=7):
    """Return the race of large files."""
    contestants = tuple(Contestant(way, way, LARGE, place) for way in ways)
    return Race(title, "MB/s", rounds, contestants, bars)


def small(title, place, bar, requests=10, rounds=31):
    """Return the race of small files and plain records."""
    contestants = tuple(
        Contestant(way, way, KIB, place, requests=requests)
        for way in ("ours", "put", "again", "usual")
    )
    return Race(title, "ms", rounds, contestants, (bar,))


def clients(title, rounds=9, requests=200):
    """Return the race of one client and of eight."""
    contestants = tuple(
        Contestant(
            f"{way}, {count} client{'s' * (count > 1)}",
            way,
            KIB,
            LOCAL,
            "random",
            count,
            requests // count,
        )
        for way in ("ours", "put")
        for count in (1, 8)
    )
    bar = Bar(
        "8 clients / 1 client, 1 KiB, requests a second",
        "ours, 8 clients",
        "ours, 1 client",
        at_least=1,
    )
    return Race(title, "requests/s", rounds, contestants, (bar,))


def size(label, size, rounds, requests=1):
    """Return the race of one point of the plot."""
    contestants = tuple(
        Contestant(way, way, size, LOCAL, requests=requests)
        for way in ("ours", "usual", "bare", "discard")
    )
    return Race(label, "MB/s", rounds, contestants)


SIZES = {
    "size 1 KiB": KIB,
    "size 100 KiB": 100 * KIB,
    "size 1 MiB": MIB,
    "size 10 MiB": 10 * MIB,
    "size 100 MiB": LARGE,
    "size 1 GiB": 1024 * MIB,
}
"""The points of the plot."""

SMALL_BAR = {"name": "ours", "over": "put", "at_most": 1.3, "hope": 1.1}

GRANIAN_LARGE = large(
    "100 MiB, granian, local, fsync = false",
    LOCAL,
    (
        Bar("100 MiB, granian: ours / bare", "ours", "bare", at_least=0.9, hope=1.1),
        Bar("100 MiB, granian: ours / usual way", "ours", "usual", at_least=6, hope=9),
    ),
    rounds=15,
)
SYNCED_LARGE = large(
    "100 MiB, granian, local, fsync = true",
    SYNCED,
    (Bar("100 MiB, granian, both synced: ours / bare", "ours", "bare fsync", at_least=0.9),),
    ways=("ours", "bare fsync"),
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
CR_LF = Race(
    "100 MiB of CR LF",
    "MB/s",
    5,
    (
        Contestant("ours, random", "ours", LARGE, LOCAL),
        Contestant("ours, CR LF", "ours", LARGE, LOCAL, "crlf"),
        Contestant("bare, CR LF", "bare", LARGE, LOCAL, "crlf"),
    ),
    (Bar("100 MiB: CR LF / random", "ours, CR LF", "ours, random", at_least=0.5),),
)
CR_LF_USUAL = Race(
    "10 MiB of CR LF",
    "MB/s",
    3,
    (
        Contestant("ours, CR LF", "ours", 10 * MIB, LOCAL, "crlf"),
        Contestant("usual, CR LF", "usual", 10 * MIB, LOCAL, "crlf"),
    ),
)
CLIENTS = clients("1 KiB, 8 clients, granian, memory")
GZIP = Race(
    "100 MiB of text, gzip, granian, local",
    "MB/s",
    3,
    (
        Contestant("ours", "gzip", LARGE, LOCAL, "text"),
        Contestant("usual", "usual gzip", LARGE, LOCAL, "text"),
    ),
    (Bar("gzip of text: ours / usual way", "ours", "usual", at_least=5),),
)
TO_S3 = Race(
    "100 MiB, granian, S3",
    "MB/s",
    5,
    (
        Contestant("ours", "ours", LARGE, S3),
        Contestant("upload_file", "upload_file", LARGE, S3),
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
    # At the end: after that, making files takes longer for a while (see ``Ground.clear``).
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
    Race(
        "1 KiB, once",
        "ms",
        1,
        tuple(Contestant(way, way, KIB, LOCAL) for way in ("ours", "put", "bare")),
        (Bar("1 KiB / plain PUT, time", "ours", "put", at_most=1000),),
    ),
)
"""What the suite runs, so that the benchmark works when it is needed."""
