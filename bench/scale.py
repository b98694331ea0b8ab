"""How requests, deletions and commands do with a million attachments: ``make bench-scale``.

Two servers take turns: one with 10,000 attachments, the other with as many as ``--count`` says.
"""

import argparse
import configparser
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import report
from bench.__main__ import RESULTS, stop_on_sigterm
from bench.client import NO_BODY, Client, form, json_body
from bench.environment import Environment
from bench.measure import Bar, Figure, Outcome
from bench.population import Population
from bench.workloads import PLAIN_RECORD
from tests.support.paths import ROOT, SCRIPTS


FEW = 10_000
KIB = 1024
MIB = 1024 * KIB

REQUESTS = {
    "new attachment": lambda it: ("POST", f"{it.new_record()}/attachment", form(KIB)),
    "replace": lambda it: ("POST", f"{it.attached_record()}/attachment", form(KIB)),
    "PATCH": lambda it: ("PATCH", it.attached_record(), json_body({"data": {"title": "new"}})),
    "detach": lambda it: ("DELETE", f"{it.attached_record()}/attachment", NO_BODY),
    "DELETE": lambda it: ("DELETE", it.attached_record(), NO_BODY),
    "PUT of a plain record": lambda it: ("PUT", it.new_record(), json_body({"data": PLAIN_RECORD})),
    "list of 100 records": lambda it: ("GET", f"{it.records}?_limit=100", NO_BODY),
}
"""``{name: method, path and body}``, of a population."""

COMMANDS = {
    "check": (["check", "--grace", "0"], 90, 45),
    "repair --dry-run": (["repair", "--dry-run", "--grace", "0"], 90, 45),
    "copy --quick": (["copy", "--quick"], None, None),
}
"""``{name: (arguments, seconds for a million attachments, stretch goal)}``."""

# A process of its own: Linux counts the memory of the one that starts a command as the command's.
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def main():
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="the number of attachments")
    parser.add_argument("--rounds", type=int, default=21, help="of requests; of all else up to 3")
    parser.add_argument("--only", default="", help="requests, commands or deletions")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    stop_on_sigterm()
    print(report.machine(), flush=True)
    outcomes = []
    with tempfile.TemporaryDirectory(dir=RESULTS) as folder:
        for outcome in run(Path(folder), arguments.count, arguments.rounds, arguments.only):
            outcomes.append(outcome)
            report.write_json(RESULTS / "scale.json", outcomes)
            print("", *report.figures_table(outcome), sep="\n", flush=True)
    print("\nTo reach:", *report.bars_table(outcomes), sep="\n")


def run(folder, count, rounds, only="", few=FEW):
    """Yield the outcomes of all scenarios.

    :param only: a part of the names of the scenarios to run.
    """
    rare = min(rounds, 3)
    with Environment(folder / "few") as small, Environment(folder / "many") as large:
        begin = time.monotonic()
        populations = [Population(small, few), Population(large, count, deletions=rare)]
        print(f"Made {count:,} attachments in {time.monotonic() - begin:.0f} s", flush=True)
        scenarios = {
            "requests": lambda: _requests(populations, rounds),
            "commands": lambda: _commands(populations[1], folder, rare),
            "deletions": lambda: _deletions(populations[1]),
        }
        for name, outcomes in scenarios.items():
            if only in name:
                yield from outcomes()


def _requests(populations, rounds, at_once=10):
    """Yield the times of the requests, in milliseconds, side by side."""
    names = [f"{population.count:,} attachments" for population in populations]
    figures = {kind: {name: Figure(name, "ms") for name in names} for kind in REQUESTS}
    clients = [Client(population.server.port) for population in populations]
    # The first round is not counted.
    for number in range(rounds + 1):
        for kind in random.Random(number).sample(list(REQUESTS), len(REQUESTS)):
            turns = list(zip(names, populations, clients, strict=True))
            for name, population, client in turns[:: -1 if number % 2 else 1]:
                seconds = _send(client, population, kind, at_once)
                if number:
                    figures[kind][name].samples.append(seconds * 1000)
    for client in clients:
        client.close()
    few, many = names
    for kind in REQUESTS:
        title = f"{kind}: time with {many} / with {few}"
        yield Outcome(kind, figures[kind], (Bar(title, many, few, at_most=1.1),))


