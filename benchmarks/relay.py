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
from benchmarks.meter import PeakMemory, Syncs, cpu_seconds, written_octets
from benchmarks.servers import BareServer, ReselServer, Server

MAIN_CASE = Case("5 KB, 20 sessions")
EXTRA_CASES = (
    Case("50 KB, 20 sessions", size=51200, messages=2000),
    Case("5 KB, 1 session", sessions=1, messages=2000),
    Case("5 KB, 50 recipients", recipients=50, messages=500),
    Case("5 KB, a connection per message", keep=False, messages=2000),
    Case("20,000 deferred messages", messages=20_000, backlog=True),
)
Kind = Callable[[Path, int], Server]
"""Starts a server in a folder, with a sink on a port for its next hop."""
WARM_UP = 500
TIME_LIMIT = 300.0


@dataclass(frozen=True)
class Run:
    """One measurement. accepted, drained: messages per second until the client had its last 250,
    and until the queue was empty; cpu_ms: per message; pss_mb: the peak of all processes;
    written_kb: to the disk, per message."""

    accepted: float
    drained: float
    cpu_ms: float
    pss_mb: float
    written_kb: float


@dataclass
class Contender:
    """A server with its sink."""

    server: Server
    sink: Sink

    def measure(self, case: Case, messages: int) -> Run:
        """Raises BenchmarkError, also when the sink got more or fewer messages than were sent."""
        before = self.sink.count()
        if case.backlog:
            sending = self._fill(case, messages)
        written = written_octets(self.server.pid)
        cpu = cpu_seconds(self.server.pid)
        with PeakMemory(self.server.pid) as memory:
            started = time.monotonic()
            if case.backlog:
                self.server.flush()
            else:
                sending = send(case, self.server.port, messages, TIME_LIMIT)
            # A next hop may be given one message's recipients in several transactions.
            self.sink.await_count(before + messages, TIME_LIMIT)
            self.server.await_empty(messages, TIME_LIMIT)
            draining = time.monotonic() - started
        cpu = cpu_seconds(self.server.pid) - cpu
        written = written_octets(self.server.pid) - written
        arrived = self.sink.count() - before
        if case.recipients == 1 and arrived != messages:
            raise BenchmarkError(f"{self.server.name}: {messages} sent, {arrived} arrived")
        return Run(
            accepted=messages / sending,
            drained=messages / draining,
            cpu_ms=cpu / messages * 1000,
            pss_mb=memory.bytes / 1e6,
            written_kb=written / messages / 1000,
        )

    def _fill(self, case: Case, messages: int) -> float:
        """Messages that wait for the next hop; the seconds until they were accepted."""
        self.sink.away()
        self.server.hold()
        sending = send(case, self.server.port, messages, TIME_LIMIT)
        self.server.await_deferred(messages, TIME_LIMIT)
        self.sink.back()
        return sending


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
def contenders(directory: Path, kinds: Sequence[Kind]) -> Iterator[list[Contender]]:
    """The servers, started; stopped at the end."""
    with contextlib.ExitStack() as stack:
        found: list[Contender] = []
        for number, kind in enumerate(kinds):
            sink = Sink(directory, str(number))
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
        run = rival.measure(case, min(WARM_UP, case.messages))
        _pad(case, rival, run, rivals)
    for number in range(pairs):
        # The one that goes first takes turns too.
        for rival in rivals if number % 2 == 0 else reversed(rivals):
            run = rival.measure(case, case.messages)
            _pad(case, rival, run, rivals)
            runs[rival.server.name].append(run)
            tell(f"{case.name}: {rival.server.name} {run.drained:.0f} messages/s")
    return Result(case, runs)


def _pad(case: Case, measured: Contender, run: Run, rivals: Sequence[Contender]) -> None:
    """The bare loop writes as much as ours did."""
    if isinstance(measured.server, ReselServer):
        octets = int(run.written_kb * 1000)
        for rival in rivals:
            if isinstance(rival.server, BareServer):
                rival.server.pad(*((0, octets) if case.backlog else (octets, 0)))


def count_syncs(
    cases: Sequence[Case], messages: int, rivals: Sequence[Contender], tell: Callable[[str], None]
) -> None:
    """How many syncs a message takes of each, case by case, under strace."""
    for case in cases:
        for rival in rivals:
            run = rival.measure(case, min(WARM_UP, messages))
            _pad(case, rival, run, rivals)
            with Syncs(rival.server.pid) as syncs:
                run = rival.measure(case, messages)
            tell(
                f"{case.name}: {rival.server.name} {syncs.count / messages:.3f} syncs and "
                f"{run.written_kb:.1f} KB a message"
            )
