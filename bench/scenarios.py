"""The scenarios of ``make bench`` and of ``make bench-quick``, and their bars: tables."""

import shutil
from dataclasses import replace

from bench.client import MIB
from bench.comparison import Comparison
from bench.deletion import Deletion
from bench.environment import GCS, LOCAL, POSTGRESQL, S3, SYNCED, WITHOUT_PLUGIN, Setup
from bench.listing import Listing
from bench.measure import Bar
from bench.memory import Memory
from bench.resumable import Resumable
from bench.workloads import PREPARED_BY, Workload


KIB = 1024
LARGE = 100 * MIB
SERVERS = ("granian", "waitress", "gunicorn", "uwsgi")


def large(title, setup, bars=(), kinds=("ours", "bare", "usual", "discard"), rounds=15):
    """Compare large files."""
    workloads = tuple(Workload(kind, kind, LARGE, setup) for kind in kinds)
    return Comparison(title, "MB/s", rounds, workloads, bars)


def small(title, setup, kinds, bars, requests=4, rounds=75):
    """Compare small files and records.

    :param kinds: ``{name: kind of the requests}``.
    """
    workloads = tuple(
        Workload(name, kind, KIB, setup, requests=requests) for name, kind in kinds.items()
    )
    return Comparison(title, "ms", rounds, workloads, bars)


def plain_records(title, requests=4, rounds=75):
    """Compare requests on records without attachments with those to a Kinto without the plugin."""
    limits = {"PUT": 1.08, "GET": 1.08, "PATCH": 1.08, "DELETE": 1.1}
    workloads = tuple(
        Workload(f"{method}{suffix}", method.lower(), KIB, setup, requests=requests)
        for method in limits
        for suffix, setup in (("", POSTGRESQL), (", no plugin", WITHOUT_PLUGIN))
    )
    bars = tuple(
        Bar(
            f"{method} of a plain record: plugin / no plugin, time",
            method,
            f"{method}, no plugin",
            at_most=limit,
            stretch_goal=1.03,
        )
        for method, limit in limits.items()
    )
    return Comparison(title, "ms", rounds, workloads, bars)


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


def processes(title, rounds=9, requests=80):
    """Compare one and two processes of a server."""
    workloads = tuple(
        Workload(
            f"{kind}, {count} process{'es' * (count > 1)}",
            kind,
            KIB,
            POSTGRESQL._replace(processes=count),
            clients=8,
            requests=requests // 8,
        )
        for kind in ("ours", "get")
        for count in (1, 2)
    )
    bar = Bar(
        "2 processes / 1, 1 KiB, 8 clients, requests a second",
        "ours, 2 processes",
        "ours, 1 process",
        at_least=1.2,
    )
    return Comparison(title, "requests/s", rounds, workloads, (bar,))


def servers(title, unit, kinds, size, rounds, clients=1, requests=1, **setup):
    """Compare the WSGI servers."""
    workloads = tuple(
        Workload(
            f"{kind}, {server}",
            kind,
            size,
            Setup(server, **setup),
            clients=clients,
            requests=requests,
        )
        for kind in kinds
        for server in SERVERS
    )
    return Comparison(title, unit, rounds, workloads)


