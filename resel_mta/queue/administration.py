"""The store's verbs for people: listing, holding, deleting, counting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

import apsw

from resel_mta.mail import QueueStats
from resel_mta.queue import changes, rows, tokens
from resel_mta.queue.door import Entry, Watcher
from resel_mta.queue.ids import format_id, parse_id
from resel_mta.queue.spool import Spool
from resel_mta.queue.writer import Writer

PAGE = 200
"""Messages read at once by a listing."""
CHUNK = 1000
"""Messages changed in one commit when all are."""


class Administration:
    """The part of `SQLiteStore` that changes and shows what is there."""

    _writer: Writer
    _spool: Spool
    _executor: Executor
    _loop: asyncio.AbstractEventLoop
    _watchers: list[Watcher]
    _clock: Callable[[], float]

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

    async def wake(self, queue_ids: Iterable[str] | None = None) -> int:
        changed = await self._change(changes.wake, queue_ids)
        self._arrived()
        return len(changed)

    async def wake_waiting(self, waits_for: str) -> int:
        total, count = 0, CHUNK
        while count == CHUNK:
            count = await self._writer.submit(lambda db: changes.wake_waiting(db, waits_for, CHUNK))
            total += count
            self._arrived()
        return total

    async def knows_token(self, token: str) -> bool:
        known: bool = await self._writer.submit(
            lambda db: tokens.is_known(db, token), changes=False
        )
        return known

    async def forget_tokens(self, before: float) -> None:
        await self._writer.submit(lambda db: tokens.forget(db, before))

    async def delete(
        self, queue_ids: Iterable[str] | None = None, *, queue: str | None = None
    ) -> list[str]:
        if queue_ids is None or queue is not None:
            queue_ids = await self._select(queue_ids, queue)
        files: list[str] = []

        def remove(db: apsw.Connection, number: int) -> bool:
            spooled = rows.is_spooled(db, number)
            removed = changes.remove_if_there(db, number)
            if spooled and removed:
                files.append(format_id(number))
            return removed

        changed = await self._change(remove, queue_ids)
        self._withdrawn(changed)
        await self._in_thread(self._spool.remove_content, files)
        return changed

    async def _select(self, queue_ids: Iterable[str] | None, queue: str | None) -> list[str]:
        wanted = None if queue_ids is None else set(queue_ids)
        return [
            entry.queue_id
            async for entry in self.walk(queue)
            if wanted is None or entry.queue_id in wanted
        ]

    async def _change(
        self,
        operation: Callable[[apsw.Connection, int], bool],
        queue_ids: Iterable[str] | None,
    ) -> list[str]:
        """Do `operation` to each message, in commits of CHUNK; the ids of those it changed."""
        changed: list[str] = []
        if queue_ids is None:
            queue_ids = await self._select(None, None)
        numbers = numbers_of(queue_ids)
        for start in range(0, len(numbers), CHUNK):
            chunk = numbers[start : start + CHUNK]

            def run(db: apsw.Connection, chunk: list[int] = chunk) -> list[str]:
                return [format_id(number) for number in chunk if operation(db, number)]

            changed += await self._writer.submit(run)
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


def numbers_of(queue_ids: Iterable[str]) -> list[int]:
    """The numbers of those that can be queue ids."""
    return [number for queue_id in queue_ids if (number := parse_id(queue_id)) is not None]


def number_of(queue_id: str) -> int:
    number = parse_id(queue_id)
    if number is None:
        raise ValueError(f"not a queue id: {queue_id!r}")
    return number
