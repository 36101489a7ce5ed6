"""Puts results into words, a file for programs, and a picture."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.chart import Group, bar_chart
from benchmarks.relay import Result
from benchmarks.servers import OURS

LONGEST = 10.0
"""What the longest bar stands for, as so many times as fast."""
FIGURES = (
    ("accepted", "accepted/s", 0),
    ("drained", "drained/s", 0),
    ("cpu_ms", "CPU ms/message", 2),
    ("pss_mb", "peak PSS MB", 0),
    ("written_kb", "KB written/mes.", 1),
)


def table(results: Sequence[Result]) -> str:
    """Medians side by side, and how many times as fast each of ours drains as each of the others."""
    lines = [f"{'':<32}{'':<22}" + "".join(f"{title:>16}" for _, title, _ in FIGURES)]
    for result in results:
        for name in result.runs:
            values = "".join(
                f"{result.median(name, key):>16.{digits}f}" for key, _, digits in FIGURES
            )
            lines.append(f"{result.case.name:<32}{name:<22}{values}")
        for (ours, other), factor in ratios(result).items():
            lines.append(f"{'':<32}{f'{ours} / {other}':<32}{'':>6}{factor:>15.2f}×")
    return "\n".join(lines)


def ratios(result: Result) -> dict[tuple[str, str], float]:
    """Each of ours to each of the others in messages drained per second, as far as both were
    measured."""
    drained = {name: result.median(name, "drained") for name in result.runs}
    ours = [name for name in drained if name.startswith(OURS)]
    others = [name for name in drained if not name.startswith(OURS)]
    return {(our, other): drained[our] / drained[other] for our in ours for other in others}


def write(results: Sequence[Result], directory: Path) -> list[Path]:
    """relay-DATE.json, relay.svg and relay-cpu.svg; their paths. Raises OSError."""
    data = write_record("relay", {"results": [result.as_json() for result in results]}, directory)
    return [
        data,
        write_picture("relay", picture_of(results), directory),
        write_picture("relay-cpu", cpu_picture(results), directory),
    ]


def write_record(name: str, found: Mapping[str, object], directory: Path) -> Path:
    """NAME-DATE.json: what was found, when, and on what machine. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    head = {"benchmark": name, "date": now.isoformat(timespec="seconds"), "machine": machine()}
    path = directory / f"{name}-{now:%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps({**head, **found}, indent=1) + "\n")
    return path


def write_picture(name: str, picture: str, directory: Path) -> Path:
    """NAME.svg. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.svg"
    path.write_text(picture)
    return path


def picture_of(results: Sequence[Result]) -> str:
    """Messages drained per second, by case."""
    series = list(results[0].runs)
    groups = [
        Group(result.case.name, [result.median(name, "drained") for name in series])
        for result in results
    ]
    note = f"messages per second to the empty queue, medians; {os.cpu_count()} cores, {platform.machine()}"
    return bar_chart("Relay: client → server → next hop", note, "/s", series, groups)


def cpu_picture(results: Sequence[Result]) -> str:
    """What a message costs, by case."""
    series = list(results[0].runs)
    groups = [
        Group(result.case.name, [result.median(name, "cpu_ms") for name in series])
        for result in results
    ]
    note = "CPU milliseconds per message of all processes, medians; less is better"
    return bar_chart("Relay: what a message costs", note, "ms", series, groups)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "CPU part")):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "postfix": _postfix_version(),
    }


def _postfix_version() -> str:
    try:
        words = ["/usr/sbin/postconf", "-h", "-d", "mail_version"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"
