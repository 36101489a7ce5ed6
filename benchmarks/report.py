"""Puts results into words, a file for programs, and a picture."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chart import Group, bar_chart
from benchmarks.relay import Result

FIGURES = (
    ("accepted", "accepted/s", 0),
    ("drained", "drained/s", 0),
    ("cpu_ms", "CPU ms/message", 2),
    ("pss_mb", "peak PSS MB", 0),
)


def table(results: Sequence[Result]) -> str:
    """Medians side by side, and how many times as fast ours drains."""
    lines = [f"{'':<32}{'':<11}" + "".join(f"{title:>16}" for _, title, _ in FIGURES)]
    for result in results:
        for name in result.runs:
            values = "".join(
                f"{result.median(name, key):>16.{digits}f}" for key, _, digits in FIGURES
            )
            lines.append(f"{result.case.name:<32}{name:<11}{values}")
        factor = ratio(result)
        if factor is not None:
            lines.append(f"{'':<32}{'ratio':<11}{'':>16}{factor:>15.1f}×")
    return "\n".join(lines)


def ratio(result: Result) -> float | None:
    """Ours to Postfix's in messages drained per second; None if only one was measured."""
    if len(result.runs) < 2:
        return None
    return result.median("resel-mta", "drained") / result.median("Postfix", "drained")


def write(results: Sequence[Result], directory: Path) -> list[Path]:
    """relay-DATE.json and a relay.svg; their paths. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    record = {
        "benchmark": "relay",
        "date": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "results": [result.as_json() for result in results],
    }
    data = directory / f"relay-{now:%Y%m%dT%H%M%S}.json"
    data.write_text(json.dumps(record, indent=1) + "\n")
    picture = directory / "relay.svg"
    picture.write_text(picture_of(results))
    return [data, picture]


def write_imap(rows: dict[str, dict[str, list[float]]], messages: int, directory: Path) -> Path:
    """imap-DATE.json: milliseconds by server and row. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    record = {
        "benchmark": "imap",
        "date": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "messages": messages,
        "milliseconds": rows,
    }
    data = directory / f"imap-{now:%Y%m%dT%H%M%S}.json"
    data.write_text(json.dumps(record, indent=1) + "\n")
    return data


def picture_of(results: Sequence[Result]) -> str:
    """Messages drained per second, by case."""
    series = list(results[0].runs)
    groups = [
        Group(result.case.name, [result.median(name, "drained") for name in series])
        for result in results
    ]
    note = f"messages per second to the empty queue, medians; {os.cpu_count()} cores, {platform.machine()}"
    return bar_chart("Relay: client → server → next hop", note, "/s", series, groups)


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
