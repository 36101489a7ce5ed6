"""A damaged database: set aside whole, and every message that can still be read taken over."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import apsw

from resel_mta.disk import Disk
from resel_mta.queue.schema import HELD, LIVE, open_database

TABLES = ("message", "content", "recipient")


def salvage(path: str, corrupt: Path, disk: Disk, vfs: str | None) -> tuple[apsw.Connection, str]:
    """Move the database at `path` to the folder `corrupt` and make a new one with what can be
    read of it; the new one, and a line that says what happened. Raises OSError, apsw.Error.
    """
    aside = corrupt / f"queue.db.{time.time_ns():x}"
    for suffix in ("", "-wal"):
        if os.path.exists(path + suffix):
            disk.rename(path + suffix, f"{aside}{suffix}")
    disk.sync_directory(corrupt)
    disk.sync_directory(Path(path).parent)
    new = open_database(path, vfs)
    try:
        saved, lost = _copy(aside, new)
    except BaseException:
        new.close()
        raise
    text = f"damaged database set aside as {aside}: {saved} messages taken over"
    return new, f"{text}, at least {lost} could not be read" if lost else text


def _copy(source: Path, new: apsw.Connection) -> tuple[int, int]:
    """How many messages were taken over, and how many were seen and could not be."""
    saved = lost = 0
    old = apsw.Connection(str(source))
    try:
        old.pragma("locking_mode", "EXCLUSIVE")
        _copy_notes(old, new)
        for number in _numbers(old):
            try:
                with new:
                    _copy_message(old, new, number)
                saved += 1
            except apsw.Error:
                lost += 1
    finally:
        # A damaged database may fail even at that.
        with contextlib.suppress(apsw.Error):
            old.close()
    return saved, lost


def _copy_notes(old: apsw.Connection, new: apsw.Connection) -> None:
    """So that no id is given twice, and nothing is taken twice."""
    for table in ("meta", "token", "trash", "ledger"):
        with contextlib.suppress(apsw.Error):
            for row in old.execute(f"SELECT * FROM {table}"):
                marks = ",".join("?" * len(row))
                new.execute(f"INSERT OR REPLACE INTO {table} VALUES({marks})", row)


def _numbers(old: apsw.Connection) -> list[int]:
    """The numbers that any table or index still knows, each once."""
    seen: set[int] = set()
    for table, column in (("message", "id"), ("content", "id"), ("recipient", "message")):
        for order in ("ASC", "DESC"):
            # From both ends: a damaged page in the middle stops the one and the other.
            with contextlib.suppress(apsw.Error):
                for (number,) in old.execute(
                    f"SELECT {column} FROM {table} ORDER BY {column} {order}"
                ):
                    seen.add(number)
    return sorted(seen)


def _copy_message(old: apsw.Connection, new: apsw.Connection, number: int) -> None:
    packed = False
    for table in TABLES:
        column = "message" if table == "recipient" else "id"
        found = old.execute(f"SELECT * FROM {table} WHERE {column} = ?", (number,)).fetchall()
        if not found and not (table == "recipient" and packed):
            raise apsw.CorruptError(f"{table} of {number} is missing")
        if table == "message":
            packed = found[0][-1] != ""
        for row in found:
            new.execute(f"INSERT INTO {table} VALUES({','.join('?' * len(row))})", row)
    new.execute(
        "UPDATE message SET owner = NULL WHERE id = ? AND state IN (?, ?)", (number, LIVE, HELD)
    )
