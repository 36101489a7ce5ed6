"""Messages as rows: what the store does inside a transaction. Every function runs in the
writer's thread and raises apsw.Error."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import apsw

from resel_mta.content import Content, Header, MemoryBody
from resel_mta.mail import Envelope, Message, Notify, Recipient
from resel_mta.queue import tokens
from resel_mta.queue.ids import format_id
from resel_mta.queue.ledger import Count, Ledger, pending
from resel_mta.queue.schema import HELD, LIVE, PENDING
from resel_mta.queue.spool import THRESHOLD, FileBody

_SIZES = (64, 32, 16, 8, 4, 2, 1)
"""Rows that one statement writes: each statement costs a change of the thread that runs Python."""


def _inserts(table: str, columns: int) -> dict[int, str]:
    row = f"({','.join('?' * columns)})"
    return {n: f"INSERT INTO {table} VALUES{','.join([row] * n)}" for n in _SIZES}


def _deletes(table: str, column: str) -> dict[int, str]:
    return {n: f"DELETE FROM {table} WHERE {column} IN ({','.join('?' * n)})" for n in _SIZES}


_INSERT_MESSAGES = _inserts("message", 16)
_INSERT_CONTENTS = _inserts("content", 3)
_DELETES = (
    _deletes("recipient", "message"),
    _deletes("content", "id"),
    _deletes("message", "id"),
)
_INSERT_RECIPIENT = "INSERT INTO recipient VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_UNFOLD = (
    "INSERT INTO recipient SELECT message.id, key + 1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, "
    "value ->> 4, value ->> 5, 0, next_attempt, value ->> 6, '', '', '' FROM message, "
    "json_each(recipients) WHERE message.id = ? AND recipients <> ''"
)

IN_LIST = "IN (SELECT value FROM json_each(?))"
"""For a parameter from `as_list`: one statement for many messages."""
_MESSAGE = (
    "SELECT id, arrival, size, reverse_path, body, smtputf8, ret, envid, protocol, state, "
    f"next_attempt, expires, warned, recipients FROM message WHERE id {IN_LIST}"
)
_RECIPIENTS = (
    "SELECT message, address, orig_to, reverse_path, orcpt, notify, via, attempts, row, "
    "next_attempt, reply <> '' FROM recipient "
    f"WHERE message {IN_LIST} AND status = 0 ORDER BY message, row"
)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class Row(NamedTuple):
    """A message as the values of its rows in `message` and `content`, and for the ledger."""

    message: tuple[Any, ...]
    content: tuple[Any, ...]
    noted: Count


def as_list(numbers: Iterable[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"


def pack(recipients: Sequence[Recipient]) -> str:
    """The column message.recipients; the recipients' rows are set."""
    if len(recipients) == 1 and (text := _pack_usual(recipients[0])):
        return text
    packed = []
    for row, recipient in enumerate(recipients, 1):
        recipient.row = row
        packed.append(
            (
                recipient.address,
                recipient.orig_to,
                recipient.reverse_path,
                recipient.orcpt,
                int(recipient.notify),
                "\n".join(recipient.via),
                recipient.attempts,
            )
        )
    return _encode(packed)


def _pack_usual(recipient: Recipient) -> str:
    """A recipient with nothing but a plain address; "" for any other."""
    address = recipient.address
    if (
        recipient.orig_to
        or recipient.reverse_path is not None
        or recipient.orcpt
        or recipient.notify != 0
        or recipient.via
        or recipient.attempts
        or not address.isprintable()
        or '"' in address
        or "\\" in address
    ):
        return ""
    recipient.row = 1
    return f'[["{address}","",null,"",0,"",0]]'


def unpack(packed: str) -> list[Recipient]:
    """Raises apsw.CorruptError for what `pack` did not write."""
    try:
        return [_recipient((*values, row)) for row, values in enumerate(_decode(packed), 1)]
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise apsw.CorruptError(f"recipients: {error}") from error


def unfold(db: apsw.Connection, number: int) -> None:
    """From now on each recipient is a row of its own."""
    db.execute(_UNFOLD, (number,))
    if db.changes():
        db.execute("UPDATE message SET recipients = '' WHERE id = ?", (number,))


def row_of(number: int, message: Message, owner: str | None) -> Row:
    """A whole message with content and recipients. The recipients' rows are set."""
    content = message.content
    if content is None:
        raise ValueError("a message is entered with its content")
    envelope = message.envelope
    body = content.body
    spooled = isinstance(body, FileBody)
    return Row(
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
            pack(message.recipients),
        ),
        (number, content.header.raw, None if spooled else body.read(0, body.size)),
        Count(number, len(message.recipients), message.named, message.generated, message.merged),
    )


def insert_rows(db: apsw.Connection, rows: Sequence[Row]) -> None:
    start, left = 0, len(rows)
    while left:
        n = min(1 << (left.bit_length() - 1), _SIZES[0])
        messages: list[Any] = []
        contents: list[Any] = []
        for row in rows[start : start + n]:
            messages += row.message
            contents += row.content
        db.execute(_INSERT_MESSAGES[n], messages)
        db.execute(_INSERT_CONTENTS[n], contents)
        start += n
        left -= n


def insert(
    db: apsw.Connection, ledger: Ledger, number: int, message: Message, owner: str | None
) -> None:
    """One message, with its token. Raises door.AlreadyEntered."""
    row = row_of(number, message, owner)
    insert_rows(db, [row])
    ledger.entered([row.noted])
    if message.token:
        tokens.record(db, message.token, number, message.arrival)


