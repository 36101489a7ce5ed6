"""`SQLiteStore`: the queue in one directory of one machine.

``queue.db`` (with its WAL) holds envelopes, recipients, and contents up to `spool.THRESHOLD`;
larger bodies lie in ``content/XX/ID``. Exactly one process holds the directory, by flock on
``queue.lock``.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from resel_mta.disk import Disk
from resel_mta.mail import Message, TempFail
from resel_mta.maillog import MailLog
from resel_mta.queue import progress, rows
from resel_mta.queue.administration import number_of, numbers_of
from resel_mta.queue.door import Result, Watcher
from resel_mta.queue.ids import IdSource, format_id, parse_id
from resel_mta.queue.jobs import Refused
from resel_mta.queue.ledger import Ledger
from resel_mta.queue.lock import lock_queue
from resel_mta.queue.reserve import Reserve
from resel_mta.queue.salvage import open_or_salvage
from resel_mta.queue.schema import (
    ROWS_LOST,
    check_envelopes,
    close_damaged,
    is_damage,
    may_lack_rows,
    settle,
)
from resel_mta.queue.spool import THRESHOLD, Spool
from resel_mta.queue.upkeep import Upkeep
from resel_mta.queue.writer import Writer

Clock = Callable[[], float]


class SQLiteStore(Upkeep):
    """Implements `door.QueueStore`. Make one with `SQLiteStore.open`."""

    def __init__(
        self, directory: str, spool: Spool, log: MailLog | None, vfs: str | None, ledger: Ledger
    ) -> None:
        self._spool = spool
        self._log = log
        self._vfs = vfs
        self._clock = ledger.clock
        self._path = os.path.join(directory, "queue.db")
        self._executor = ThreadPoolExecutor(4, "queue-disk")
        self._loop = asyncio.get_running_loop()
        self._ledger = ledger
        self._reserve = Reserve(directory)
        self._passed = []
        self._lost_claims: set[int] = set()
        self._giving_back: set[int] = set()  # By results that are not known to be committed.
        # Notices that a commit has entered though it failed; few, and changed only by the writer.
        self._disowned: set[int] = set()
        self._writer = Writer(
            self._reopen,
            self._settle,
            self._withdraw,
            self._keep_ceiling,
            self._idle,
            self._ledger,
            self._reserve,
            self._report,
            self._damaged,
        )
        self._watchers: list[Watcher] = []
        self._lock_fd = -1
        self._reserving = False
        # Whether the claims of the process before this one have been undone.
        self._begun = False
        # Whether the database was found damaged and has to be checked when it is opened.
        self._suspect = False
        self._ids: IdSource

    @classmethod
    async def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        minfree: int = 0,
        log: MailLog | None = None,
        disk: Disk | None = None,
        vfs: str | None = None,
        clock: Clock = time.time,
        part: int = 0,
    ) -> SQLiteStore:
        """Open the queue in `directory` (made if missing); a dead process's claims are undone.

        minfree: octets that must stay free for new mail to be taken. disk, vfs: the fault seam.
        part: which one of its queue this is (see `parts`).
        Raises QueueLocked, OSError, schema.UnusableLibrary, schema.UnknownVersion, apsw.Error.
        """
        root = os.fspath(directory)
        store = cls(root, Spool(root, disk or Disk(), minfree), log, vfs, Ledger(clock, part))
        try:
            await asyncio.to_thread(store._start, root)
        except BaseException:
            store._executor.shutdown(wait=False)
            if store._lock_fd >= 0:
                os.close(store._lock_fd)
            raise
        return store

    def _start(self, root: str) -> None:
        started = time.time()
        self._spool.disk.make_directories(root)
        self._lock_fd = lock_queue(root)
        self._spool.make()
        self._spool.disk.sync_directory(root)
        try:
            db, settled = self._begin(started)
        except Exception as error:
            if not is_damage(error):
                raise
            self._suspect = True
            db, settled = self._begin(started)
        self._writer.start(db, settled)

    def _begin(self, started: float) -> tuple[apsw.Connection, bool]:
        """The database, and whether it may be changed already."""
        db = self._reopen()
        try:
            check_envelopes(db)
            found = db.execute("SELECT value FROM meta WHERE key = 'id_ceiling'").get
            self._ids = IdSource(found or 0, self._clock, self._ledger.base)

            def mentioned(name: str) -> bool:
                number = parse_id(name)
                return number is not None and rows.exists(db, number)

            kept = self._spool.sweep(started, mentioned, lambda: may_lack_rows(db))
            if kept:
                self._report(f"{kept} files of messages that were lost moved to corrupt/")
            return db, self._can_settle(db)
        except BaseException:
            close_damaged(db)
            raise

    def _can_settle(self, db: apsw.Connection) -> bool:
        """A disk that is completely full is no reason not to start: the queue can be read, and
        changed as soon as there is room."""
        try:
            self._settle(db)
        except apsw.FullError:
            self._report(
                "queue: the disk is full, nothing can be taken or delivered before it is not"
            )
            return False
        return True

    # What the writer calls, in its thread.

    def _reopen(self) -> apsw.Connection:
        db, text = open_or_salvage(
            self._path,
            self._spool.root / "corrupt",
            self._spool.disk,
            self._vfs,
            self._ledger.load,
            damaged=self._suspect,
        )
        self._suspect = False
        if text:
            self._salvaged(db, text)
        return db

    def _settle(self, db: apsw.Connection) -> None:
        settle(db)
        if not self._begun:
            with db:
                db.execute("UPDATE message SET owner = NULL WHERE owner IS NOT NULL")
                db.execute("DELETE FROM owner")
                db.execute("DELETE FROM meta WHERE key = ?", (ROWS_LOST,))
                self._store_ceiling(db, self._ids.ceiling)
            self._begun = True

    def _withdraw(self, db: apsw.Connection, refused: Sequence[Refused]) -> None:
        """What a notice is about was done in the same commit, and cannot be done again: it stays,
        with its content, for whoever claims it."""
        withdrawn = [number for number, is_notice in refused if not is_notice]
        notices = [number for number, is_notice in refused if is_notice]
        with db:
            rows.withdraw(db, self._ledger, withdrawn)
            # Not again: one that was there before may be under way.
            disowned = progress.disown(db, (n for n in notices if n not in self._disowned))
        self._ledger.committed()
        self._disowned.update(disowned)
        self._spool.remove_content(format_id(number) for number in withdrawn)
        if disowned:
            self._loop.call_soon_threadsafe(self._arrived)

    def _damaged(self) -> None:
        self._suspect = True

    def _keep_ceiling(self, db: apsw.Connection) -> None:
        if self._ids.low:
            self._store_ceiling(db, self._ids.reserve())

    @staticmethod
    def _store_ceiling(db: apsw.Connection, ceiling: int) -> None:
        db.execute("INSERT OR REPLACE INTO meta VALUES('id_ceiling', ?)", (ceiling,))

    def _report(self, text: str) -> None:
        """In any thread."""
        if self._log is not None:
            self._loop.call_soon_threadsafe(self._log.warning, "qmgr", text)

    # The door.

    def new_id(self) -> str:
        number = self._ids.next()
        if self._ids.low and not self._reserving:
            self._reserving = True
            self._writer.submit(lambda db: None).add_done_callback(self._reserved)
        return format_id(number)

    def _reserved(self, future: asyncio.Future[Any]) -> None:
        self._reserving = False
        future.exception()

    async def enter(self, message: Message, *, claim_for: str | None = None) -> None:
        number = number_of(message.queue_id)
        if message.content is None or message.content.body.in_memory:
            # What lies in a file came by a sink, which has looked.
            self._spool.check_space()
        await self._settle_body(message)
        owner, admitted = claim_for, None
        if message.hold:
            owner = None
        elif owner is None:
            owner, admitted = self._admit(message)
        answered = partial(self._entered, message, owner, admitted)
        # `answered` and not this coroutine goes on from there: the client's task may be cancelled
        # while the commit goes on.
        if message.token:
            await self._writer.submit(
                lambda db: rows.insert(db, self._ledger, number, message, owner),
                (number,),
                answered=answered,
            )
        else:
            await self._writer.insert(rows.row_of(number, message, owner), answered)

    def _admit(self, message: Message) -> tuple[str | None, Watcher | None]:
        for watcher in self._watchers:
            owner = watcher.admit(message)
            if owner is not None:
                return owner, watcher
        return None, None

    def _entered(
        self,
        message: Message,
        owner: str | None,
        admitted: Watcher | None,
        result: object,
        error: BaseException | None,
    ) -> None:
        failed = error is not None
        if admitted is not None:
            (admitted.refused if failed else admitted.entered)(message)
        elif owner is None and not message.hold and not failed:
            self._arrived()

    async def claim(
        self,
        owner: str,
        lease: float,
        n: int,
        *,
        queue_ids: Iterable[str] | None = None,
        octets: int = 0,
    ) -> list[Message]:
        wanted = None if queue_ids is None else numbers_of(queue_ids)
        now = self._clock()
        lost, tried = tuple(self._lost_claims), set[int]()

        def operation(db: apsw.Connection) -> list[Message]:
            rows.unclaim(db, owner, lost)
            # First its own: it is delivering those, however long the machine was asleep.
            rows.set_lease(db, owner, now + lease)
            rows.release_expired(db, now)
            chosen = rows.due_numbers(db, now, n) if wanted is None else wanted[:n]
            if self._giving_back:
                chosen = [number for number in chosen if number not in self._giving_back]
            found = rows.claim(db, chosen, owner, now if wanted is None else None)
            tried.update(number_of(message.queue_id) for message in found)
            if octets:
                rows.add_contents(db, found, octets)
            return found

        try:
            claimed: list[Message] = await self._writer.submit(operation)
        except TempFail:
            # The commit may have done it all the same, and nobody would ever deliver these.
            self._lost_claims |= tried
            raise
        self._lost_claims.difference_update(lost)
        return claimed

    async def renew(self, owner: str, lease: float) -> None:
        until = self._clock() + lease
        await self._writer.submit(lambda db: rows.set_lease(db, owner, until))

    async def unclaim(self, owner: str, queue_ids: Iterable[str] | None = None) -> None:
        numbers = None if queue_ids is None else numbers_of(queue_ids)
        await self._writer.submit(lambda db: rows.unclaim(db, owner, numbers))
        self._arrived()

    async def next_commit(self) -> None:
        await self._writer.next_commit()

    async def apply(self, owner: str, results: Sequence[Result]) -> set[str]:
        steps: list[progress.Step] = []
        complete: list[tuple[int, Result]] = []
        gone: list[str] = []
        for result in results:
            message = result.message
            number = number_of(message.queue_id)
            if result.complete and not result.notices and message.size <= THRESHOLD:
                complete.append((number, result))
                gone.append(message.queue_id)
                continue
            notices = [await self._prepare(notice) for notice in result.notices]
            steps.append(progress.Step(number, result, notices))
        entering = tuple(notice.number for step in steps for notice in step.notices)
        disowned = self._disowned
        self._giving_back.update(step.number for step in steps if step.result.release)
        recording = self._writer.submit(
            lambda db: progress.record_all(db, self._ledger, owner, steps, complete, disowned),
            entering,
            answered=partial(self._notices_entered, steps) if entering else None,
            notices=True,
        )
        try:
            recorded: progress.Recorded = await recording
        except TempFail:
            for result in results:
                self._ledger.doubt(number_of(result.message.queue_id))
            raise
        self._giving_back.difference_update(step.number for step in steps)
        recorded.gone.update(gone)
        if recorded.files:
            await self._in_thread(self._spool.remove_content, recorded.files)
        return recorded.gone

    async def _prepare(self, notice: Message) -> progress.Entering:
        number = number_of(notice.queue_id)
        if number in self._disowned:
            # It went its way; its content may be gone with it.
            return progress.Entering(number, notice, None, None)
        await self._settle_body(notice)
        claimed = (None, None) if notice.hold else self._admit(notice)
        return progress.Entering(number, notice, *claimed)

    def _notices_entered(
        self,
        steps: Iterable[progress.Step],
        recorded: progress.Recorded | None,
        error: BaseException | None,
    ) -> None:
        for step in steps:
            for notice in step.notices:
                if recorded is not None and not error and notice.number not in recorded.entered:
                    # Somebody deleted what it was about, or it was entered before.
                    if notice.watcher is not None:
                        notice.watcher.refused(notice.message)
                    continue
                self._entered(notice.message, notice.owner, notice.watcher, None, error)

    def watch(self, watcher: Watcher) -> None:
        self._watchers.append(watcher)

    async def close(self) -> None:
        self._write_passed()
        last = self._ids.last
        try:
            await self._writer.submit(lambda db: self._store_ceiling(db, last))
        except TempFail:
            self._report("queue database: closing without its last note")
        await self._writer.close()
        self._executor.shutdown()
        os.close(self._lock_fd)

    @property
    def path(self) -> Path:
        return Path(self._path)
