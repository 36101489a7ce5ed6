"""What the mailbox benchmark notes: milliseconds by server and row, and whether answers are right."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from benchmarks.load import BenchmarkError

OURS = "resel-mta"
THEIRS = "Dovecot"
MEMORY = "50 clients: peak PSS, MiB"
"""The one row that is no time."""


@dataclass
class Times:
    """Milliseconds by row, of one server. only: rows without this in their names are not noted."""

    rows: dict[str, list[float]] = field(default_factory=dict)
    only: str = ""

    def wants(self, names: Iterable[str]) -> bool:
        """Whether one of these rows is asked for."""
        return any(self.only in name for name in names)

    @contextlib.contextmanager
    def row(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.note(name, (time.perf_counter() - started) * 1000)

    def note(self, name: str, value: float) -> None:
        if self.only in name:
            self.rows.setdefault(name, []).append(value)


@dataclass(frozen=True)
class Outcome:
    """Milliseconds by server and row."""

    times: dict[str, Times]

    def rows(self) -> list[str]:
        """In the order that they were first measured in."""
        return list(dict.fromkeys(row for times in self.times.values() for row in times.rows))

    def table(self) -> str:
        names = list(self.times)
        lines = [f"{'ms, medians':<32}" + "".join(f"{name:>12}" for name in names)]
        for row in self.rows():
            found = [self.median(name, row) for name in names]
            line = f"{row:<32}" + "".join(
                "          --" if v is None else f"{v:>12.2f}" for v in found
            )
            factor = self.ratio(row)
            lines.append(line if factor is None else f"{line}{factor:>8.2f}×")
        return "\n".join(lines)

    def median(self, server: str, row: str) -> float | None:
        values = self.times[server].rows.get(row) if server in self.times else None
        return statistics.median(values) if values else None

    def ratio(self, row: str) -> float | None:
        """How many times as fast as Dovecot; None where not both were measured."""
        theirs, ours = self.median(THEIRS, row), self.median(OURS, row)
        return theirs / ours if theirs and ours else None

    def as_json(self) -> dict[str, dict[str, list[float]]]:
        return {name: times.rows for name, times in self.times.items()}


# A wrong or a late answer must not look fast.


def exists(answer: bytes) -> int:
    """The messages that the last EXISTS of an answer tells of; 0 if it has none."""
    found = re.findall(rb"^\* (\d+) EXISTS\r$", answer, re.MULTILINE)
    return int(found[-1]) if found else 0


def expect(found: int, wanted: int) -> None:
    """Raises BenchmarkError."""
    if found != wanted:
        raise BenchmarkError(f"{found} messages shown, {wanted} are there")


def fetched(answer: bytes, item: bytes) -> int:
    """How many FETCH responses tell of this item."""
    return len(re.findall(rb"^\* \d+ FETCH \([^\r\n]*" + re.escape(item), answer, re.MULTILINE))


def literals(answer: bytes) -> tuple[int, int]:
    """(number, octets) of the literals at the ends of an answer's lines."""
    count = octets = at = 0
    head = re.compile(rb"\{(\d+)\}\r\n")
    while found := head.search(answer, at):
        size = int(found[1])
        count, octets, at = count + 1, octets + size, found.end() + size
    return count, octets


def numbers(answer: bytes) -> list[int]:
    """Those of the untagged line of SEARCH, SORT or THREAD, in its order."""
    for line in answer.split(b"\r\n"):
        if line.startswith((b"* SEARCH", b"* SORT", b"* THREAD")):
            return [int(number) for number in re.findall(rb"\d+", line)]
    raise BenchmarkError("an answer without its untagged line")
