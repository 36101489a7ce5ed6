"""The one thread that touches the database, with group commit.

It takes whatever is waiting, commits once, and hands all the answers to the event loop in one
call. No delay is added to collect more: while one commit is being synced, the next group gathers
by itself. What nobody waits for asks `next_commit` when to come. The jobs of a group are in no
order: nobody was told yet that any of them is done.

Plain messages of a group are inserted together, a few statements for all of them: each statement
lets the other threads of Python run, and waits for them. A group in which a job fails is rolled
back and done again job by job, each in its own savepoint, so that it fails alone.

After a failed commit nobody knows what is on the disk: the pages may be in the kernel's cache,
marked clean, and lost at the next power cut. So the database is closed and opened again (which
moves the WAL into it and syncs it) and what clients were told had failed is taken out, before
anything else is done. Notices stay: they are in one commit with the end of what they are about.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future as ThreadFuture
from queue import Empty, SimpleQueue
from typing import Any

import apsw

from resel_mta.mail import PermFail, TempFail
from resel_mta.queue import schema
from resel_mta.queue.door import AlreadyEntered
from resel_mta.queue.jobs import Answered, Job, Operation, Refused, answer
from resel_mta.queue.ledger import Ledger
from resel_mta.queue.patience import Patience
from resel_mta.queue.reserve import Reserve
from resel_mta.queue.rows import Row, insert_rows
from resel_mta.queue.schema import is_damage, is_fatal
from resel_mta.queue.spool import DISK_FULL, STORE_FAILED

IDLE_AFTER = 1.0
IDLE_STEP = 0.05
"""Seconds without a job after which the database is tidied up, and between the steps of that."""
GROUP_LIMIT = 500
"""Jobs in one commit, so that nobody waits for a very large one."""


class Writer:
    """open_database: opens or reopens; called in the writer's thread.
    settle: makes an opened database fit to be changed; while the disk is full it may be read.
    withdraw: takes messages out again, but for notices, in a transaction of its own.
    before_commit: called in the transaction of every group that changes something.
    idle: called when there has been nothing to do for a while; whether it has more to do.
    ledger, reserve: go with the database.
    report, damaged: told what went wrong, and that the database is corrupt.
    """

    def __init__(
        self,
        open_database: Callable[[], apsw.Connection],
        settle: Callable[[apsw.Connection], None],
        withdraw: Callable[[apsw.Connection, Sequence[Refused]], None],
        before_commit: Callable[[apsw.Connection], None],
        idle: Callable[[apsw.Connection], bool],
        ledger: Ledger,
        reserve: Reserve,
        report: Callable[[str], None],
        damaged: Callable[[], None],
    ) -> None:
        self._open = open_database
        self._settle = settle
        self._withdraw = withdraw
        self._before_commit = before_commit
        self._idle = idle
        self._pause: float | None = None
        self._ledger = ledger
        self._reserve = reserve
        self._report = report
        self._damaged = damaged
        # None is the last. Written in C: a Condition is Python that the two threads wait for.
        self._handed: SimpleQueue[list[Job] | None] = SimpleQueue()
        # Used in the thread alone: handed over, and in no group yet.
        self._jobs: list[Job] = []
        self._at_end = False
        self._gathering: list[Job] = []
        self._patience = Patience()
        self._stopping = False
        self._refused: list[Refused] = []
        # Refused for want of room, and rolled back; but what was written of them is read again if
        # the database is opened anew before something else was written over it.
        self._doubtful: list[Refused] = []
        self._db: apsw.Connection | None = None
        self._settled = False
        self._committing = False
        self._log_pages = 0
        # What was last said of a checkpoint that failed.
        self._trouble = ""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="queue-writer", daemon=True)
        self._closed: ThreadFuture[None] = ThreadFuture()

    def start(self, db: apsw.Connection, settled: bool) -> None:
        """Take over a connection."""
        self._db = db
        db.set_wal_hook(self._note_log)
        self._settled = settled
        self._thread.start()

    def submit(
        self,
        operation: Operation,
        entering: tuple[int, ...] = (),
        *,
        changes: bool = True,
        answered: Answered | None = None,
        notices: bool = False,
    ) -> asyncio.Future[Any]:
        """Run `operation` in the next group; its answer once that is committed and synced. It
        may be run twice, and what it did the first time is undone then.

        The future raises TempFail, or what the operation itself raised if that is a TempFail,
        PermFail or AlreadyEntered. Called on the event loop.
        """
        future = self._loop.create_future()
        return self._add(Job(operation, future, entering, changes, None, answered, notices))

    def insert(self, row: Row, answered: Answered) -> asyncio.Future[Any]:
        """Insert a plain message in the next group."""
        self._patience.inserted()
        future = self._loop.create_future()
        return self._add(Job(None, future, (row.message[0],), True, row, answered))

    def _add(self, job: Job) -> asyncio.Future[Any]:
        if self._stopping:
            job.error = TempFail(STORE_FAILED)
            answer([job])
            return job.future
        if job.changes:
            # First, so that what was kept for this commit still comes into it.
            self._patience.end()
        self._gathering.append(job)
        if len(self._gathering) == 1:
            self._loop.call_soon(self._hand_over)
        return job.future

    async def next_commit(self) -> None:
        """Returns in time to add to the next group, or when nothing that makes one is expected."""
        if not any(job.changes for job in self._gathering):
            await self._patience.wait()

    def _hand_over(self) -> None:
        """What this turn of the event loop brought, in one go."""
        gathered, self._gathering = self._gathering, []
        self._handed.put(gathered)

    async def close(self) -> None:
        """Do what is waiting, then close the database."""
        self._stopping = True
        self._hand_over()
        self._handed.put(None)
        await asyncio.wrap_future(self._closed)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (group := self._next_group()) is not None:
                if group:
                    self._work(group)
                    self._pause = IDLE_AFTER
                else:
                    self._pause = IDLE_STEP if self._tidy() else None
        finally:
            self._close_database()
            self._closed.set_result(None)

    def _next_group(self) -> list[Job] | None:
        """None at the end; empty when it is time to tidy up."""
        handed = self._handed
        while not (self._jobs or self._at_end):
            try:
                self._take(handed.get(timeout=self._pause))
            except Empty:
                return []
        while not handed.empty():
            self._take(handed.get())
        group = self._jobs[:GROUP_LIMIT]
        self._jobs = self._jobs[GROUP_LIMIT:]
        return group or None

    def _take(self, jobs: list[Job] | None) -> None:
        if jobs is None:
            self._at_end = True
        else:
            self._jobs += jobs

    def _tidy(self) -> bool:
        if self._db is None or not self._settled:
            return False
        try:
            return self._idle(self._db)
        except (apsw.Error, OSError) as error:
            self._report(f"queue database: {type(error).__name__}: {error}")
            if is_damage(error):
                self._damaged()
            # As after any commit that failed; but nobody was waiting for this one.
            self._close_database()
            return False

    def _work(self, group: list[Job]) -> None:
        try:
            self._attempt(group)
        except Exception as error:
            # apsw.Error, or OSError out of a VFS.
            self._fail(group, error)
        finally:
            # Whatever happens, nobody waits for ever.
            self._loop.call_soon_threadsafe(answer, group)
        self._checkpoint()

    def _attempt(self, group: list[Job]) -> None:
        try:
            self._commit(self._usable(group), group)
        except apsw.FullError:
            if not self._attempt_in_reserve(group):
                raise
        except Exception as error:
            if not is_damage(error) or self._committing:
                raise
            # Nothing was committed: it is done with what can be saved.
            self._report(f"queue database: {type(error).__name__}: {error}")
            self._damaged()
            self._close_database()
            for job in group:
                job.error = None
            self._commit(self._usable(group), group)

    def _attempt_in_reserve(self, group: list[Job]) -> bool:
        """On a full disk: all but new mail. False if that cannot be; else as `_attempt`."""
        rest = [job for job in group if not job.entering]
        if self._db is None or self._db.in_transaction or not rest or not self._reserve.give_up():
            return False
        for job in group:
            job.error = TempFail(DISK_FULL) if job.entering else None
            self._doubtful.extend(job.refused)
        try:
            self._commit(self._usable(rest), rest)
        finally:
            # Before anybody else takes it.
            self._checkpoint()
        return True

    def _usable(self, group: Iterable[Job]) -> apsw.Connection:
        self._committing = False
        if self._db is None:
            self._ledger.doubt()
            self._settled = False
            self._db = self._open()
            self._db.set_wal_hook(self._note_log)
        if not self._settled:
            try:
                self._settle(self._db)
                self._settled = True
            except apsw.FullError:
                if self._refused or any(job.changes for job in group):
                    raise
        if self._refused:
            self._withdraw(self._db, self._refused)
            self._refused = []
        return self._db

    def _commit(self, db: apsw.Connection, group: list[Job]) -> None:
        if not any(job.changes for job in group):
            for job in group:
                self._run_alone(db, job)
        elif not self._commit_together(db, group):
            self._commit_singly(db, group)

    def _commit_together(self, db: apsw.Connection, group: list[Job]) -> bool:
        """False if a job failed, and nothing was done."""
        try:
            with self._transaction(db):
                rows = [job.row for job in group if job.row is not None]
                insert_rows(db, rows)
                self._ledger.entered(row.noted for row in rows)
                for job in group:
                    if job.operation is not None:
                        job.result = job.operation(db)
        except Exception as error:
            if is_fatal(error):
                raise
            return False
        return True

    def _commit_singly(self, db: apsw.Connection, group: list[Job]) -> None:
        with self._transaction(db):
            for job in group:
                mark = self._ledger.mark()
                db.execute("SAVEPOINT job")
                self._run_alone(db, job)
                if job.error is not None:
                    db.execute("ROLLBACK TO job")
                    self._ledger.back_to(mark)
                db.execute("RELEASE job")

    def _run_alone(self, db: apsw.Connection, job: Job) -> None:
        """An error that is about this job stays with it; one about the database fails the group."""
        try:
            if job.row is not None:
                insert_rows(db, [job.row])
                self._ledger.entered([job.row.noted])
            if job.operation is not None:
                job.result = job.operation(db)
        except (TempFail, PermFail, AlreadyEntered) as error:
            job.error = error
        except Exception as error:
            if is_fatal(error):
                raise
            job.error = TempFail(STORE_FAILED)
            for line in "".join(traceback.format_exception(error)).splitlines():
                self._report(f"queue operation: {line}")

    @contextlib.contextmanager
    def _transaction(self, db: apsw.Connection) -> Iterator[None]:
        """Committed and synced at the end; rolled back when anything in it fails."""
        db.execute("BEGIN IMMEDIATE")
        try:
            self._ledger.begin()
            yield
            self._before_commit(db)
            self._ledger.write(db)
            self._committing = True
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._ledger.committed()

    def _note_log(self, db: apsw.Connection, name: str, pages: int) -> int:
        """SQLite's hook: the WAL has so many pages after a commit that wrote some."""
        self._log_pages = pages
        self._doubtful.clear()
        return 0

    def _checkpoint(self) -> None:
        """Move what the WAL holds into the database once that is much. SQLite would do it as a
        part of COMMIT, and its failure would pass for one of the commit, which is durable."""
        full = self._reserve.given_up
        if self._db is None or (self._log_pages < schema.WAL_PAGES and not full):
            return
        trouble = ""
        try:
            # What the WAL took on a full disk is for the reserve.
            mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if full else apsw.SQLITE_CHECKPOINT_PASSIVE
            self._db.wal_checkpoint(mode=mode)
            self._log_pages = 0
        except (apsw.Error, OSError) as error:
            # The WAL keeps it all and grows; the next commit tries again.
            trouble = f"{type(error).__name__}: {error}"
            if is_damage(error):
                self._damaged()
                self._close_database()
        self._reserve.keep()
        if trouble and trouble != self._trouble:
            self._report(f"queue database: checkpoint: {trouble}")
        self._trouble = trouble

    def _fail(self, group: list[Job], error: Exception) -> None:
        full = isinstance(error, apsw.FullError)
        for job in group:
            if job.error is None:
                job.error = TempFail(DISK_FULL if full else STORE_FAILED)
        self._report(f"queue database: {type(error).__name__}: {error}")
        if full and self._db is not None and not self._db.in_transaction:
            # Rolled back, as SQLite promises, and nothing was synced in vain.
            for job in group:
                self._doubtful.extend(job.refused)
            return
        if is_damage(error):
            self._damaged()
        for job in group:
            self._refused.extend(job.refused)
        self._close_database()

    def _close_database(self) -> None:
        self._refused += self._doubtful
        self._doubtful.clear()
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except (apsw.Error, OSError) as error:
                self._report(f"queue database: closing: {error}")
