"""An SQLite file beside a Maildir: `state` (in `state.py`) or `cache` (in `cache.py`). Both are
opened by the one worker that owns the user."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import apsw

from resel_mta.disk import Disk
from resel_mta.maillog import MailLog

T = TypeVar("T")


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
