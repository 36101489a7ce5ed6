"""A damaged database: set aside whole, and whatever can still be read taken over into a new one.

The new one is complete, and synced, before the old one is touched; from then on each step can be
done again, so that a crash on the way costs nothing (`finish`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import apsw

from resel_mta.disk import Disk
from resel_mta.queue import changes, rows
from resel_mta.queue.audit import TERMS
from resel_mta.queue.ids import format_id
from resel_mta.queue.pages import MAGIC, Pages, Record
from resel_mta.queue.schema import (
    HELD,
    ROWS_LOST,
    TRASHED,
    VERSION,
    UnknownVersion,
    close_damaged,
    is_damage,
    open_database,
    settle,
)

READY, MAKING = ".new", ".making"
BATCH = 500
"""Rows in one commit."""
NAMED = 20
"""Ids that the report names."""

_TABLES = {"message": 16, "content": 3, "recipient": 14, "trash": 3, "token": 3, "meta": 2}
_TABLES["ledger"] = len(TERMS) + 2
_INSERT = {
    table: f"INSERT OR IGNORE INTO {table} VALUES({','.join('?' * columns)})"
    for table, columns in _TABLES.items()
}


def is_cut(path: str) -> bool:
    """Whether there is a log of changes and nothing that was changed: SQLite would begin a new
    database, and drop the log."""
    return _size(path) <= 0 < _size(f"{path}-wal")


def is_of_another_format(path: str) -> bool:
    """Whether the file says of itself that it was made by another release."""
    try:
        with open(path, "rb") as file:
            header = file.read(64)
    except FileNotFoundError:
        return False
    return header.startswith(MAGIC) and int.from_bytes(header[60:64]) not in (0, VERSION)


def open_or_salvage(
    path: str,
    corrupt: Path,
    disk: Disk,
    vfs: str | None,
    load: Callable[[apsw.Connection], None],
    *,
    damaged: bool,
) -> tuple[apsw.Connection, str]:
    """The database, and what has to be reported, if anything.

    load: given what was opened, at once; may find damage. damaged: it was found before.
    Raises OSError, schema.UnusableLibrary, schema.UnknownVersion, apsw.Error.
    """
    finish(path, disk)
    if not damaged and not is_cut(path):
        try:
            return _opened(path, vfs, load), ""
        except Exception as error:
            if not is_damage(error):
                raise
    if is_of_another_format(path):
        raise UnknownVersion("the queue is damaged, and in the format of another release")
    text = salvage(path, corrupt, disk, vfs)
    return _opened(path, vfs, load), text


def _opened(path: str, vfs: str | None, load: Callable[[apsw.Connection], None]) -> apsw.Connection:
    db = open_database(path, vfs)
    try:
        load(db)
    except BaseException:
        close_damaged(db)
        raise
    return db


def finish(path: str, disk: Disk) -> None:
    """Put a new database, if a salvage left one, in its place. Raises OSError."""
    if not os.path.exists(path + READY):
        return
    # What is removed here lies in corrupt/ too.
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(f"{path}-wal")
    disk.rename(path + READY, path)
    disk.sync_directory(Path(path).parent)


def salvage(path: str, corrupt: Path, disk: Disk, vfs: str | None) -> str:
    """Move the database at `path` to the folder `corrupt` and make a new one with what can be
    read of it; a line that says what happened. Raises OSError, apsw.Error.
    """
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(path + MAKING + suffix)
    new = open_database(path + MAKING, vfs)
    try:
        saved, trouble = _take_over(path, new, corrupt, disk)
        settle(new)
    except BaseException:
        close_damaged(new)
        raise
    new.close()
    aside = f"{corrupt}/queue.db.{time.time_ns():x}"
    for suffix in ("", "-wal"):
        if os.path.exists(path + suffix):
            disk.link(path + suffix, aside + suffix)
    disk.sync_directory(corrupt)
    disk.rename(path + MAKING, path + READY)
    disk.sync_directory(Path(path).parent)
    finish(path, disk)
    text = f"damaged database set aside as {aside}: {saved} messages taken over"
    return "; ".join([text, *trouble])


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def _table_of(row: Record) -> str:
    """By the shape of its rows; "" for none of ours, and for entries of indexes."""
    match row:
        case (int(), bytes(), bytes() | None):
            return "content"
        case (int(), int() | float(), int()):
            return "trash"
        case (str(), int(), int() | float() as at) if at > 1e9:
            # A moment; in the index `waiting` there is the number of a row.
            return "token"
        case ("id_ceiling", int()):
            return "meta"
    for table in ("message", "recipient", "ledger"):
        if len(row) == _TABLES[table] and isinstance(row[0], int):
            return table
    return ""


def _take_over(path: str, new: apsw.Connection, corrupt: Path, disk: Disk) -> tuple[int, list[str]]:
    """How many messages are in the new database and whole; what is to be said of the others."""
    old = Pages(path)
    try:
        _copy(old.rows(), new)
    finally:
        old.close()
    with new:
        new.execute("INSERT OR REPLACE INTO meta VALUES(?, 1)", (ROWS_LOST,))
        bare = without_envelope(new, corrupt, disk)
        broken = _mark_broken(new)
        new.execute("DELETE FROM trash WHERE id NOT IN (SELECT id FROM message WHERE state = 3)")
        new.execute(
            "INSERT OR IGNORE INTO trash SELECT id, ?, ? FROM message WHERE state = ?",
            (time.time(), HELD, TRASHED),
        )
    whole = new.execute("SELECT count(*) FROM message").get - len(broken)
    trouble = []
    if broken:
        trouble.append(f"{len(broken)} are not whole and marked as corrupt: {_list(broken)}")
    if bare:
        trouble.append(f"of {len(bare)} only the content is left, in {corrupt}: {_list(bare)}")
    return whole, trouble


def _copy(found: Iterable[Record], new: apsw.Connection) -> None:
    pending: list[tuple[str, Record]] = []
    for row in found:
        if table := _table_of(row):
            pending.append((table, row))
        if len(pending) >= BATCH:
            _insert(new, pending)
            pending.clear()
    _insert(new, pending)


def _insert(new: apsw.Connection, pending: Iterable[tuple[str, Record]]) -> None:
    with new:
        for table, row in pending:
            # What the table's types do not allow is damage.
            with contextlib.suppress(apsw.ConstraintError):
                new.execute(_INSERT[table], row)


def without_envelope(new: apsw.Connection, corrupt: Path, disk: Disk) -> list[int]:
    """Contents without a message are taken out, into files of the folder `corrupt`: nobody knows
    where these should go; a person may. In the transaction of the caller. Raises OSError."""
    lost = "(SELECT id FROM message)"
    numbers = [n for (n,) in new.execute(f"SELECT id FROM content WHERE id NOT IN {lost}")]
    for number in numbers:
        ((header, body),) = new.execute("SELECT header, body FROM content WHERE id = ?", (number,))
        target = corrupt / f"{format_id(number)}.eml"
        # Written at an earlier attempt.
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(target)
        disk.write_file(target, [header, body or b""])
    new.execute(f"DELETE FROM content WHERE id NOT IN {lost}")
    new.execute(f"DELETE FROM recipient WHERE message NOT IN {lost}")
    return numbers


def _mark_broken(new: apsw.Connection) -> list[int]:
    """Rule 4: they stay in the listings, and nothing is tried any more."""
    checks: tuple[Callable[[], Iterable[int]], ...] = (
        lambda: _numbers(
            new,
            "SELECT message.id FROM message LEFT JOIN content USING(id) WHERE header IS NULL OR "
            "(content.body IS NULL) <> (spooled IS NOT NULL)",
        ),
        lambda: _numbers(
            new,
            "SELECT id FROM message WHERE recipients = '' AND NOT EXISTS "
            "(SELECT 1 FROM recipient WHERE message = id AND status = 0)",
        ),
        lambda: _numbers(
            new, "SELECT message FROM recipient GROUP BY message HAVING count(*) <> max(row)"
        ),
        lambda: _numbers(new, "SELECT id FROM message WHERE state NOT BETWEEN 0 AND 3"),
        lambda: _unreadable(new),
    )
    broken = sorted({number for check in checks for number in check()})
    for number in broken:
        changes.mark_corrupt(new, number)
    return broken


def _numbers(new: apsw.Connection, query: str) -> list[int]:
    return [number for (number,) in new.execute(query)]


def _unreadable(new: apsw.Connection) -> list[int]:
    """Whose recipients are not what `rows.pack` writes: these get none, so that it is read at all."""
    found = []
    for number in _numbers(new, "SELECT id FROM message"):
        try:
            rows.read(new, number)
        except (ValueError, apsw.Error):
            found.append(number)
            new.execute("UPDATE message SET recipients = '' WHERE id = ?", (number,))
            new.execute("DELETE FROM recipient WHERE message = ?", (number,))
    return found


def _list(numbers: list[int]) -> str:
    names = " ".join(map(format_id, numbers[:NAMED]))
    return f"{names} …" if len(numbers) > NAMED else names
