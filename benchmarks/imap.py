"""Mailboxes beside Dovecot: the same mail, the same commands, in turns; medians in milliseconds.

"cold": a mailbox that the server has not seen before, so that it has no index of it. "warm": the
same command again, the third time. Each pass has a server of its own, so that what one does in the
background takes nothing from the other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import imap_crowd
from benchmarks.imap_lmtp import BareLoop, in_threads
from benchmarks.imap_mail import Corpus, corpus
from benchmarks.imap_pass import LARGE, LMTP, USERS, Pass, mail_of
from benchmarks.imap_rows import OURS, THEIRS, Outcome, Times
from benchmarks.imap_servers import DovecotServer, MailServer, ReselMailServer, available
from benchmarks.load import BenchmarkError


@dataclass(frozen=True)
class Plan:
    """passes: of each server; count, octets: of the messages; only: rows with this in their names;
    without: names of servers, in small letters."""

    passes: int
    count: int
    octets: int
    only: str = ""
    without: Sequence[str] = ()


def measure(directory: Path, plan: Plan, tell: Callable[[str], None]) -> Outcome:
    """Raises BenchmarkError."""
    kinds: dict[str, type[MailServer]] = {}
    reason = available()
    if reason:
        tell(f"Dovecot is not measured: {reason}.")
    elif "dovecot" not in plan.without:
        kinds[THEIRS] = DovecotServer
    if OURS not in plan.without:
        kinds[OURS] = ReselMailServer
    source = corpus(directory / "corpus", plan.count, plan.octets)
    times = {name: Times(only=plan.only) for name in (*kinds, BareLoop.name)}
    for number in range(plan.passes):
        for name in list(kinds) if number % 2 == 0 else list(reversed(kinds)):
            with serving(kinds[name], directory / f"{name}-{number}", source) as server:
                Pass(server, times[name], source, iter(f"u{n}" for n in range(USERS))).run()
            if plan.count < LARGE and times[name].wants(imap_crowd.ROWS):
                with serving(kinds[name], directory / f"{name}-{number}-crowd", source) as server:
                    users = iter(f"u{n}" for n in range(USERS))
                    Pass(server, times[name], source, users).crowd()
            tell(f"pass {number + 1}: {name}")
        if "bare" not in plan.without and plan.count < LARGE:
            bare(directory / f"bare-{number}", times[BareLoop.name])
    found = {name: one for name, one in times.items() if one.rows}
    if not found:
        raise BenchmarkError("nothing to measure")
    return Outcome(found)


@contextlib.contextmanager
def serving(kind: type[MailServer], root: Path, source: Corpus) -> Iterator[MailServer]:
    server = kind(root, USERS)
    try:
        for entry in os.scandir(source.cur):
            server.give(Path(entry.path))
        yield server
    finally:
        server.stop()


def bare(directory: Path, times: Times) -> None:
    """The rows of deliveries, done by the bare loop."""
    mail = mail_of(6000)
    for row, (count, connections) in LMTP.items():
        if times.wants((row,)):
            loop = BareLoop(directory / str(connections))
            with times.row(row):
                in_threads(count, [partial(loop.deliver, mail)] * connections)
