"""Where the CPU time of one relayed message goes: resel-mta under `profiled.py`, 5 KB, 20 sessions."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.chart import Group, bar_chart
from benchmarks.load import Case, Sink, send
from benchmarks.servers import ReselServer
from demo.launcher import CHECKOUT, Launcher

TIME_LIMIT = 300.0


class ProfilingLauncher(Launcher):
    """Starts the daemon with the profile beside it."""

    def __init__(self, directory: Path, target: Path) -> None:
        super().__init__(directory)
        self._target = target

    def command(self, name: str) -> list[str]:
        if name != "resel-mta":
            return super().command(name)
        return [sys.executable, str(CHECKOUT / "benchmarks" / "profiled.py"), str(self._target)]


def measure(directory: Path, messages: int) -> dict[str, float]:
    """Milliseconds of CPU per message by stage, the longest first. Raises BenchmarkError."""
    target = directory / "resel" / "profile.json"
    sink = Sink(directory, "profile")
    try:
        server = ReselServer(directory, sink.port, ProfilingLauncher(directory, target))
        try:
            send(Case("profile"), server.port, messages, TIME_LIMIT)
            server.await_empty(messages, TIME_LIMIT)
        finally:
            server.stop()
    finally:
        sink.stop()
    seconds: dict[str, float] = json.loads(target.read_text())
    found = {stage: used / messages * 1000 for stage, used in seconds.items()}
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def table(found: dict[str, float]) -> str:
    """With shares; the start and the stop of the daemon are in it."""
    total = sum(found.values())
    lines = [f"{'CPU ms a message':<36}{'ms':>8}{'share':>8}"]
    lines += [f"{stage:<36}{ms:>8.3f}{ms / total:>8.0%}" for stage, ms in found.items()]
    return "\n".join([*lines, f"{'all':<36}{total:>8.3f}"])


def picture_of(found: dict[str, float]) -> str:
    groups = [Group(stage, [ms * 1000]) for stage, ms in found.items()]
    note = f"microseconds of CPU by stage, {sum(found.values()) * 1000:,.0f} in all; with the profiler's cost"
    return bar_chart("One relayed message of 5 KB, 20 sessions", note, "µs", [""], groups)
