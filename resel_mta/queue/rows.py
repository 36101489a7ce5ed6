"""Messages as rows: what the store does inside a transaction. Every function runs in the
writer's thread and raises apsw.Error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from resel_mta.mail import Envelope, Message, Notify, Recipient
from resel_mta.queue import tokens
from resel_mta.queue.door import Result, Watcher
from resel_mta.queue.ids import format_id
from resel_mta.queue.journal import reason
from resel_mta.queue.schema import DONE, HELD, LIVE, PENDING
from resel_mta.queue.spool import THRESHOLD, FileBody

_INSERT_MESSAGE = "INSERT INTO message VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_INSERT_CONTENT = "INSERT INTO content VALUES(?,?,?)"
_INSERT_RECIPIENT = "INSERT INTO recipient VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)"

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
    if message.token:
        tokens.record(db, message.token, number, message.arrival)


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
            "UPDATE recipient SET status = ?, attempts = attempts + 1, reply = ?, relay = ?, "
            "waits_for = '' WHERE message = ? AND row = ?",
            (DONE, _text(reason(outcome)), outcome.relay, number, recipient.row),
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
                "relay = ?, waits_for = ? WHERE message = ? AND row = ?",
                (
                    retry.next_attempt,
                    _text(reason(retry.outcome)),
                    retry.outcome.relay,
                    retry.waits_for,
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


@dataclass(frozen=True, slots=True)
class Entering:
    """A notice that is to be entered, with the watcher that admitted it."""

    number: int
    message: Message
    owner: str | None
    watcher: Watcher | None


@dataclass(frozen=True, slots=True)
class Step:
    """A result, with its message's number and its notices."""

    number: int
    result: Result
    notices: list[Entering]


@dataclass(slots=True)
class Recorded:
    """gone: ids of messages that are not there any more; files: those of them with a file;
    entered: the numbers of the notices that were entered."""

    gone: set[str] = field(default_factory=set)
    files: list[str] = field(default_factory=list)
    entered: set[int] = field(default_factory=set)


def record_all(db: apsw.Connection, owner: str, steps: Iterable[Step]) -> Recorded:
    """For each result its notices first, then what they are about."""
    recorded = Recorded()
    for step in steps:
        number, result = step.number, step.result
        queue_id = result.message.queue_id
        if step.notices and not exists(db, number):
            recorded.gone.add(queue_id)
            continue
        for notice in step.notices:
            insert(db, notice.number, notice.message, notice.owner)
            recorded.entered.add(notice.number)
        spooled = result.message.size > THRESHOLD and is_spooled(db, number)
        if record(db, number, result, owner):
            recorded.gone.add(queue_id)
            if spooled:
                recorded.files.append(queue_id)
    return recorded


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
