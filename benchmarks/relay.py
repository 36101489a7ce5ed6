"""The relay benchmark: smtp-source → each server → smtp-sink, alternated, to the drained queue."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import BenchmarkError, Case, Sink, send
from benchmarks.meter import PeakMemory, cpu_seconds
from benchmarks.servers import PostfixServer, ReselServer, Server

MAIN_CASE = Case("5 KB, 20 sessions")
EXTRA_CASES = (
    Case("50 KB, 20 sessions", size=51200, messages=2000),
    Case("5 KB, 1 session", sessions=1, messages=2000),
    Case("5 KB, 50 recipients", recipients=50, messages=500),
    Case("5 KB, a connection per message", keep=False, messages=2000),
    Case("20,000 deferred messages", messages=20_000, backlog=True),
)
WARM_UP = 200
TIME_LIMIT = 300.0


@dataclass(frozen=True)
class Run:
    """One measurement. accepted, drained: messages per second until the client had its last 250,
    and until the queue was empty; cpu_ms: per message; pss_mb: the peak of all processes."""

    accepted: float
    drained: float
    cpu_ms: float
    pss_mb: float


@dataclass
class Contender:
    """A server with its sink."""

    server: Server
    sink: Sink

    def measure(self, case: Case, messages: int) -> Run:
        """Raises BenchmarkError, also when the sink got more or fewer messages than were sent."""
        if case.backlog:
            return self._measure_backlog(case, messages)
        before = self.sink.count()
        cpu = cpu_seconds(self.server.pid)
        with PeakMemory(self.server.pid) as memory:
            started = time.monotonic()
            sending = send(case, self.server.port, messages, TIME_LIMIT)
            # A next hop may be given one message's recipients in several transactions.
            self.sink.await_count(before + messages, TIME_LIMIT)
            self.server.await_empty(messages, TIME_LIMIT)
            draining = time.monotonic() - started
        cpu = cpu_seconds(self.server.pid) - cpu
        arrived = self.sink.count() - before
        if case.recipients == 1 and arrived != messages:
            raise BenchmarkError(f"{self.server.name}: {messages} sent, {arrived} arrived")
        return Run(
            messages / sending, messages / draining, cpu / messages * 1000, memory.bytes / 1e6
        )

    def _measure_backlog(self, case: Case, messages: int) -> Run:
        """CPU and memory are those of the draining alone."""
        before = self.sink.count()
        self.sink.away()
        sending = send(case, self.server.port, messages, TIME_LIMIT)
        self.server.await_deferred(messages, TIME_LIMIT)
        self.sink.back()
        cpu = cpu_seconds(self.server.pid)
        with PeakMemory(self.server.pid) as memory:
            started = time.monotonic()
            self.server.flush()
            self.sink.await_count(before + messages, TIME_LIMIT)
            self.server.await_empty(messages, TIME_LIMIT)
            draining = time.monotonic() - started
        cpu = cpu_seconds(self.server.pid) - cpu
        return Run(
            messages / sending, messages / draining, cpu / messages * 1000, memory.bytes / 1e6
        )


@dataclass(frozen=True)
class Result:
    """All runs of one case by server, in the order they were made."""

    case: Case
    runs: dict[str, list[Run]]

    def median(self, server: str, figure: str) -> float:
        return float(statistics.median(getattr(run, figure) for run in self.runs[server]))

    def as_json(self) -> dict[str, Any]:
        return {
            "case": asdict(self.case),
            "runs": {name: [asdict(run) for run in runs] for name, runs in self.runs.items()},
            "medians": {
                name: {figure: self.median(name, figure) for figure in Run.__annotations__}
                for name in self.runs
            },
        }


@contextlib.contextmanager
def contenders(directory: Path, with_postfix: bool, with_ours: bool) -> Iterator[list[Contender]]:
    """The servers, started; stopped at the end."""
    kinds: list[type[PostfixServer] | type[ReselServer]] = []
    if with_postfix:
        kinds.append(PostfixServer)
    if with_ours:
        kinds.append(ReselServer)
    with contextlib.ExitStack() as stack:
        found: list[Contender] = []
        for kind in kinds:
            sink = Sink(directory, kind.__name__)
            stack.callback(sink.stop)
            server = kind(directory, sink.port)
            stack.callback(server.stop)
            found.append(Contender(server, sink))
        yield found


def run_case(
    case: Case, pairs: int, rivals: Sequence[Contender], tell: Callable[[str], None]
) -> Result:
    """Measure a case `pairs` times on each, in turns, so that a slow minute of the machine meets both."""
    runs: dict[str, list[Run]] = {rival.server.name: [] for rival in rivals}
    for rival in rivals:
        rival.measure(case, min(WARM_UP, case.messages))
    for number in range(pairs):
        # The one that goes first takes turns too.
        for rival in rivals if number % 2 == 0 else reversed(rivals):
            run = rival.measure(case, case.messages)
            runs[rival.server.name].append(run)
            tell(f"{case.name}: {rival.server.name} {run.drained:.0f} messages/s")
    return Result(case, runs)
