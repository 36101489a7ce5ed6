"""Messages as rows: what the store does inside a transaction. Every function runs in the
writer's thread and raises apsw.Error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from resel_mta.mail import Envelope, Message, Notify, Recipient
from resel_mta.queue.door import Entry, RecipientEntry, Result
from resel_mta.queue.ids import format_id
from resel_mta.queue.schema import CORRUPT, DONE, HELD, LIVE, PENDING
from resel_mta.queue.spool import FileBody

QUEUES = ("incoming", "active", "deferred", "hold", "corrupt")

_INSERT_MESSAGE = "INSERT INTO message VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_INSERT_CONTENT = "INSERT INTO content VALUES(?,?,?)"
_INSERT_RECIPIENT = "INSERT INTO recipient VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)"

_MESSAGE = (
    "SELECT id, arrival, size, reverse_path, body, smtputf8, ret, envid, protocol, state, "
    "next_attempt, expires, warned FROM message"
)
_RECIPIENT = (
    "SELECT row, address, orig_to, reverse_path, orcpt, notify, via, attempts "
    "FROM recipient WHERE message = ? AND status = 0"
)


def insert(db: apsw.Connection, number: int, message: Message, owner: str | None) -> None:
    """A whole message with content and recipients. The recipients' rows are set."""
    content = message.content
    if content is None:
        raise ValueError("a message is entered with its content")
    envelope = message.envelope
    body = content.body
    spooled = isinstance(body, FileBody)
    execute = db.execute
    execute(
        _INSERT_MESSAGE,
        (
            number,
            message.arrival,
            message.size,
            envelope.reverse_path,
            envelope.body,
            envelope.smtputf8,
            envelope.ret,
            envelope.envid,
            message.origin_protocol,
            HELD if message.hold else LIVE,
            owner,
            message.next_attempt,
            message.expires,
            message.warned,
            body.size if spooled else None,
        ),
    )
    data = None if spooled else body.read(0, body.size)
    execute(_INSERT_CONTENT, (number, content.header.raw, data))
    add_recipients(db, number, message.recipients, message.next_attempt, first=1)


def add_recipients(
    db: apsw.Connection, number: int, recipients: Sequence[Recipient], due: float, first: int
) -> None:
    for row, recipient in enumerate(recipients, first):
        recipient.row = row
        db.execute(
            _INSERT_RECIPIENT,
            (
                number,
                row,
                recipient.address,
                recipient.orig_to,
                recipient.reverse_path,
                recipient.orcpt,
                int(recipient.notify),
                "\n".join(recipient.via),
                PENDING,
                due,
                recipient.attempts,
                "",
                "",
            ),
        )


def remove(db: apsw.Connection, number: int) -> None:
    db.execute("DELETE FROM recipient WHERE message = ?", (number,))
    db.execute("DELETE FROM content WHERE id = ?", (number,))
    db.execute("DELETE FROM message WHERE id = ?", (number,))


def remove_all(db: apsw.Connection, numbers: Iterable[int]) -> None:
    for number in numbers:
        remove(db, number)


def is_spooled(db: apsw.Connection, number: int) -> bool:
    """Whether the message is there with its body in a file."""
    return db.execute("SELECT spooled FROM message WHERE id = ?", (number,)).get is not None


def exists(db: apsw.Connection, number: int) -> bool:
    return db.execute("SELECT 1 FROM message WHERE id = ?", (number,)).get is not None


