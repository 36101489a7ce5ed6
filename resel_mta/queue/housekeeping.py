"""What the queue forgets: deleted mail whose time is over or whose room is needed, and the
particulars of old entries in the ledger. And mail that a wrong clock would have wait for years."""

from __future__ import annotations

import asyncio
import contextlib
import time

from resel_mta.config import Settings
from resel_mta.mail import TempFail
from resel_mta.maillog import MailLog
from resel_mta.queue.door import QueueStore
from resel_mta.queue.retry import Policy

FORGET_AFTER = 3600.0
"""Seconds after which the ledger is shortened again."""
LOOK_AFTER = 10.0
"""Seconds after which the disk is looked at again."""
PURGED = 200
"""Messages that go at once."""
MARGIN = 60.0
"""Seconds by which an attempt may be later than the settings say, so that no haste is made."""


class Housekeeper:
    """Call `start`, and `stop` at the end."""

    def __init__(self, settings: Settings, store: QueueStore, log: MailLog) -> None:
        self._store = store
        self._log = log
        self._task: asyncio.Task[None] | None = None
        self._forgotten = 0.0
        # What went wrong the last time; it is told once.
        self._trouble = ""
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        self._trash_time = settings.seconds("queue_trash_time")
        self._ledger_time = settings.seconds("queue_ledger_time")
        self._longest_wait = Policy(settings).maximal_backoff + MARGIN

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            trouble = ""
            try:
                await self.tidy(time.time())
            except TempFail as failure:
                trouble = str(failure.reply)
            except Exception as error:
                trouble = repr(error)
            if trouble and trouble != self._trouble:
                self._log.warning("qmgr", f"deleted mail not removed: {trouble}")
            self._trouble = trouble
            await asyncio.sleep(LOOK_AFTER)

    async def tidy(self, now: float) -> None:
        """Do it once. Raises TempFail, OSError."""
        if now - self._forgotten >= FORGET_AFTER:
            await self._store.forget_ledger(now - self._ledger_time)
            self._forgotten = now
        while await self._store.purge(now - self._trash_time, PURGED) == PURGED:
            continue
        gone = 0
        while await self._store.is_short() and (n := await self._store.purge(now, PURGED)):
            gone += n
        if gone:
            self._log.warning(
                "qmgr", f"not enough room in the queue: {gone} deleted messages cannot be restored"
            )
        if woken := await self._store.wake_stranded(now + self._longest_wait):
            self._log.warning(
                "qmgr", f"next attempts that a clock in the future has set are due now: {woken}"
            )
