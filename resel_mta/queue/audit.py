"""`resel-queue audit`: whether what came in is what became of it and what is still there.

Pure: `ledger.read` makes an `Audit`, `report` tells it to a person.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resel_mta.queue.ids import time_of

IN = ("accepted", "expanded", "generated")
OUT = ("delivered", "relayed", "piped", "merged", "bounced", "expired", "deleted")
TERMS = IN + OUT
WORDS = {
    "accepted": "accepted from clients and programs",
    "expanded": "more by aliases and lists",
    "generated": "generated here: bounces, notices",
    "delivered": "delivered to mailboxes and files",
    "relayed": "relayed to another host",
    "piped": "piped to commands",
    "merged": "merged: the same mailbox twice",
    "bounced": "bounced",
    "expired": "expired",
    "deleted": "deleted, or discarded by a rule",
}


@dataclass(slots=True)
class Audit:
    """Counts of recipients; ids of messages.

    since: the beginning of the first interval that is counted. opening: how many waited then.
    counts: by `TERMS`. missing: messages that should be there. unknown: messages that are
    there, and that the ledger knows nothing of. named: whether those are all. damaged: messages of
    which something is missing, and what.
    """

    since: float
    now: float
    opening: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    queued: int = 0
    held: int = 0
    corrupt: int = 0
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    named: bool = True
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def difference(self) -> int:
        """Recipients that came in and are nowhere; less than 0: that came from nowhere."""
        came = self.opening + sum(self.counts[term] for term in IN)
        went = sum(self.counts[term] for term in OUT)
        return came - went - self.queued - self.held - self.corrupt

    @property
    def is_balanced(self) -> bool:
        return not (self.difference or self.missing or self.unknown or self.damaged) and self.named


def audit_from_row(row: Mapping[str, Any]) -> Audit:
    """From `dataclasses.asdict`, after its way through JSON."""
    return Audit(**row)


def merged(audits: Sequence[Audit]) -> Audit:
    """Of all parts of a queue together."""
    found = Audit(min(each.since for each in audits), max(each.now for each in audits))
    found.counts = {term: sum(each.counts.get(term, 0) for each in audits) for term in TERMS}
    for name in ("opening", "queued", "held", "corrupt"):
        setattr(found, name, sum(getattr(each, name) for each in audits))
    for each in audits:
        found.missing += each.missing
        found.unknown += each.unknown
        found.damaged |= each.damaged
    found.named = all(each.named for each in audits)
    return found


def report(audit: Audit) -> Iterator[str]:
    """Lines for a person."""
    yield f"Recipients since {time.ctime(audit.since)}:"
    yield ""
    came = [(audit.opening, "waiting in the queue then")]
    came += [(audit.counts[term], WORDS[term]) for term in IN]
    yield from _sum(came)
    yield ""
    went = [(audit.counts[term], WORDS[term]) for term in OUT]
    went += [(audit.queued, "queued"), (audit.held, "on hold")]
    if audit.corrupt:
        went.append((audit.corrupt, "damaged, set aside"))
    yield from _sum(went)
    yield ""
    yield from _verdict(audit)


def _sum(terms: Iterable[tuple[int, str]]) -> Iterator[str]:
    total = 0
    for number, words in terms:
        total += number
        yield f"  {number:>10}  {words}"
    yield "  ----------"
    yield f"  {total:>10}"


def _verdict(audit: Audit) -> Iterator[str]:
    if audit.is_balanced:
        yield "It balances: nothing is missing."
        return
    difference = audit.difference
    if difference:
        count, what = abs(difference), "missing" if difference > 0 else "too many"
        yield f"It does NOT balance: {count} recipient{_s(count)} {_are(count)} {what}."
    else:
        yield "The sums balance, but the queue is NOT as it was left:"
    for queue_id in audit.missing:
        damage = audit.damaged.get(queue_id)
        left = f"; {damage}" if damage else ""
        yield (
            f"  {queue_id} of {time.ctime(time_of(queue_id))}: gone, and nothing is recorded of its "
            f"end{left}"
        )
    for queue_id in audit.unknown:
        yield f"  {queue_id} of {time.ctime(time_of(queue_id))}: there, but it never came in"
    for queue_id, damage in audit.damaged.items():
        if queue_id not in audit.missing:
            yield f"  {queue_id}: {damage}"
    if not audit.named:
        yield "  … and more messages than can be named."
    yield "The log tells what happened to a message: grep its id."


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
