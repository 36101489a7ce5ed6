"""What people ask of the queue, inside a transaction. Every function runs in the writer's thread
and raises apsw.Error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from resel_mta.queue.door import Entry, RecipientEntry
from resel_mta.queue.ids import format_id
from resel_mta.queue.rows import IN_LIST, as_list, unpack
from resel_mta.queue.schema import CORRUPT, HELD, TRASHED

QUEUES = ("incoming", "active", "deferred", "hold", "corrupt")


def queue_of(state: int, owner: str | None, next_attempt: float, now: float) -> str:
    """Postfix's name of the queue that a message would lie in."""
    if state == HELD:
        return "hold"
    if state == CORRUPT:
        return "corrupt"
    if state == TRASHED:
        return "trash"
    if owner is not None:
        return "active"
    return "incoming" if next_attempt <= now else "deferred"


def condition(queue: str, now: float) -> tuple[str, tuple[Any, ...]]:
    """SQL for "lies in this queue"."""
    if queue == "hold":
        return "state = 1", ()
    if queue == "corrupt":
        return "state = 2", ()
    if queue == "trash":
        return "state = 3", ()
    if queue == "active":
        return "state = 0 AND owner IS NOT NULL", ()
    sign = "<=" if queue == "incoming" else ">"
    return f"state = 0 AND owner IS NULL AND next_attempt {sign} ?", (now,)


_ENTRY = (
    "SELECT id, state, owner, arrival, size, reverse_path, next_attempt, expires, recipients "
    "FROM message"
)


def entries(
    db: apsw.Connection, found: Sequence[tuple[Any, ...]], now: float
) -> list[tuple[int, Entry]]:
    """The rows of an _ENTRY query with their numbers, as entries."""
    recipients: dict[int, list[RecipientEntry]] = {row[0]: [] for row in found}
    trashed = [row[0] for row in found if row[1] == TRASHED]
    for number, *values in db.execute(
        "SELECT message, address, orig_to, next_attempt, attempts, reply, relay, waits_for "
        f"FROM recipient WHERE message {IN_LIST} AND status = 0 ORDER BY message, row",
        (as_list(row[0] for row in found if not row[8]),),
    ):
        recipients[number].append(RecipientEntry(*values))
    deleted: dict[int, float] = {}
    if trashed:
        deleted |= db.execute(f"SELECT id, at FROM trash WHERE id {IN_LIST}", (as_list(trashed),))
    return [
        (row[0], _entry(row, recipients[row[0]], deleted.get(row[0], 0.0), now)) for row in found
    ]


def _entry(
    row: tuple[Any, ...], recipients: list[RecipientEntry], deleted: float, now: float
) -> Entry:
    number, state, owner, arrival, size, sender, next_attempt, expires, packed = row
    if row.count(None) > (owner is None):
        raise apsw.CorruptError("message: a value is missing")
    for recipient in unpack(packed) if packed else ():
        if recipient.via and recipient.answer:
            # It gets no mail.
            continue
        recipients.append(
            RecipientEntry(
                recipient.address, recipient.orig_to, next_attempt, recipient.attempts, "", ""
            )
        )
    return Entry(
        queue_id=format_id(number),
        queue=queue_of(state, owner, next_attempt, now),
        arrival=arrival,
        size=size,
        sender=sender,
        recipients=tuple(recipients),
        next_attempt=next_attempt,
        expires=expires,
        forced_expire=expires < 0,
        deleted=deleted,
    )


def page(
    db: apsw.Connection, after: int, n: int, queue: str | None, now: float
) -> list[tuple[int, Entry]]:
    """The next `n` messages with numbers above `after`; those in the trash only if that is asked."""
    where, values = condition(queue, now) if queue else ("state <> 3", ())
    found = db.execute(
        f"{_ENTRY} WHERE id > ? AND {where} ORDER BY id LIMIT ?", (after, *values, n)
    ).fetchall()
    return entries(db, found, now)


def find_entry(db: apsw.Connection, number: int, now: float) -> Entry | None:
    found = entries(db, db.execute(f"{_ENTRY} WHERE id = ?", (number,)).fetchall(), now)
    return found[0][1] if found else None


