"""`make bench BENCH_ARGS=--imap`: measures, prints, writes a record and the pictures."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import imap
from benchmarks.chart import Group, bar_chart
from benchmarks.imap_lmtp import BareLoop
from benchmarks.imap_pass import LMTP
from benchmarks.imap_rows import MEMORY, OURS, THEIRS, Outcome
from benchmarks.load import BenchmarkError
from benchmarks.report import LONGEST, write_picture, write_record
from demo.launcher import CHECKOUT, LaunchError
from demo.machines import MachineError

RESULTS = CHECKOUT / "benchmarks" / "results"


def compare(options: argparse.Namespace) -> int:
    """The exit code."""
    count = options.messages or 5000
    plan = imap.Plan(options.pairs, count, options.octets, options.case, options.without)
    try:
        with tempfile.TemporaryDirectory(prefix="resel-bench-", dir=options.directory) as name:
            directory = Path(name)
            directory.chmod(0o755)
            outcome = imap.measure(directory, plan, print)
    except (BenchmarkError, MachineError, LaunchError, OSError) as error:
        print(f"The benchmark failed: {error}", file=sys.stderr)
        return 1
    print()
    print(outcome.table())
    paths = [_record(outcome, plan)]
    paths += [write_picture(name, text, RESULTS) for name, text in pictures(outcome, count).items()]
    for path in paths:
        print(f"Written: {path.relative_to(CHECKOUT)}")
    return 0


def _record(outcome: Outcome, plan: imap.Plan) -> Path:
    """imap-DATE.json: milliseconds by server and row. Raises OSError."""
    found = {"messages": plan.count, "octets": plan.octets, "milliseconds": outcome.as_json()}
    return write_record("imap", found, RESULTS)


def pictures(outcome: Outcome, count: int) -> dict[str, str]:
    """By name: what was measured of IMAP, of deliveries, of memory."""
    rows = outcome.rows()
    plain = [row for row in rows if row not in LMTP and row != MEMORY]
    found = {}
    if plain:
        found["imap" if count == 5000 else f"imap-{count}"] = _ratios(outcome, plain, count)
    if any(row in LMTP for row in rows):
        found["lmtp"] = _lmtp(outcome)
    if MEMORY in rows:
        found["imap-memory"] = _memory(outcome, count)
    return found


def _ratios(outcome: Outcome, rows: Sequence[str], count: int) -> str:
    """How many times as fast as Dovecot; milliseconds alone where only one was measured."""
    title = f"Mailboxes of {count:,} messages"
    if OURS not in outcome.times or THEIRS not in outcome.times:
        names = [name for name in outcome.times if name != BareLoop.name]
        groups = [Group(row, [outcome.median(name, row) for name in names]) for row in rows]
        return bar_chart(title, "milliseconds, medians", "ms", names, groups)
    groups = [Group(row, [outcome.ratio(row)]) for row in rows]
    note = f"{THEIRS}'s time / {OURS}'s, medians; over 1 is faster; bars end at {LONGEST:.0f}"
    return bar_chart(title, note, "×", [""], groups, mark=1.0, limit=LONGEST)


def _lmtp(outcome: Outcome) -> str:
    """Mails per second, beside the bare loop."""
    names = [name for name in (THEIRS, OURS, BareLoop.name) if name in outcome.times]
    groups = []
    for row, (count, _) in LMTP.items():
        medians = [outcome.median(name, row) for name in names]
        groups.append(Group(row, [count * 1000 / ms if ms else None for ms in medians]))
    note = "mails of 6 KB per second, medians; bare loop: write, fsync, rename, fsync of new/"
    return bar_chart("Deliveries by LMTP", note, "/s", names, groups)


def _memory(outcome: Outcome, count: int) -> str:
    names = [name for name in outcome.times if outcome.median(name, MEMORY) is not None]
    group = Group("all processes", [outcome.median(name, MEMORY) for name in names])
    note = f"peak PSS with 50 sessions open on mailboxes of {count:,} messages; less is better"
    return bar_chart("Memory for 50 clients", note, "MiB", names, [group])
