"""Writes down what became of recipients, in as few commits as possible.

Results gather while a commit is under way and go together in the next one; while mail keeps coming
in, that is one that a client waits for, so that they need no sync of their own. A result that
cannot be recorded is kept and tried again until it is: a delivery whose outcome is forgotten would
be made twice. While that lasts, `failing` is set and nothing new should be delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from resel_mta.mail import TempFail
from resel_mta.queue.door import QueueStore, Result
from resel_mta.queue.journal import Journal

Settled = Callable[[bool, bool], None]
"""Called with (the message is gone, its notices were entered)."""

GROUP_LIMIT = 500
RETRY_AFTER = 1.0


class Recorder:
    """recovered: called when the store works again after `failing`.
    without_notices: what to record of a result whose notices cannot be entered (rule 3: what
    they are about stays).
    """

    def __init__(
        self,
        store: QueueStore,
        owner: str,
        journal: Journal,
        recovered: Callable[[], None],
        without_notices: Callable[[Result], Result],
    ) -> None:
        self._store = store
        self._owner = owner
        self._journal = journal
        self._recovered = recovered
        self._without_notices = without_notices
        self._waiting: list[tuple[Result, Settled]] = []
        self._task: asyncio.Task[None] | None = None
        self.failing = False

    def add(self, result: Result, settled: Settled) -> None:
        self._waiting.append((result, settled))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._record())

    async def drain(self, timeout: float) -> bool:
        """Wait until all is recorded; whether it was, in time."""
        task = self._task
        if task is None:
            return True
        done, _ = await asyncio.wait([task], timeout=timeout)
        if not done:
            task.cancel()
            await asyncio.wait([task])
        return bool(done)

    async def _record(self) -> None:
        try:
            while self._waiting:
                # A sync of its own would only keep clients waiting.
                await self._store.next_commit()
                group = self._waiting[:GROUP_LIMIT]
                del self._waiting[:GROUP_LIMIT]
                await self._apply(group)
        finally:
            self._task = None

    async def _apply(self, group: list[tuple[Result, Settled]]) -> None:
        try:
            gone = await self._store.apply(self._owner, [result for result, _ in group])
        except TempFail as failure:
            await self._apply_singly(group, failure)
            return
        for result, settled in group:
            settled(result.message.queue_id in gone, True)

    async def _apply_singly(self, group: list[tuple[Result, Settled]], failure: TempFail) -> None:
        """One of them may be what fails; if every one does, it is the store."""
        while True:
            left = []
            behind: set[str] = set()
            for result, settled in group:
                if result.message.queue_id in behind:
                    # What came before it is not recorded yet, and this may be the last word.
                    left.append((result, settled))
                    continue
                try:
                    gone = await self._store.apply(self._owner, [result])
                except TempFail as error:
                    failure = error
                    left.append((result, settled))
                    behind.add(result.message.queue_id)
                else:
                    settled(bool(gone), True)
            if len(left) < len(group) or any(result.notices for result, _ in left):
                left = await self._give_up_notices(left)
            if not left:
                break
            group = left
            if not self.failing:
                self.failing = True
                self._journal.warning(
                    f"outcomes cannot be recorded: {failure.reply}; deliveries wait"
                )
            await asyncio.sleep(RETRY_AFTER)
        if self.failing:
            self.failing = False
            self._journal.warning("outcomes can be recorded again")
            self._recovered()

    async def _give_up_notices(
        self, group: list[tuple[Result, Settled]]
    ) -> list[tuple[Result, Settled]]:
        """Record those with notices without them; what is left."""
        left = []
        behind: set[str] = set()
        for result, settled in group:
            if result.message.queue_id in behind:
                left.append((result, settled))
                continue
            bare = self._without_notices(replace(result, notices=())) if result.notices else result
            try:
                gone = await self._store.apply(self._owner, [bare])
            except TempFail:
                left.append((result, settled))
                behind.add(result.message.queue_id)
            else:
                settled(bool(gone), False)
        return left