def headers(db: apsw.Connection, numbers: Iterable[int]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number in numbers:
        header = db.execute("SELECT header FROM content WHERE id = ?", (number,)).get
        if header is not None:
            found[format_id(number)] = header
    return found


def mark_corrupt(db: apsw.Connection, number: int) -> None:
    db.execute("UPDATE message SET state = 2, owner = NULL WHERE id = ? AND state <> 3", (number,))


def hold(db: apsw.Connection, number: int) -> bool:
    db.execute("UPDATE message SET state = 1 WHERE id = ? AND state = 0", (number,))
    return bool(db.changes())


def release(db: apsw.Connection, number: int) -> bool:
    db.execute("UPDATE message SET state = 0 WHERE id = ? AND state = 1", (number,))
    return bool(db.changes()) and wake(db, number)


def requeue(db: apsw.Connection, number: int) -> bool:
    db.execute("UPDATE message SET state = 0 WHERE id = ? AND state IN (0, 1)", (number,))
    return bool(db.changes()) and wake(db, number)


def expire(db: apsw.Connection, number: int) -> bool:
    """It is given up at its next attempt, which is due unless it is held."""
    db.execute(
        "UPDATE message SET expires = -1 WHERE id = ? AND state IN (0, 1) AND expires >= 0",
        (number,),
    )
    if not db.changes():
        return False
    wake(db, number)
    return True


def wake(db: apsw.Connection, number: int) -> bool:
    """All recipients are due. Not for what is held or damaged."""
    db.execute("UPDATE message SET next_attempt = 0 WHERE id = ? AND state = 0", (number,))
    if not db.changes():
        return False
    db.execute("UPDATE recipient SET next_attempt = 0 WHERE message = ?", (number,))
    return True


def wake_page(db: apsw.Connection, after: int, n: int) -> list[int]:
    """The next `n` messages above `after` are due; their numbers."""
    numbers = [
        number
        for (number,) in db.execute(
            "SELECT id FROM message WHERE id > ? AND state = 0 ORDER BY id LIMIT ?", (after, n)
        )
    ]
    for table, column in (("message", "id"), ("recipient", "message")):
        db.execute(
            f"UPDATE {table} SET next_attempt = 0 WHERE {column} {IN_LIST} AND next_attempt > 0",
            (as_list(numbers),),
        )
    return numbers


def stranded(db: apsw.Connection, after: float, n: int) -> list[int]:
    """The numbers of up to `n` messages whose next attempt is later than that."""
    query = (
        "SELECT id FROM message WHERE owner IS NULL AND state = 0 AND next_attempt > ? "
        "ORDER BY next_attempt LIMIT ?"
    )
    return [number for (number,) in db.execute(query, (after, n))]


def wake_waiting(db: apsw.Connection, waits_for: str, n: int) -> int:
    """Up to `n` recipients that wait for a next hop are due. How many."""
    found: list[tuple[int, int]] = db.execute(
        "SELECT message, row FROM recipient WHERE waits_for = ? AND waits_for <> '' LIMIT ?",
        (waits_for, n),
    ).fetchall()  # type: ignore[assignment]
    return _wake_recipients(db, found)


def wake_probes(db: apsw.Connection) -> int:
    """One recipient for each next hop that is waited for is due. How many."""
    found: list[tuple[int, int]] = db.execute(
        "SELECT message, row, min(message) FROM recipient WHERE waits_for <> '' AND "
        "message IN (SELECT id FROM message WHERE state = 0) GROUP BY waits_for"
    ).fetchall()  # type: ignore[assignment]
    return _wake_recipients(db, [row[:2] for row in found])


def _wake_recipients(db: apsw.Connection, found: Sequence[tuple[int, int]]) -> int:
    """By message and row."""
    db.execute(
        "UPDATE recipient SET next_attempt = 0, waits_for = '' WHERE (message, row) IN "
        "(SELECT value ->> 0, value ->> 1 FROM json_each(?))",
        (json.dumps(found),),
    )
    db.execute(
        f"UPDATE message SET next_attempt = 0 WHERE id {IN_LIST}",
        (as_list({number for number, _ in found}),),
    )
    return len(found)


def next_due(db: apsw.Connection) -> float | None:
    due: float | None = db.execute(
        "SELECT next_attempt FROM message WHERE owner IS NULL AND state = 0 "
        "ORDER BY next_attempt LIMIT 1"
    ).get
    return due


def count(db: apsw.Connection, now: float) -> dict[str, int]:
    counts = dict.fromkeys(QUEUES, 0)
    for state, owned, due, n in db.execute(
        "SELECT state, owner IS NOT NULL, next_attempt <= ?, count(*) FROM message "
        "WHERE state <> 3 GROUP BY 1, 2, 3",
        (now,),
    ):
        name = queue_of(state, "somebody" if owned else None, 0.0 if due else now + 1, now)
        counts[name] += n
    return counts
