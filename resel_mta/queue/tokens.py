"""By which token a message was handed in, for a while: so that one which is handed in again, since
its sender never heard that it was taken, is known. Every function runs in the writer's thread and
raises apsw.Error."""

from __future__ import annotations

from collections.abc import Iterable

import apsw

from resel_mta.queue.door import AlreadyEntered


def record(db: apsw.Connection, token: str, number: int, now: float) -> None:
    """Raises door.AlreadyEntered when another message has it."""
    try:
        db.execute("INSERT INTO token VALUES(?,?,?)", (token, number, now))
    except apsw.ConstraintError as error:
        raise AlreadyEntered(token) from error


def is_known(db: apsw.Connection, token: str) -> bool:
    return db.execute("SELECT 1 FROM token WHERE token = ?", (token,)).get is not None


def withdraw(db: apsw.Connection, numbers: Iterable[int]) -> None:
    """These messages were never acknowledged, and are no longer there."""
    for number in numbers:
        db.execute("DELETE FROM token WHERE message = ?", (number,))


def forget(db: apsw.Connection, before: float) -> None:
    db.execute("DELETE FROM token WHERE at < ?", (before,))
