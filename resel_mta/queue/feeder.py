"""Claims messages whose time has come, as long as the active window has room, and keeps the lease."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from resel_mta.mail import Message, TempFail
from resel_mta.queue.door import QueueStore
from resel_mta.queue.journal import Journal

LEASE = 300.0
"""Seconds for which claims hold without being renewed."""
CLAIM = 200
"""Messages claimed at once."""
RETRY_AFTER = 5.0


class Feeder:
    """room: how many more messages may be active, and how many octets of content they may bring
    into memory. claimed: takes those that were claimed.

    behind: messages may be due that nobody has claimed yet. queue_run_delay: seconds after which the queue is looked at in any case.
    """

    def __init__(
        self,
        store: QueueStore,
        owner: str,
        journal: Journal,
        room: Callable[[], tuple[int, int]],
        claimed: Callable[[list[Message]], None],
    ) -> None:
        self._store = store
        self._owner = owner
        self._journal = journal
        self._room = room
        self._claimed = claimed
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.behind = True
        self.queue_run_delay = 300.0

    def start(self, queue_run_delay: float) -> None:
        self.queue_run_delay = queue_run_delay
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Claim nothing more."""
        self.behind = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def wake(self) -> None:
        """Something may be due, or there is room again."""
        self._event.set()

    async def _run(self) -> None:
        while True:
            self._event.clear()
            try:
                pause = await self._claim()
            except TempFail as failure:
                self._journal.warning(f"queue: {failure.reply}")
                pause = RETRY_AFTER
            except Exception as error:
                self._journal.exception("claiming from the queue", "", error)
                pause = RETRY_AFTER
            if pause > 0:
                # Not wait_for: before Python 3.12 it can swallow a cancellation.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._event.wait()

    async def _claim(self) -> float:
        """Claim what is due; the seconds until that is worth while again."""
        pause = min(LEASE / 3, self.queue_run_delay)
        room, octets = self._room()
        wanted = min(room, CLAIM)
        if wanted <= 0:
            self.behind = True
            await self._store.renew(self._owner, LEASE)
            return pause
        messages = await self._store.claim(self._owner, LEASE, wanted, octets=octets)
        self._claimed(messages)
        self.behind = len(messages) == wanted
        if self.behind:
            return 0.0
        due = await self._store.next_due()
        return pause if due is None else max(min(pause, due - time.time()), 0.01)