def add_recipients(
    db: apsw.Connection, number: int, recipients: Sequence[Recipient], due: float, first: int
) -> None:
    """Beside those that have rows."""
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


def remove_all(db: apsw.Connection, numbers: Sequence[int]) -> None:
    start, left = 0, len(numbers)
    while left > 0:
        n = min(1 << (left - 1).bit_length(), _SIZES[0])
        chosen = list(numbers[start : start + n])
        # One number more than once is as good as once.
        chosen += chosen[-1:] * (n - len(chosen))
        for statements in _DELETES:
            db.execute(statements[n], chosen)
        start += n
        left -= n


def remove(db: apsw.Connection, number: int) -> None:
    remove_all(db, (number,))


def withdraw(db: apsw.Connection, ledger: Ledger, numbers: Sequence[int]) -> None:
    """These were refused: as if they had never been there."""
    ledger.begin()
    there = [number for number in dict.fromkeys(numbers) if exists(db, number)]
    ledger.withdrawn(sum(pending(db, number) for number in there))
    ledger.removed(there)
    remove_all(db, there)
    tokens.withdraw(db, numbers)
    ledger.write(db)


def is_spooled(db: apsw.Connection, number: int) -> bool:
    """Whether the message is there with its body in a file."""
    return db.execute("SELECT spooled FROM message WHERE id = ?", (number,)).get is not None


def exists(db: apsw.Connection, number: int) -> bool:
    return db.execute("SELECT 1 FROM message WHERE id = ?", (number,)).get is not None


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
        address=row[0],
        orig_to=row[1],
        reverse_path=row[2],
        orcpt=row[3],
        notify=Notify(row[4]) if row[4] else Notify.UNSET,
        row=row[7],
        attempts=row[6],
        via=tuple(row[5].split("\n")) if row[5] else (),
        waited=bool(row[9:] and row[9]),
    )


def read(db: apsw.Connection, number: int, due: float | None = None) -> Message | None:
    """A message without content, with the recipients that are not done (and due by `due`)."""
    found = read_all(db, (number,), due)
    return found[0] if found else None


def read_all(
    db: apsw.Connection, numbers: Iterable[int], due: float | None = None
) -> list[Message]:
    """Those that are there, in this order."""
    listed = as_list(numbers)
    messages: dict[int, Message] = {}
    split: dict[int, Message] = {}
    for row in db.execute(_MESSAGE, (listed,)):
        number: int = row[0]
        packed: str = row[13]
        if None in row:
            raise apsw.CorruptError("message: a value is missing")
        message = messages[number] = _message(row)
        message.whole = True
        if packed:
            message.recipients.extend(unpack(packed))
        else:
            split[number] = message
    if split:
        for values in db.execute(_RECIPIENTS, (as_list(split),)):
            message = split[values[0]]
            if due is None or values[9] <= due:
                message.recipients.append(_recipient(values[1:]))
            else:
                message.whole = False
    return [messages[number] for number in numbers if number in messages]


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
    chosen = list(numbers)
    taken = {
        number
        for (number,) in db.execute(
            f"UPDATE message SET owner = ? WHERE id {IN_LIST} AND state = 0 AND owner IS NULL "
            "RETURNING id",
            (owner, as_list(chosen)),
        ).fetchall()
    }
    return read_all(db, [number for number in chosen if number in taken], due)


def add_contents(db: apsw.Connection, messages: Iterable[Message], octets: int) -> None:
    """Give the first of these their content, as long as there are not more than `octets` of it.
    Not to those whose body is in a file, or whose content cannot be read."""
    left = octets
    chosen: dict[int, Message] = {}
    for message in messages:
        left -= message.size
        if left < 0:
            break
        if message.size <= THRESHOLD:
            chosen[int(message.queue_id, 16)] = message
    with contextlib.suppress(apsw.CorruptError):
        for number, header, body in db.execute(
            f"SELECT id, header, body FROM content WHERE id {IN_LIST} AND body IS NOT NULL",
            (as_list(chosen),),
        ):
            chosen[number].content = Content(Header(header), MemoryBody(body))


def unclaim(db: apsw.Connection, owner: str, numbers: Iterable[int] | None) -> None:
    if numbers is None:
        db.execute("UPDATE message SET owner = NULL WHERE owner = ?", (owner,))
        return
    for number in numbers:
        db.execute("UPDATE message SET owner = NULL WHERE id = ? AND owner = ?", (number, owner))


def content(db: apsw.Connection, number: int) -> tuple[bytes, bytes | None, int | None, str] | None:
    """Header, body (None if in a file), octets in the file (None if in the row), what is wrong
    ("" if nothing). None: the message is not there."""
    try:
        found = db.execute(
            "SELECT spooled, header, content.body FROM message LEFT JOIN content USING(id) "
            "WHERE id = ?",
            (number,),
        ).fetchone()
    except apsw.CorruptError as error:
        spooled = db.execute("SELECT spooled FROM message WHERE id = ?", (number,)).get
        return b"", None, spooled, f"content: {error}"
    if found is None:
        return None
    spooled, header, body = found
    if header is None or (body is None) != (spooled is not None):
        return b"", None, spooled, "content is missing"
    return header, body, spooled, ""
