"""The two SQLite files beside the Maildir. Both are opened by the one worker that owns the user.

`state` holds what Dovecot's files cannot: MODSEQ values, the flags seen last (so that changes
made by other programs while we were away are noticed), which UIDs were expunged, stored special
uses. If it is lost or damaged, MODSEQ restarts from the clock, above any earlier value.
`cache` (in `cache.py`) holds what can be computed again. Delete it and nothing is lost.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import apsw

from resel_mta.disk import Disk
from resel_mta.maillog import MailLog

T = TypeVar("T")

_STATE_SCHEMA = """
CREATE TABLE folder (
  id INTEGER PRIMARY KEY, guid TEXT NOT NULL UNIQUE, uidvalidity INTEGER NOT NULL,
  floor INTEGER NOT NULL, first_recent INTEGER NOT NULL, expunge_floor INTEGER NOT NULL);
CREATE TABLE message (
  folder INTEGER NOT NULL, uid INTEGER NOT NULL, modseq INTEGER NOT NULL, date REAL NOT NULL,
  letters TEXT NOT NULL, PRIMARY KEY (folder, uid)) WITHOUT ROWID;
CREATE TABLE expunged (
  folder INTEGER NOT NULL, modseq INTEGER NOT NULL, uid INTEGER NOT NULL,
  PRIMARY KEY (folder, modseq, uid)) WITHOUT ROWID;
CREATE TABLE special_use (name TEXT PRIMARY KEY, attribute TEXT NOT NULL) WITHOUT ROWID;
"""
_STATE_STEPS = (
    _STATE_SCHEMA,
    "ALTER TABLE folder ADD COLUMN next_uid INTEGER NOT NULL DEFAULT 0",
    # Seconds since the epoch, NULL where it was not noted.
    "ALTER TABLE message ADD COLUMN saved INTEGER",
    "CREATE TABLE IF NOT EXISTS metadata (folder TEXT NOT NULL, entry TEXT NOT NULL,"
    " value BLOB NOT NULL, PRIMARY KEY (folder, entry)) WITHOUT ROWID",
    # Folders in which flags may be lost to a power cut.
    "CREATE TABLE IF NOT EXISTS unsettled (folder INTEGER PRIMARY KEY)",
)


def all_rows(db: apsw.Connection, sql: str, *values: object) -> list[Any]:
    """The rows of one statement."""
    return db.execute(sql, values).fetchall()


class Database:
    """One SQLite file, opened at first use, set aside and begun anew when it is damaged.

    steps: what made each version of the schema of the one before. oldest: the version before the
    first step; a file that is older still, or of a later program, is made anew.
    Methods block. Any thread may call them; one at a time runs.
    """

    def __init__(
        self, path: str, steps: Sequence[str], disk: Disk, log: MailLog, *, oldest: int = 0
    ) -> None:
        self.path = path
        self._steps = steps
        self._oldest = oldest
        self._disk = disk
        self._log = log
        self._lock = threading.RLock()
        self._connection: apsw.Connection | None = None
        # Made by us, and not synced yet.
        self._unsynced = False
        self._mode = "NORMAL"
        self.generation = 0

    def run(self, work: Callable[[apsw.Connection], T]) -> T:
        """`work` in one transaction. A damaged file is replaced by an empty one and `work` is
        tried once more on that. Raises apsw.Error (disk full, locked by another process)."""
        with self._lock:
            try:
                return self._attempt(work)
            except (apsw.CorruptError, apsw.NotADBError) as error:
                self._set_aside(error)
                return self._attempt(work)

    def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """As `run`, of work that is one statement, so that it needs no transaction around it."""
        with self._lock:
            try:
                return work(self._open())
            except (apsw.CorruptError, apsw.NotADBError) as error:
                self._set_aside(error)
                return work(self._open())

    def _attempt(self, work: Callable[[apsw.Connection], T]) -> T:
        connection = self._open()
        result: list[T] = []
        with connection:
            result.append(work(connection))
        return result[0]

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            connection = apsw.Connection(self.path)
            try:
                connection.set_busy_timeout(5000)
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: apsw.Connection) -> None:
        os.chmod(self.path, 0o600)
        if not os.path.getsize(self.path):
            # What a power cut leaves of a file that nothing was promised of is begun anew.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = MEMORY")
            self._unsynced = True
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA journal_mode = WAL")
        version = int(all_rows(connection, "PRAGMA user_version")[0][0])
        newest = self._oldest + len(self._steps)
        if version == newest:
            connection.execute(f"PRAGMA synchronous = {self._mode}")
            return
        if version and not self._oldest <= version < newest:
            raise apsw.CorruptError(f"schema version {version}")
        with connection:
            for step in self._steps[max(version - self._oldest, 0) :]:
                connection.execute(step)
            connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute(f"PRAGMA synchronous = {self._mode}")

    def _set_aside(self, error: Exception) -> None:
        self.close()
        aside = f"{self.path}.damaged.{time.time_ns()}"
        self._log.warning(
            "imap", f"{self.path} is damaged ({error}): set aside as {aside}, rebuilt"
        )
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self._disk.rename(self.path + suffix, aside + suffix)
        with contextlib.suppress(FileNotFoundError):
            self._disk.rename(self.path, aside)
        self.generation += 1

    @contextlib.contextmanager
    def synced(self) -> Iterator[None]:
        """Commits inside survive a power cut. Nobody else's `work` runs meanwhile."""
        with self._lock:
            connection = self._open()
            self._mode = "FULL"
            connection.execute("PRAGMA synchronous = FULL")
            if self._unsynced:
                # The log is of no use without the file that it is of.
                connection.execute("PRAGMA wal_checkpoint = FULL")
                self._disk.sync_directory(os.path.dirname(self.path))
                self._unsynced = False
            try:
                yield
            finally:
                self._mode = "NORMAL"
                self._open().execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                connection, self._connection = self._connection, None
                connection.close(True)