def downloads(server, rounds=9):
    """Compare downloads of a large file, with nginx if that is installed."""
    kinds = {"ours": "download", "bare": "bare download"}
    bars = [Bar(f"download, {server}: ours / bare", "ours", "bare", at_least=0.7, stretch_goal=0.9)]
    if shutil.which("nginx"):
        kinds["nginx"] = "nginx"
        bars.append(Bar(f"download, {server}: ours / nginx", "ours", "nginx", at_least=0.5))
    setup = Setup(server)
    workloads = tuple(Workload(name, kind, LARGE, setup) for name, kind in kinds.items())
    return Comparison(f"download of 100 MiB, {server}", "MB/s", rounds, workloads, tuple(bars))


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
    Setup("waitress"),
    (Bar("100 MiB, waitress: ours / bare", "ours", "bare", at_least=0.9),),
    rounds=15,
)
SMALL = small(
    "1 KiB, granian, memory, fsync = false",
    LOCAL,
    {"ours": "ours", "PUT": "put", "usual": "usual"},
    (Bar("1 KiB / plain PUT, time, memory", "ours", "PUT", at_most=1.2, stretch_goal=1.1),),
)
CHANGES = small(
    "changes of records, granian, PostgreSQL, fsync = true",
    POSTGRESQL,
    {
        "attach": "ours",
        "PUT": "put",
        "replace": "replace",
        "detach": "detach",
        "PATCH, attached": "patch attached",
        "DELETE, attached": "delete attached",
        "DELETE": "delete",
        "usual": "usual",
    },
    (
        Bar("attach / plain PUT, time", "attach", "PUT", at_most=1.15, stretch_goal=1),
        Bar(
            "replace / PATCH of an attached record, time",
            "replace",
            "PATCH, attached",
            at_most=1.3,
            stretch_goal=1.15,
        ),
        Bar(
            "detach / PATCH of an attached record, time",
            "detach",
            "PATCH, attached",
            at_most=1.3,
            stretch_goal=1.1,
        ),
        Bar(
            "DELETE of an attached record / of a plain one, time",
            "DELETE, attached",
            "DELETE",
            at_most=1.3,
            stretch_goal=1.15,
        ),
    ),
)
PLAIN_RECORDS = plain_records("plain records, granian, PostgreSQL")
ONE_MIB = Comparison(
    "1 MiB, granian, PostgreSQL, fsync = true",
    "ms",
    31,
    tuple(
        Workload(name, kind, size, POSTGRESQL, requests=5)
        for name, kind, size in (
            ("ours, 1 MiB", "ours", MIB),
            ("ours, 1 KiB", "ours", KIB),
            ("bare, 1 MiB", "bare fsync", MIB),
        )
    ),
    (
        Bar(
            "1 MiB / (1 KiB + bare 1 MiB), time",
            "ours, 1 MiB",
            "ours, 1 KiB",
            at_most=1.15,
            plus="bare, 1 MiB",
        ),
    ),
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
PROCESSES = processes("1 and 2 processes, 8 clients, granian, PostgreSQL, fsync = true")
WSGI_SERVERS = (
    servers(
        "WSGI servers, 1 KiB, PostgreSQL, fsync = true",
        "ms",
        ("ours", "get"),
        KIB,
        rounds=31,
        requests=10,
        records="postgresql",
        fsync=True,
    ),
    servers(
        "WSGI servers, 1 KiB, 8 clients, 2 processes, PostgreSQL, fsync = true",
        "requests/s",
        ("ours", "get"),
        KIB,
        rounds=9,
        clients=8,
        requests=10,
        records="postgresql",
        fsync=True,
        processes=2,
    ),
    servers("WSGI servers, 100 MiB, fsync = false", "MB/s", ("ours", "discard"), LARGE, rounds=9),
)
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
DOWNLOADS = tuple(map(downloads, SERVERS[:2]))
MEMORY = (
    Memory("local", "ours", LOCAL, "random", 8),
    Memory("gzip", "gzip", LOCAL, "text", 8),
    Memory("S3, parts of 8 MiB", "ours", S3, "random", 24),
    *(Memory(server, "ours", Setup(server), "random", 8) for server in SERVERS[1:]),
    Memory("default bucket", "default", LOCAL, "random", 8),
)
RESUMABLE = tuple(
    Resumable(
        f"{size_} MiB, resumable, granian, PostgreSQL, {name}",
        setup._replace(records="postgresql", fsync=True),
        size_ * MIB,
        breaks=30,
        rounds=3,
        at_most=at_most,
        growth=growth,
    )
    for name, setup, size_, at_most, growth in (
        ("local", LOCAL, 1024, 1.5, 8),
        ("S3, parts of 8 MiB", S3, 1024, 1.3, 24),
        # The emulator takes minutes for 1 GiB in one session.
        ("GCS, parts of 8 MiB", GCS, 256, 1.3, 48),
    )
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
    CHANGES,
    PLAIN_RECORDS,
    ONE_MIB,
    CR_LF,
    CR_LF_USUAL,
    CLIENTS,
    PROCESSES,
    *WSGI_SERVERS,
    GZIP,
    TO_S3,
    *DOWNLOADS,
    *MEMORY,
    *RESUMABLE,
    *CURVE,
    Listing(10_000),
    # At the end: after that, making files takes longer for a while (see ``Environment.clear``).
    Deletion("a bucket of 10,000 attachments", 10_000),
    Deletion("a bucket of 2,000 attachments, PostgreSQL", 2_000, POSTGRESQL),
)

QUICK = (
    replace(GRANIAN_LARGE, rounds=2),
    replace(SMALL, rounds=40),
    replace(CHANGES, rounds=10),
    replace(PLAIN_RECORDS, rounds=10),
    replace(CLIENTS, rounds=2),
    Listing(200),
    Deletion("a bucket of 500 attachments", 500, rounds=1),
)
"""What a change of the code is tried with, within a minute."""

SMALLEST = (
    Comparison(
        "1 KiB, once",
        "ms",
        1,
        tuple(Workload(kind, kind, KIB, LOCAL) for kind in ("put", "bare", *PREPARED_BY)),
        (Bar("replace / plain PUT, time", "replace", "put", at_most=1000),),
    ),
    servers("WSGI servers, 1 KiB, once", "ms", ("ours",), KIB, rounds=1),
    replace(RESUMABLE[0], size=MIB, breaks=3, rounds=1, at_most=1000),
    Listing(3, rounds=1),
    Deletion("a bucket of 3 attachments", 3, rounds=1),
)
"""What the suite runs, so that the benchmark works when it is needed."""
