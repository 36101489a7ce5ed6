"""The ledger: how many recipients came into the queue and what became of them, and a sketch of
which messages are there (by their numbers within this part of the queue); so that `audit` can
tell when something is missing, and what.

What it knows goes with the database: it is changed in memory while a group of jobs runs, and
written in one statement into the same transaction. There is a row for every `INTERVAL`; the
newest one has the sketch. Everything here runs in the writer's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import apsw

from resel_mta.mail import Bounced, Deferred, Delivered, Expanded, Outcome, Relayed
from resel_mta.queue.audit import IN, OUT, TERMS, Audit
from resel_mta.queue.ids import PART, format_id
from resel_mta.queue.sketch import Difference, Sketch

INTERVAL = 600
"""Seconds."""
PASSED_AFTER = 1.0
"""Seconds after which recipients that never entered the queue are written down together."""

_ACCEPTED, _EXPANDED, _GENERATED = range(3)
_DELIVERED, _RELAYED, _PIPED, _MERGED, _BOUNCED, _EXPIRED, _DELETED = range(3, 10)
_TERM_OF: dict[type[Outcome], int] = {
    Delivered: _DELIVERED,
    Relayed: _RELAYED,
    Expanded: _EXPANDED,
    Bounced: _BOUNCED,
    Deferred: _EXPIRED,
}
_TO_A_COMMAND = "delivered to command"
_TO_NOBODY = "expands to nobody"

TABLE = f"""
CREATE TABLE IF NOT EXISTS ledger(
  interval INTEGER PRIMARY KEY,
  {" INTEGER NOT NULL, ".join(TERMS)} INTEGER NOT NULL,
  sketch BLOB NOT NULL
) STRICT;
"""
_WRITE = f"INSERT OR REPLACE INTO ledger VALUES({','.join('?' * (len(TERMS) + 2))})"
_UPDATE = f"UPDATE ledger SET {','.join(f'{term}=?' for term in TERMS)},sketch=? WHERE interval=?"
_SUMS = ",".join(f"sum({term})" for term in TERMS)
PENDING = (
    "CASE recipients WHEN '' THEN (SELECT count(*) FROM recipient WHERE message = id AND "
    "status = 0) ELSE json_array_length(recipients) END"
)
"""SQL: how many recipients of a row of `message` are not done."""


class Count(NamedTuple):
    """What the ledger needs to know of a message that enters; named and so on as in `Message`."""

    number: int
    recipients: int
    named: int
    generated: bool
    merged: int = 0


class Ledger:
    """Call `load` with every database that is opened. For each transaction `begin`, changes,
    `write`, and `committed` once it is; after a transaction that failed, just `begin` again."""

    def __init__(self, clock: Callable[[], float], part: int = 0) -> None:
        """part: of the queue, which all its numbers name."""
        self.clock = clock
        self.base = part * PART
        self._interval = 0
        # The one that the transaction belongs to, however often it is written, and however late.
        self._current = 0
        self._kept = [0] * len(TERMS)
        self._kept_sketch = Sketch()
        self._counts = self._kept
        self._sketch = self._kept_sketch
        self._changed = False
        # What `write` wrote: the interval, and the counts of that alone.
        self._written = (0, self._kept)
        # The row of a database that had none, until it is written.
        self._first: tuple[Any, ...] | None = None
        # Deleted while somebody delivered them, or with outcomes in a commit that failed.
        self._doubted: set[int] = set()
        self._careful = False

    def load(self, db: apsw.Connection) -> None:
        """Go on where a database ends; one without a ledger is taken as it is."""
        self._first = None
        row = db.execute("SELECT * FROM ledger ORDER BY interval DESC LIMIT 1").fetchone()
        if row is not None and not all(isinstance(count, int) for count in row[:-1]):
            raise apsw.CorruptError("ledger: not numbers")
        if row is None and _numbers(db):
            (waiting,) = db.execute(f"SELECT coalesce(sum({PENDING}), 0) FROM message").fetchall()[
                0
            ]
            row = self._first = (0, waiting, *[0] * (len(TERMS) - 1), _sketch_of(db).to_bytes())
        interval, *counts, data = row or (0, *[0] * len(TERMS), b"")
        self._interval, self._kept = interval, counts
        try:
            self._kept_sketch = Sketch(data)
        except (ValueError, TypeError):
            self._kept_sketch = _sketch_of(db)
        self.begin()

    def doubt(self, number: int | None = None) -> None:
        """Outcomes of this message may be of recipients that are not there any more; None: of
        every message, since a commit failed and nobody knows what it did."""
        if number is None:
            self._careful = True
        else:
            self._doubted.add(number)

    def doubts(self, number: int) -> bool:
        """Whether what there is has to be looked at before outcomes are counted."""
        return self._careful or number in self._doubted

    def doubts_alone(self, number: int) -> bool:
        """Whether there is a reason that is about this message."""
        return number in self._doubted

    # -- the transaction ------------------------------------------------------------------------

    def begin(self) -> None:
        # A clock that is set back changes nothing.
        self._current = max(int(self.clock() // INTERVAL), self._interval)
        self._counts = self._kept[:]
        self._sketch = self._kept_sketch.copy()
        self._changed = False

    def mark(self) -> tuple[list[int], Sketch, bool]:
        """Where `back_to` goes back to."""
        return self._counts[:], self._sketch.copy(), self._changed

    def back_to(self, mark: tuple[list[int], Sketch, bool]) -> None:
        self._counts, self._sketch, self._changed = mark

    def write(self, db: apsw.Connection) -> None:
        if self._first is None and not self._changed:
            return
        if self._first is not None:
            db.execute(_WRITE, self._first)
        interval, counts = self._current, self._counts
        if interval == self._interval:
            db.execute(_UPDATE, (*counts, self._sketch.to_bytes(), interval))
        else:
            counts = [now - kept for now, kept in zip(counts, self._kept, strict=True)]
            db.execute("UPDATE ledger SET sketch = x'' WHERE interval = ?", (self._interval,))
            db.execute(_WRITE, (interval, *counts, self._sketch.to_bytes()))
        self._written = interval, counts

    def committed(self) -> None:
        if self._first is not None or self._changed:
            self._interval, self._kept = self._written
            self._kept_sketch = self._sketch
            self._first = None

    # -- changes --------------------------------------------------------------------------------

    def entered(self, entering: Iterable[Count]) -> None:
        """Messages are there now."""
        counts = self._counts
        numbers = []
        for number, recipients, given, generated, merged in entering:
            named = recipients if given < 0 else given
            counts[_GENERATED if generated else _ACCEPTED] += named
            counts[_MERGED] += merged
            more = recipients + merged - named
            # Less: aliases that name nobody.
            counts[_EXPANDED if more > 0 else _DELETED] += abs(more)
            numbers.append(number % PART)
        if numbers:
            self._sketch.add(numbers)
            self._changed = True

    def removed(self, numbers: Iterable[int]) -> None:
        """Messages are not there any more."""
        self._sketch.remove(number % PART for number in numbers)
        self._changed = True

    def done(self, outcomes: Iterable[Outcome]) -> None:
        """Recipients have these outcomes, and need nothing more."""
        counts = self._counts
        for outcome in outcomes:
            term = _TERM_OF.get(type(outcome), _DELIVERED)
            if term == _DELIVERED and outcome.reply.text.startswith(_TO_A_COMMAND):
                term = _PIPED
            elif term == _EXPANDED and outcome.reply.text == _TO_NOBODY:
                # As if it had been known when it came.
                term = _DELETED
            counts[term] += -1 if term == _EXPANDED else 1
        self._changed = True

    def added(self, recipients: int) -> None:
        """So many came into being by an expansion that had to wait."""
        self._counts[_EXPANDED] += recipients
        self._changed = True

    def deleted(self, recipients: int) -> None:
        """So many were deleted; less than 0: restored, or delivered all the same."""
        self._counts[_DELETED] += recipients
        self._changed = True

    def dropped(self, recipients: int) -> None:
        """So many were accepted, and went nowhere by a rule."""
        self._counts[_ACCEPTED] += recipients
        self.deleted(recipients)

    @property
    def unwritten(self) -> int:
        """How many waited in a queue that had no ledger, until that is in the database."""
        return int(self._first[1]) if self._first is not None else 0

    def difference(self, there: Iterable[int], *, in_transaction: bool) -> Difference:
        """Between what should be there and what is."""
        sketch = self._sketch if in_transaction else self._kept_sketch
        return sketch.difference(number % PART for number in there)

    def passed(self, recipients: Count, outcomes: Iterable[Outcome]) -> None:
        """So many had these outcomes without ever being in the queue."""
        self.entered([recipients])
        self._sketch.remove([recipients.number % PART])
        self.done(outcomes)

    def withdrawn(self, recipients: int) -> None:
        """So many were counted as accepted, and were not."""
        self._counts[_ACCEPTED] -= recipients
        self._changed = True


def _numbers(db: apsw.Connection) -> list[int]:
    return [number % PART for (number,) in db.execute("SELECT id FROM message")]


def _sketch_of(db: apsw.Connection) -> Sketch:
    """As if all that is there were all that should be."""
    sketch = Sketch()
    sketch.add(_numbers(db))
    return sketch


def pending(db: apsw.Connection, number: int) -> int:
    """How many recipients of a message are not done; 0 if it is not there."""
    return db.execute(f"SELECT {PENDING} FROM message WHERE id = ?", (number,)).get or 0


def prune(db: apsw.Connection, before: float) -> None:
    """Only the sum is kept of what was before then. In the transaction of the caller."""
    first = int(before // INTERVAL)
    newest = db.execute("SELECT max(interval) FROM ledger").get or 0
    first = min(first, newest)
    sums = db.execute(f"SELECT {_SUMS} FROM ledger WHERE interval < ?", (first,)).fetchone()
    if first > 0 and sums is not None and sums[0] is not None:
        db.execute("DELETE FROM ledger WHERE interval < ?", (first,))
        db.execute(_WRITE, (0, *sums, b""))


_DAMAGES = (
    (
        "its content is missing",
        "SELECT id FROM message WHERE NOT EXISTS (SELECT 1 FROM content WHERE content.id = message.id)",
    ),
    (
        "its envelope is missing",
        "SELECT id FROM content WHERE NOT EXISTS (SELECT 1 FROM message WHERE message.id = content.id)",
    ),
    (
        "its envelope is missing",
        "SELECT DISTINCT message FROM recipient WHERE NOT EXISTS "
        "(SELECT 1 FROM message WHERE message.id = recipient.message)",
    ),
    (
        "its recipients are missing",
        "SELECT id FROM message WHERE recipients = '' AND NOT EXISTS "
        "(SELECT 1 FROM recipient WHERE recipient.message = message.id)",
    ),
    (
        "some of its recipients are missing",
        "SELECT message FROM recipient GROUP BY message HAVING count(*) <> max(row)",
    ),
)


def read(db: apsw.Connection, ledger: Ledger, since: float, now: float) -> Audit:
    """Everything at one moment. Raises apsw.Error."""
    if db.in_transaction:
        # Other jobs of the group have changed things already.
        ledger.write(db)
    oldest = db.execute("SELECT min(interval) FROM ledger WHERE interval > 0").get
    first = max(int(since // INTERVAL), int(now // INTERVAL) if oldest is None else oldest)
    sums = ",".join(f"coalesce(sum({term}), 0)" for term in TERMS)
    earlier = db.execute(f"SELECT {sums} FROM ledger WHERE interval < ?", (first,)).fetchone()
    later = db.execute(f"SELECT {sums} FROM ledger WHERE interval >= ?", (first,)).fetchone()
    audit = Audit(first * INTERVAL, now)
    if earlier is not None and later is not None:
        before = dict(zip(TERMS, earlier, strict=True))
        audit.counts = dict(zip(TERMS, later, strict=True))
        audit.opening = sum(before[term] for term in IN) - sum(before[term] for term in OUT)
        audit.opening += 0 if db.in_transaction else ledger.unwritten
    waiting = dict(db.execute(f"SELECT state, sum({PENDING}) FROM message GROUP BY state"))
    audit.queued, audit.held, audit.corrupt = (waiting.get(state, 0) for state in (0, 1, 2))
    numbers = (number for (number,) in db.execute("SELECT id FROM message"))
    found = ledger.difference(numbers, in_transaction=db.in_transaction)
    audit.missing = [format_id(ledger.base + number) for number in sorted(found.missing)]
    audit.unknown = [format_id(ledger.base + number) for number in sorted(found.unknown)]
    audit.named = found.complete
    for what, query in _DAMAGES:
        for (number,) in db.execute(query):
            if number is None:
                raise apsw.CorruptError("recipient: a value is missing")
            audit.damaged.setdefault(format_id(number), what)
    return audit
