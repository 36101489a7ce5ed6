"""Deleted messages that can be brought back: rows in the state TRASHED, with what they were and
since when beside them. Every function runs in the writer's thread and raises apsw.Error."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from resel_mta.queue import changes, rows
from resel_mta.queue.ledger import Ledger, pending
from resel_mta.queue.schema import CORRUPT, TRASHED


def put(db: apsw.Connection, ledger: Ledger, number: int, now: float) -> bool:
    """Whether there was something to delete. Who delivers it keeps the claim, so that nobody
    else begins before it ends."""
    found = db.execute("SELECT state, owner FROM message WHERE id = ?", (number,)).fetchone()
    if found is None or found[0] == TRASHED:
        return False
    state, owner = found
    if owner is not None or state == CORRUPT:
        # What is set aside has lost its owner, who may be delivering it.
        ledger.doubt(number)
    ledger.deleted(pending(db, number))
    db.execute("UPDATE message SET state = ? WHERE id = ?", (TRASHED, number))
    db.execute("INSERT OR REPLACE INTO trash VALUES(?,?,?)", (number, now, state))
    return True


def remove(db: apsw.Connection, ledger: Ledger, number: int) -> bool:
    """For good at once, in the trash or not. Whether there was something to delete."""
    found = db.execute("SELECT state, owner FROM message WHERE id = ?", (number,)).fetchone()
    if found is None:
        return False
    if found[1] is not None or found[0] == CORRUPT:
        ledger.doubt(number)
    if found[0] != TRASHED:
        ledger.deleted(pending(db, number))
    rows.remove(db, number)
    ledger.removed((number,))
    return True


def restore(db: apsw.Connection, ledger: Ledger, number: int) -> bool:
    """As it was: due at once, on hold, or damaged. Whether it was in the trash."""
    state = db.execute(
        "SELECT trash.state FROM trash JOIN message USING (id) WHERE id = ? AND message.state = ?",
        (number, TRASHED),
    ).get
    if state is None:
        return False
    db.execute("UPDATE message SET state = ? WHERE id = ?", (state, number))
    db.execute("DELETE FROM trash WHERE id = ?", (number,))
    changes.wake(db, number)
    ledger.deleted(-pending(db, number))
    return True


def is_trashed(db: apsw.Connection, number: int) -> bool:
    return bool(db.execute("SELECT state FROM message WHERE id = ?", (number,)).get == TRASHED)


def oldest(db: apsw.Connection, before: float, n: int) -> list[int]:
    """Up to `n` that were deleted before then, also such as are gone meanwhile."""
    return [
        number
        for (number,) in db.execute(
            "SELECT id FROM trash WHERE at < ? ORDER BY at LIMIT ?", (before, n)
        )
    ]


def empty(db: apsw.Connection, ledger: Ledger, numbers: Sequence[int]) -> list[int]:
    """Remove these for good; those of them that have a file."""
    there = [number for number in numbers if is_trashed(db, number)]
    spooled = [number for number in there if rows.is_spooled(db, number)]
    rows.remove_all(db, there)
    ledger.removed(there)
    for number in numbers:
        db.execute("DELETE FROM trash WHERE id = ?", (number,))
    return spooled