class FolderState:
    """What `state` knows of one folder. rows: uid -> (modseq, internal date, letters).

    next_uid: above all UIDs that were written down, 0 if that is not known. unsettled: what was told
    of flags may be no more.
    """

    __slots__ = (
        "expunge_floor", "expunged", "first_recent", "floor", "id", "is_new", "next_uid", "rows",
        "unsettled",
    )  # fmt: skip

    def __init__(self, folder_id: int, floor: int, first_recent: int, expunge_floor: int) -> None:
        self.id = folder_id
        self.floor = floor
        self.first_recent = first_recent
        self.expunge_floor = expunge_floor
        self.is_new = False
        self.unsettled = False
        self.next_uid = 0
        self.rows: dict[int, tuple[int, float, str]] = {}
        self.expunged: list[tuple[int, int]] = []


def clock_modseq() -> int:
    """A MODSEQ above any that a folder can have had: microseconds since the epoch. A folder
    would have to change a million times a second, always, to overtake it."""
    return time.time_ns() // 1_000


class StateFile:
    """`state` of one user."""

    def __init__(self, path: str, disk: Disk, log: MailLog) -> None:
        self.database = Database(path, _STATE_STEPS, disk, log)

    def load(self, guid: str, uidvalidity: int, next_uid: int) -> FolderState:
        """A folder's state; a fresh one if it is unknown or its UIDVALIDITY is another."""

        def work(db: apsw.Connection) -> FolderState:
            found = all_rows(
                db,
                "SELECT id, uidvalidity, floor, first_recent, expunge_floor, next_uid FROM folder"
                " WHERE guid = ?",
                guid,
            )
            if found and found[0][1] == uidvalidity:
                return self._load_rows(db, found[0])
            if found:
                self._forget(db, found[0][0])
            floor = clock_modseq()
            db.execute(
                "INSERT INTO folder (guid, uidvalidity, floor, first_recent, expunge_floor, next_uid)"
                " VALUES (?, ?, ?, ?, ?, ?)", (guid, uidvalidity, floor, next_uid, floor, next_uid),
            )  # fmt: skip
            state = FolderState(db.last_insert_rowid(), floor, next_uid, floor)
            state.is_new = True
            return state

        return self.database.run(work)

    @staticmethod
    def _load_rows(db: apsw.Connection, row: tuple[int, int, int, int, int, int]) -> FolderState:
        folder_id, _, floor, first_recent, expunge_floor, next_uid = row
        state = FolderState(folder_id, floor, first_recent, expunge_floor)
        state.next_uid = next_uid
        rows = all_rows(
            db, "SELECT uid, modseq, date, letters FROM message WHERE folder = ?", folder_id
        )
        state.rows = {uid: (modseq, date, letters) for uid, modseq, date, letters in rows}
        state.unsettled = bool(all_rows(db, "SELECT 1 FROM unsettled WHERE folder = ?", folder_id))
        state.expunged = all_rows(
            db, "SELECT modseq, uid FROM expunged WHERE folder = ? ORDER BY modseq, uid", folder_id
        )
        return state

    @staticmethod
    def _forget(db: apsw.Connection, folder_id: int) -> None:
        for table, column in (
            ("message", "folder"), ("expunged", "folder"), ("unsettled", "folder"), ("folder", "id")
        ):  # fmt: skip
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (folder_id,))

    def reserve(self, folder_id: int, floor: int) -> None:
        """Promise on disk that no MODSEQ up to `floor` will be given again after a crash."""
        with self.database.synced():
            self.database.run(
                lambda db: db.execute(
                    "UPDATE folder SET floor = max(floor, ?) WHERE id = ?", (floor, folder_id)
                )
            )

    def set_unsettled(self, folder_id: int, unsettled: bool) -> None:
        """That flags of a folder may be lost to a power cut, durably; or that they no more can."""
        if unsettled:
            with self.database.synced():
                self.database.run(
                    lambda db: db.execute(
                        "INSERT OR IGNORE INTO unsettled VALUES (?)", (folder_id,)
                    )
                )
        else:
            self.database.run(
                lambda db: db.execute("DELETE FROM unsettled WHERE folder = ?", (folder_id,))
            )

    def save(
        self,
        folder_id: int,
        changed: Iterable[tuple[int, int, float, str, int | None]],
        expunged: Sequence[tuple[int, int]],
        keep_expunged: int,
        next_uid: int,
    ) -> int:
        """Rows (uid, modseq, date, letters, save date) and (modseq, uid) of what vanished. A save
        date that is there already stays. Not synced: what a power cut takes is seen as a change at
        the next look. The new expunge floor, or 0."""

        def work(db: apsw.Connection) -> int:
            db.executemany(
                "INSERT INTO message (folder, uid, modseq, date, letters, saved)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET modseq = excluded.modseq,"
                " date = excluded.date, letters = excluded.letters,"
                " saved = coalesce(saved, excluded.saved)",
                [(folder_id, *row) for row in changed],
            )
            db.execute("UPDATE folder SET next_uid = ? WHERE id = ?", (next_uid, folder_id))
            if not expunged:
                return 0
            db.executemany(
                "INSERT OR IGNORE INTO expunged VALUES (?, ?, ?)",
                [(folder_id, *row) for row in expunged],
            )
            db.executemany(
                "DELETE FROM message WHERE folder = ? AND uid = ?",
                [(folder_id, uid) for _, uid in expunged],
            )
            old = all_rows(
                db,
                "SELECT modseq FROM expunged WHERE folder = ? ORDER BY modseq DESC LIMIT 1 OFFSET ?",
                folder_id,
                keep_expunged,
            )
            if not old:
                return 0
            db.execute(
                "DELETE FROM expunged WHERE folder = ? AND modseq <= ?", (folder_id, old[0][0])
            )
            db.execute("UPDATE folder SET expunge_floor = ? WHERE id = ?", (old[0][0], folder_id))
            return int(old[0][0])

        return self.database.run(work)

    def saved_dates(self, folder_id: int, low: int, high: int) -> dict[int, int]:
        """uid -> when it came into the folder, of those messages of which that was noted."""
        return self.database.read(
            lambda db: dict(
                all_rows(
                    db,
                    "SELECT uid, saved FROM message WHERE folder = ? AND uid BETWEEN ? AND ?"
                    " AND saved IS NOT NULL",
                    folder_id, low, high,
                )
            )
        )  # fmt: skip

    def note_saved(self, folder_id: int, dates: Mapping[int, int]) -> None:
        """Of messages of which it was not noted when they came."""
        rows = [(saved, folder_id, uid) for uid, saved in dates.items()]
        self.database.run(
            lambda db: db.executemany(
                "UPDATE message SET saved = ? WHERE folder = ? AND uid = ? AND saved IS NULL", rows
            )
        )

    def set_expunge_floor(self, folder_id: int, floor: int, next_uid: int) -> None:
        """Nothing is known of what was expunged before this MODSEQ."""
        self.database.run(
            lambda db: db.execute(
                "UPDATE folder SET expunge_floor = ?, next_uid = ? WHERE id = ?",
                (floor, next_uid, folder_id),
            )
        )

    def set_first_recent(self, folder_id: int, uid: int) -> None:
        self.database.run(
            lambda db: db.execute(
                "UPDATE folder SET first_recent = ? WHERE id = ?", (uid, folder_id)
            )
        )

    def forget(self, guid: str) -> None:
        """A deleted folder."""

        def work(db: apsw.Connection) -> None:
            for (folder_id,) in all_rows(db, "SELECT id FROM folder WHERE guid = ?", guid):
                self._forget(db, folder_id)

        self.database.run(work)

    def special_uses(self) -> dict[str, str]:
        """Folder name -> "\\Sent" and so on, as CREATE (USE) stored them."""
        return self.database.run(
            lambda db: dict(all_rows(db, "SELECT name, attribute FROM special_use"))
        )

    def set_special_use(self, name: str, attribute: str) -> None:
        """attribute "" forgets it."""

        def work(db: apsw.Connection) -> None:
            db.execute("DELETE FROM special_use WHERE name = ?", (name,))
            if attribute:
                db.execute("INSERT INTO special_use VALUES (?, ?)", (name, attribute))

        with self.database.synced():
            self.database.run(work)
