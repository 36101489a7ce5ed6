"""The store's verbs for people: listing, holding, deleting, counting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

import apsw

from resel_mta.mail import Message, Outcome, QueueStats, Recipient, TempFail
from resel_mta.queue import changes, ledger, rows, tokens, trash
from resel_mta.queue.audit import Audit
from resel_mta.queue.door import Entry, Watcher
from resel_mta.queue.ids import format_id, parse_id
from resel_mta.queue.ledger import PASSED_AFTER, Count, Ledger
from resel_mta.queue.spool import DISK_FULL, Spool
from resel_mta.queue.writer import Writer

PAGE = 200
"""Messages read at once by a listing."""
CHUNK = 1000
"""Messages changed in one commit when all are."""
FEW = 50
"""The same on a full disk."""
FREED_PAGES = 512
FREED_TIMES = 8
"""Pages of the database that are given back in one commit, and how often at once."""


class Administration:
    """The part of `SQLiteStore` that changes and shows what is there."""

    _writer: Writer
    _ledger: Ledger
    _spool: Spool
    _executor: Executor
    _loop: asyncio.AbstractEventLoop
    _watchers: list[Watcher]
    _clock: Callable[[], float]
    _passed: list[tuple[Count, list[Outcome]]]

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self._loop.run_in_executor(self._executor, function, *args)

    def _arrived(self) -> None:
        for watcher in self._watchers:
            watcher.arrived()

    def _withdrawn(self, queue_ids: Sequence[str]) -> None:
        if queue_ids:
            for watcher in self._watchers:
                watcher.withdrawn(queue_ids)

    async def hold(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        changed = await self._change(changes.hold, queue_ids)
        self._withdrawn(changed)
        return changed

    async def release(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        changed = await self._change(changes.release, queue_ids)
        self._arrived()
        return changed

    async def requeue(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        changed = await self._change(changes.requeue, queue_ids)
        self._withdrawn(changed)
        self._arrived()
        return changed

    async def expire(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        changed = await self._change(changes.expire, queue_ids)
        self._withdrawn(changed)
        self._arrived()
        return changed

    async def wake(self, queue_ids: Iterable[str] | None = None) -> int:
        if queue_ids is None:
            return await self._wake_all()
        changed = await self._change(changes.wake, queue_ids)
        self._arrived()
        return len(changed)

    async def _wake_all(self) -> int:
        total, after = 0, -1
        while True:
            numbers: list[int] = await self._writer.submit(
                lambda db, after=after: changes.wake_page(db, after, CHUNK)  # type: ignore[misc]
            )
            self._arrived()
            total += len(numbers)
            if len(numbers) < CHUNK:
                return total
            after = numbers[-1]

    async def wake_waiting(self, waits_for: str) -> int:
        total, count = 0, CHUNK
        while count == CHUNK:
            count = await self._writer.submit(lambda db: changes.wake_waiting(db, waits_for, CHUNK))
            total += count
            self._arrived()
        return total

    async def wake_probes(self) -> int:
        count: int = await self._writer.submit(changes.wake_probes)
        self._arrived()
        return count

    async def knows_token(self, token: str) -> bool:
        known: bool = await self._writer.submit(
            lambda db: tokens.is_known(db, token), changes=False
        )
        return known

    async def forget_tokens(self, before: float) -> None:
        await self._writer.submit(lambda db: tokens.forget(db, before))

    async def delete(
        self, queue_ids: Iterable[str] | None = None, *, keep: bool = False
    ) -> list[str]:
        if keep:
            now = self._clock()
            changed = await self._change(
                lambda db, number: trash.put(db, self._ledger, number, now), queue_ids
            )
            self._withdrawn(changed)
            return changed
        files: set[str] = set()

        def remove(db: apsw.Connection, number: int) -> bool:
            if rows.is_spooled(db, number):
                files.add(format_id(number))
            return trash.remove(db, self._ledger, number)

        changed = await self._change(remove, queue_ids)
        self._withdrawn(changed)
        await self._in_thread(self._spool.remove_content, files)
        return changed

    async def undelete(self, queue_ids: Iterable[str] | None = None) -> list[str]:
        if queue_ids is None:
            queue_ids = [entry.queue_id async for entry in self.walk("trash")]
        changed = await self._change(
            lambda db, number: trash.restore(db, self._ledger, number), queue_ids
        )
        self._arrived()
        return changed

    async def purge(self, before: float, n: int) -> int:
        numbers: list[int] = await self._writer.submit(
            lambda db: trash.oldest(db, before, n), changes=False
        )
        if numbers:
            spooled: list[int] = await self._writer.submit(
                lambda db: trash.empty(db, self._ledger, numbers)
            )
            await self._in_thread(self._spool.remove_content, map(format_id, spooled))
            await self._shrink()
        return len(numbers)

    async def _shrink(self) -> None:
        """Give what is free in the database back to the file system, as far as that goes now."""

        def shrink(db: apsw.Connection) -> None:
            # Within another's transaction it has to wait for the next time.
            if not db.in_transaction:
                for _ in range(FREED_TIMES):
                    db.execute(f"PRAGMA incremental_vacuum({FREED_PAGES})").fetchall()
                    db.pragma("wal_checkpoint", "TRUNCATE")
                    if not db.pragma("freelist_count"):
                        break

        await self._writer.submit(shrink, changes=False)

    async def dropped(self, recipients: int) -> None:
        await self._writer.submit(lambda db: self._ledger.dropped(recipients))

    def passed(self, message: Message, done: Sequence[tuple[Recipient, Outcome]]) -> None:
        count = len(done)
        named = count
        if message.named >= 0:
            # What is left has its own share, and the rest goes with these.
            gone = {recipient for recipient, _ in done}
            left = sum(each not in gone for each in message.recipients)
            named = message.named - min(message.named, left)
            message.named -= named
        merged, message.merged = message.merged, 0
        number = number_of(message.queue_id)
        self._passed.append(
            (
                Count(number, count, named, message.generated, merged),
                [outcome for _, outcome in done],
            )
        )
        if len(self._passed) == 1:
            self._loop.call_later(PASSED_AFTER, self._write_passed)

    def _write_passed(self) -> None:
        passed, self._passed = self._passed, []

        def write(db: apsw.Connection) -> None:
            for count, outcomes in passed:
                self._ledger.passed(count, outcomes)

        def answered(result: object, error: BaseException | None) -> None:
            if error is not None:
                self._passed += passed

        if passed:
            self._writer.submit(write, answered=answered).add_done_callback(_retrieved)

    async def audit(self, since: float) -> Audit:
        self._write_passed()
        now = self._clock()
        found: Audit = await self._writer.submit(
            lambda db: ledger.read(db, self._ledger, since, now), changes=False
        )
        return found

    async def forget_ledger(self, before: float) -> None:
        await self._writer.submit(lambda db: ledger.prune(db, before))

    async def is_short(self) -> bool:
        short: bool = await self._in_thread(self._spool.is_short)
        return short

    async def _change(
        self,
        operation: Callable[[apsw.Connection, int], bool],
        queue_ids: Iterable[str] | None,
    ) -> list[str]:
        """Do `operation` to each message, in commits of CHUNK; the ids of those it changed."""
        changed: list[str] = []
        if queue_ids is None:
            queue_ids = [entry.queue_id async for entry in self.walk()]
        numbers, size = numbers_of(queue_ids), CHUNK
        while chunk := numbers[:size]:

            def run(db: apsw.Connection, chunk: list[int] = chunk) -> list[str]:
                return [format_id(number) for number in chunk if operation(db, number)]

            try:
                changed += await self._writer.submit(run)
            except TempFail as failure:
                if failure.reply != DISK_FULL or len(chunk) <= FEW:
                    raise
                size = FEW
            else:
                del numbers[:size]
        return changed

    async def walk(self, queue: str | None = None) -> AsyncIterator[Entry]:
        after = -1
        while True:
            now = self._clock()
            found: list[tuple[int, Entry]] = await self._writer.submit(
                lambda db, after=after, now=now: changes.page(db, after, PAGE, queue, now),  # type: ignore[misc]
                changes=False,
            )
            for number, entry in found:
                after = number
                yield entry
            if len(found) < PAGE:
                return

    async def get(self, queue_id: str) -> Entry | None:
        number, now = parse_id(queue_id), self._clock()
        if number is None:
            return None
        entry: Entry | None = await self._writer.submit(
            lambda db: changes.find_entry(db, number, now), changes=False
        )
        return entry

    async def headers(self, queue_ids: Iterable[str]) -> dict[str, bytes]:
        numbers = numbers_of(queue_ids)
        found: dict[str, bytes] = await self._writer.submit(
            lambda db: changes.headers(db, numbers), changes=False
        )
        return found

    async def next_due(self) -> float | None:
        due: float | None = await self._writer.submit(changes.next_due, changes=False)
        return due

    async def stats(self) -> QueueStats:
        now = self._clock()
        counts: dict[str, int] = await self._writer.submit(
            lambda db: changes.count(db, now), changes=False
        )
        return QueueStats(**counts)


def _retrieved(future: asyncio.Future[Any]) -> None:
    """Nobody waits for it; `answered` has seen how it went."""
    if not future.cancelled():
        future.exception()


def numbers_of(queue_ids: Iterable[str]) -> list[int]:
    """The numbers of those that can be queue ids."""
    return [number for queue_id in queue_ids if (number := parse_id(queue_id)) is not None]


def number_of(queue_id: str) -> int:
    number = parse_id(queue_id)
    if number is None:
        raise ValueError(f"not a queue id: {queue_id!r}")
    return number