def _send(client, population, kind, at_once):
    """Return the seconds that one of some requests takes."""
    requests = [REQUESTS[kind](population) for _ in range(at_once)]
    begin = time.perf_counter()
    for method, path, body in requests:
        client.send(method, path, body)
    return (time.perf_counter() - begin) / at_once


def _commands(population, folder, rounds):
    """Yield the seconds and the peak memory of the commands."""
    target = folder / "target"
    shutil.copytree(population.files, target, copy_function=os.link)
    ini = _with_base_path(population.server.ini, target)
    for name, (arguments, seconds, goal) in COMMANDS.items():
        figures = {"time": Figure("time", "s"), "peak memory": Figure("peak memory", "MiB")}
        options = ["--to", ini] if name.startswith("copy") else []
        for _ in range(rounds):
            for figure, sample in zip(
                figures.values(), _run(population, [*arguments, *options]), strict=True
            ):
                figure.samples.append(sample)
        bars = (Bar(f"{name}: peak memory, MiB", "peak memory", at_most=250),)
        if seconds:
            part = population.count / 1e6
            limits = {"at_most": seconds * part, "stretch_goal": goal * part}
            bars = (Bar(f"{name}: seconds", "time", **limits), *bars)
        yield Outcome(f"kinto-attachment {name}", figures, bars)
    shutil.rmtree(target)


def _with_base_path(ini, path):
    """Return the path of other settings, with the files in another folder."""
    settings = configparser.RawConfigParser()
    settings.read(ini)
    settings["app:main"]["kinto.attachment.base_path"] = str(path)
    other = ini.with_name("target.ini")
    with other.open("w") as file:
        settings.write(file)
    return str(other)


def _run(population, arguments):
    """Return the seconds and the peak memory, in MiB, of a command that finds no fault."""
    command = [SCRIPTS / "kinto-attachment", *arguments, "--json"]
    variables = {"KINTO_INI": str(population.server.ini), "PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout[-1000:]} {done.stderr[-1000:]}")
    return seconds, int(done.stderr.splitlines()[-1]) * KIB / MIB


def _deletions(population):
    """Yield the seconds that the deletion of collections and buckets takes."""
    for what in ("collection", "bucket"):
        names = ("answered", "files deleted", "plain records", "unlinking", "both")
        figures = {name: Figure(name, "s") for name in names}
        for attached, plain, beside in population.deletions[what]:
            seconds = [
                *_delete(population, attached),
                _delete(population, plain)[0],
                _unlink(beside),
            ]
            for name, sample in zip(names, [*seconds, sum(seconds[2:])], strict=True):
                figures[name].samples.append(sample)
        title = f"deleting a {what} of {population.sizes[what]:,} attachments"
        bar = Bar(
            f"{title}: time / plain records + unlinking", "files deleted", "both", at_most=1.5
        )
        yield Outcome(title, figures, (bar,))


def _delete(population, uri):
    """Return the seconds until the answer, and until the last file is deleted."""
    paths = [population.files / key for key in population.keys(uri)]
    client = Client(population.server.port)
    begin = time.perf_counter()
    client.send("DELETE", f"/v1{uri}", NO_BODY)
    answered = time.perf_counter()
    for path in paths:
        while path.exists():
            time.sleep(0.01)
    client.close()
    return answered - begin, time.perf_counter() - begin


def _unlink(folder):
    paths = list(folder.iterdir())
    begin = time.perf_counter()
    for path in paths:
        path.unlink()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
