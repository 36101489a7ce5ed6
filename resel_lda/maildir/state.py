"""`state`: what Dovecot's files cannot hold.

MODSEQ values, the flags seen last (so that changes made by other programs while we were away are
noticed), which UIDs were expunged, when messages came, stored special uses. If it is lost or
damaged, MODSEQ restarts from the clock, above any earlier value.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence

import apsw

from resel_lda.maildir.database import Database, all_rows
from resel_lda.maildir.ranges import uid_ranges
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog

NO_DATE = float("-inf")
"""The internal date in `state` of a message whose date was not noted yet."""
NO_DATES: tuple[float, int | None] = (NO_DATE, None)

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


class FolderState:
    """What `state` knows of one folder. rows: uid -> (modseq, letters).

    next_uid: above all UIDs that were written down, 0 if that is not known. unsettled: what was told
    of flags may be no more. dated_from: from this UID on all dates are noted.
    """

    __slots__ = (
        "dated_from", "expunge_floor", "expunged", "first_recent", "floor", "id", "is_new", "next_uid", "rows",
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
        self.dated_from = 0
        self.rows: dict[int, tuple[int, str]] = {}
        self.expunged: list[tuple[int, int]] = []


def storable(letters: str) -> str:
    """Letters of a file name, that may have any octets, as they can stand in `state`."""
    return letters if letters.isascii() else letters.encode("utf-8", "replace").decode()


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
        rows = all_rows(db, "SELECT uid, modseq, letters FROM message WHERE folder = ?", folder_id)
        state.rows = {uid: (modseq, letters) for uid, modseq, letters in rows}
        undated = all_rows(
            db,
            "SELECT max(uid) FROM message WHERE folder = ? AND (saved IS NULL OR date = ?)",
            folder_id, NO_DATE,
        )  # fmt: skip
        state.dated_from = (undated[0][0] or 0) + 1
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
        """Rows (uid, modseq, date, letters, save date) and (modseq, uid) of what vanished. Dates that
        are there already stay. Not synced: what a power cut takes is seen as a change at the next
        look. The new expunge floor, or 0."""

        def work(db: apsw.Connection) -> int:
            db.executemany(
                "INSERT INTO message (folder, uid, modseq, date, letters, saved)"
                f" VALUES ({folder_id}, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET modseq = excluded.modseq,"
                " date = CASE WHEN date = -9e999 THEN excluded.date ELSE date END, letters = excluded.letters,"
                " saved = coalesce(saved, excluded.saved)",
                changed,
            )
            db.execute("UPDATE folder SET next_uid = ? WHERE id = ?", (next_uid, folder_id))
            if not expunged:
                return 0
            db.executemany(f"INSERT OR IGNORE INTO expunged VALUES ({folder_id}, ?, ?)", expunged)
            db.executemany(
                f"DELETE FROM message WHERE folder = {folder_id} AND uid BETWEEN ? AND ?",
                uid_ranges({uid for _, uid in expunged}),
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

    def save_all(
        self, folder_id: int, letters: Mapping[int, str], modseq: int, next_uid: int
    ) -> None:
        """Rows of all messages of a folder that has none, by UID, without dates."""
        packed = json.dumps(letters)

        def work(db: apsw.Connection) -> None:
            # One statement: each row by itself would have to wait for its turn in the interpreter.
            db.execute(
                "INSERT OR IGNORE INTO message (folder, uid, modseq, date, letters)"
                " SELECT ?, key, ?, -9e999, value FROM json_each(?)",
                (folder_id, modseq, packed),
            )
            db.execute("UPDATE folder SET next_uid = ? WHERE id = ?", (next_uid, folder_id))

        self.database.run(work)
        # The pages just written are not needed soon.
        self.database.read(lambda db: db.execute("PRAGMA shrink_memory"))

    def dates(self, folder_id: int, low: int, high: int) -> dict[int, tuple[float, int | None]]:
        """uid -> (internal date, save date), as far as they were noted."""
        rows = self.database.read(
            lambda db: all_rows(
                db,
                "SELECT uid, date, saved FROM message WHERE folder = ? AND uid BETWEEN ? AND ?",
                folder_id, low, high,
            )
        )  # fmt: skip
        return {uid: (date, saved) for uid, date, saved in rows}

    def note_dates(self, folder_id: int, dates: Mapping[int, tuple[float, int]]) -> None:
        """Of messages of which they were not noted when they came."""
        if not dates:
            return
        rows = [(date, saved, folder_id, uid) for uid, (date, saved) in dates.items()]
        self.database.run(
            lambda db: db.executemany(
                "UPDATE message SET date = CASE WHEN date = -9e999 THEN ? ELSE date END,"
                " saved = coalesce(saved, ?) WHERE folder = ? AND uid = ?",
                rows,
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