def _text(text: str) -> str:
    """A peer's words as text that the database can hold."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _record_progress(db: apsw.Connection, number: int, result: Result) -> None:
    for recipient, outcome in result.done:
        db.execute(
            "UPDATE recipient SET status = ?, attempts = attempts + 1, reply = ?, relay = ? "
            "WHERE message = ? AND row = ?",
            (DONE, _text(str(outcome.reply)), outcome.relay, number, recipient.row),
        )
    for retry in result.retries:
        if retry.outcome is None:
            db.execute(
                "UPDATE recipient SET next_attempt = ? WHERE message = ? AND row = ?",
                (retry.next_attempt, number, retry.recipient.row),
            )
        else:
            db.execute(
                "UPDATE recipient SET next_attempt = ?, attempts = attempts + 1, reply = ?, "
                "relay = ? WHERE message = ? AND row = ?",
                (
                    retry.next_attempt,
                    _text(str(retry.outcome.reply)),
                    retry.outcome.relay,
                    number,
                    retry.recipient.row,
                ),
            )


def record(db: apsw.Connection, number: int, result: Result, owner: str) -> bool:
    """Apply a result to a message, its notices excepted; whether the message is gone."""
    done, retries = result.done, result.retries
    if len(done) == 1 and not retries and not result.added:
        # The usual message: its only recipient is done.
        only = done[0][0].row
        left = db.execute(
            "SELECT 1 FROM recipient WHERE message = ? AND status = 0 AND row <> ? LIMIT 1",
            (number, only),
        ).get
        if left is None:
            remove(db, number)
            return True
    _record_progress(db, number, result)
    if result.added:
        last = db.execute("SELECT max(row) FROM recipient WHERE message = ?", (number,)).get
        add_recipients(db, number, result.added, 0.0, first=(last or 0) + 1)
    if result.warned:
        db.execute("UPDATE message SET warned = 1 WHERE id = ?", (number,))
    due = db.execute(
        "SELECT min(next_attempt) FROM recipient WHERE message = ? AND status = 0", (number,)
    ).get
    if due is None:
        remove(db, number)
        return True
    if result.release:
        db.execute(
            "UPDATE message SET next_attempt = ?, owner = NULL WHERE id = ? AND owner = ?",
            (due, number, owner),
        )
    else:
        db.execute("UPDATE message SET next_attempt = ? WHERE id = ?", (due, number))
    return False


def _message(row: tuple[Any, ...]) -> Message:
    envelope = Envelope(row[3], [], body=row[4], smtputf8=bool(row[5]), ret=row[6], envid=row[7])
    return Message(
        queue_id=format_id(row[0]),
        arrival=row[1],
        envelope=envelope,
        size=row[2],
        recipients=envelope.recipients,
        origin_protocol=row[8],
        hold=row[9] == HELD,
        next_attempt=row[10],
        expires=row[11],
        warned=bool(row[12]),
    )


def _recipient(row: tuple[Any, ...]) -> Recipient:
    return Recipient(
        address=row[1],
        orig_to=row[2],
        reverse_path=row[3],
        orcpt=row[4],
        notify=Notify(row[5]),
        row=row[0],
        attempts=row[7],
        via=tuple(row[6].split("\n")) if row[6] else (),
    )


def read(db: apsw.Connection, number: int, due: float | None = None) -> Message | None:
    """A message without content, with the recipients that are not done (and due by `due`)."""
    row = db.execute(f"{_MESSAGE} WHERE id = ?", (number,)).fetchone()
    if row is None:
        return None
    message = _message(row)
    if due is None:
        found = db.execute(_RECIPIENT, (number,))
    else:
        found = db.execute(f"{_RECIPIENT} AND next_attempt <= ?", (number, due))
    message.recipients.extend(_recipient(row) for row in found)
    return message


def due_numbers(db: apsw.Connection, now: float, n: int) -> list[int]:
    return [
        number
        for (number,) in db.execute(
            "SELECT id FROM message WHERE owner IS NULL AND state = 0 AND next_attempt <= ? "
            "ORDER BY next_attempt LIMIT ?",
            (now, n),
        )
    ]


def release_expired(db: apsw.Connection, now: float) -> None:
    """What belongs to owners whose lease ran out belongs to nobody."""
    for (name,) in db.execute("SELECT name FROM owner WHERE lease < ?", (now,)).fetchall():
        db.execute("UPDATE message SET owner = NULL WHERE owner = ?", (name,))
        db.execute("DELETE FROM owner WHERE name = ?", (name,))


def set_lease(db: apsw.Connection, owner: str, until: float) -> None:
    db.execute("INSERT OR REPLACE INTO owner VALUES(?,?)", (owner, until))


def queue_of(state: int, owner: str | None, next_attempt: float, now: float) -> str:
    """Postfix's name of the queue that a message would lie in."""
    if state == HELD:
        return "hold"
    if state == CORRUPT:
        return "corrupt"
    if owner is not None:
        return "active"
    return "incoming" if next_attempt <= now else "deferred"


def condition(queue: str, now: float) -> tuple[str, tuple[Any, ...]]:
    """SQL for "lies in this queue"."""
    if queue == "hold":
        return "state = 1", ()
    if queue == "corrupt":
        return "state = 2", ()
    if queue == "active":
        return "state = 0 AND owner IS NOT NULL", ()
    sign = "<=" if queue == "incoming" else ">"
    return f"state = 0 AND owner IS NULL AND next_attempt {sign} ?", (now,)


_ENTRY = "SELECT id, state, owner, arrival, size, reverse_path, next_attempt, expires FROM message"


def _recipient_entry(row: tuple[Any, ...]) -> RecipientEntry:
    return RecipientEntry(*row)


def entry(db: apsw.Connection, row: tuple[Any, ...], now: float) -> Entry:
    number, state, owner, arrival, size, sender, next_attempt, expires = row
    recipients = db.execute(
        "SELECT address, orig_to, next_attempt, attempts, reply, relay FROM recipient "
        "WHERE message = ? AND status = 0",
        (number,),
    )
    return Entry(
        queue_id=format_id(number),
        queue=queue_of(state, owner, next_attempt, now),
        arrival=arrival,
        size=size,
        sender=sender,
        recipients=tuple(_recipient_entry(values) for values in recipients),
        next_attempt=next_attempt,
        expires=expires,
        forced_expire=expires < 0,
    )


def page(
    db: apsw.Connection, after: int, n: int, queue: str | None, now: float
) -> list[tuple[int, Entry]]:
    """The next `n` messages with numbers above `after`."""
    where, values = condition(queue, now) if queue else ("1", ())
    rows = db.execute(
        f"{_ENTRY} WHERE id > ? AND {where} ORDER BY id LIMIT ?", (after, *values, n)
    ).fetchall()
    return [(int(row[0]), entry(db, row, now)) for row in rows]  # type: ignore[arg-type]


def find_entry(db: apsw.Connection, number: int, now: float) -> Entry | None:
    row = db.execute(f"{_ENTRY} WHERE id = ?", (number,)).fetchone()
    return None if row is None else entry(db, row, now)


def claim(
    db: apsw.Connection, numbers: Iterable[int], owner: str, due: float | None
) -> list[Message]:
    """Give messages to `owner`, unless they are held, damaged, gone or somebody else's."""
    claimed = []
    for number in numbers:
        db.execute(
            "UPDATE message SET owner = ? WHERE id = ? AND state = 0 AND owner IS NULL",
            (owner, number),
        )
        if db.changes() and (message := read(db, number, due)) is not None:
            claimed.append(message)
    return claimed


def unclaim(db: apsw.Connection, owner: str, numbers: Iterable[int] | None) -> None:
    if numbers is None:
        db.execute("UPDATE message SET owner = NULL WHERE owner = ?", (owner,))
        return
    for number in numbers:
        db.execute("UPDATE message SET owner = NULL WHERE id = ? AND owner = ?", (number, owner))


def content(db: apsw.Connection, number: int) -> tuple[bytes, bytes | None, int | None, str] | None:
    """Header, body (None if in a file), octets in the file (None if in the row), what is wrong
    ("" if nothing). None: the message is not there."""
    found = db.execute("SELECT spooled FROM message WHERE id = ?", (number,)).fetchone()
    if found is None:
        return None
    spooled = found[0]
    try:
        row = db.execute("SELECT header, body FROM content WHERE id = ?", (number,)).fetchone()
    except apsw.CorruptError as error:
        return b"", None, spooled, f"content: {error}"
    if row is None or (row[1] is None) != (spooled is not None):
        return b"", None, spooled, "content is missing"
    return row[0], row[1], spooled, ""


def mark_corrupt(db: apsw.Connection, number: int) -> None:
    db.execute("UPDATE message SET state = 2, owner = NULL WHERE id = ?", (number,))


def hold(db: apsw.Connection, number: int) -> bool:
    db.execute("UPDATE message SET state = 1 WHERE id = ? AND state = 0", (number,))
    return bool(db.changes())


def release(db: apsw.Connection, number: int) -> bool:
    db.execute("UPDATE message SET state = 0 WHERE id = ? AND state = 1", (number,))
    return bool(db.changes()) and wake(db, number)


def requeue(db: apsw.Connection, number: int) -> bool:
    db.execute("UPDATE message SET state = 0 WHERE id = ? AND state <> 2", (number,))
    return bool(db.changes()) and wake(db, number)


def wake(db: apsw.Connection, number: int) -> bool:
    """All recipients are due. Not for what is held or damaged."""
    db.execute("UPDATE message SET next_attempt = 0 WHERE id = ? AND state = 0", (number,))
    if not db.changes():
        return False
    db.execute("UPDATE recipient SET next_attempt = 0 WHERE message = ?", (number,))
    return True


def remove_if_there(db: apsw.Connection, number: int) -> bool:
    found = exists(db, number)
    if found:
        remove(db, number)
    return found


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
        "GROUP BY 1, 2, 3",
        (now,),
    ):
        name = queue_of(state, "somebody" if owned else None, 0.0 if due else now + 1, now)
        counts[name] += n
    return counts
