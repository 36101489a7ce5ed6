"""The parts of the queue that worker 0 has open itself: those that have no worker, and those whose
worker takes long to start.

Nobody else can have one of them meanwhile: whoever opens a part holds the lock of its directory
(`queue.lock`). A worker that has come as far as opening its part says so, and is given it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from resel_mta.config import Settings
from resel_mta.mail import TempFail
from resel_mta.maillog import MailLog
from resel_mta.queue.lock import QueueLocked
from resel_mta.queue.peers import Peers
from resel_mta.workers.merging import Table
from resel_mta.workers.sharing import Hub

#: Seconds between two looks whether there is mail in them.
_LOOK_EVERY = 2.0


class Adopted(Protocol):
    """A part of the queue that is open in this process."""

    def table(self) -> Table: ...

    def reconfigure(self, settings: Settings) -> None: ...

    async def has_mail(self) -> bool:
        """Whether anything is there to be delivered."""
        ...

    async def close(self, timeout: float) -> None: ...


#: Opens a part and delivers from it. Raises what `SQLiteStore.open` does.
Adopt = Callable[[int, Peers], Awaitable[Adopted]]


class AdoptedParts:
    """Opens and closes them, one thing at a time with each."""

    def __init__(self, log: MailLog, hub: Hub, adopt: Adopt) -> None:
        self._log = log
        self._hub = hub
        self._adopt = adopt
        self._parts: dict[int, Adopted] = {}
        self._changing: dict[int, asyncio.Lock] = {}
        self._told: dict[int, str] = {}
        self._opening: set[asyncio.Task[bool]] = set()

    def __contains__(self, part: int) -> bool:
        return part in self._parts

    def table(self, part: int) -> Table | None:
        """The queue's verbs for a part, None if it is not open here."""
        adopted = self._parts.get(part)
        return adopted.table() if adopted is not None else None

    async def open(self, part: int, unwanted: Callable[[], bool]) -> bool:
        """Whether it is open here now. unwanted: asked when nobody else opens or closes it."""
        task = asyncio.ensure_future(self._open(part, unwanted))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        # Once begun it comes to its end, also where nobody waits for it any more.
        return await asyncio.shield(task)

    async def _open(self, part: int, unwanted: Callable[[], bool]) -> bool:
        async with self.lock(part):
            if part in self._parts or unwanted():
                return part in self._parts
            try:
                adopted = await self._adopt(part, self._hub.peers(part))
            except Exception as error:
                # As long as it cannot be had, its mail waits; all other parts go on.
                self._hub.leave(part)
                self._tell(part, error)
                return False
            self._parts[part] = adopted
        self._told.pop(part, None)
        self._log.event("master", f"part {part} of the queue is opened here: no worker has it")
        return True

    def _tell(self, part: int, error: Exception) -> None:
        """Once for each reason. The lock is a dead worker's for a moment yet, or a new one's."""
        text = str(error)
        if self._told.get(part) != text and not isinstance(error, QueueLocked):
            self._log.warning("master", f"part {part} of the queue cannot be opened: {text}")
        self._told[part] = text

    async def close(self, part: int, timeout: float) -> bool:
        """Let go of it; what is under way finishes within `timeout` seconds. Whether it was open
        here."""
        async with self.lock(part):
            adopted = self._parts.pop(part, None)
            if adopted is None:
                return False
            self._hub.leave(part)
            await adopted.close(timeout)
            return True

    async def close_all(self, timeout: float) -> None:
        """Also what is being opened just now."""
        await asyncio.gather(*(self.close(part, timeout) for part in list(self._changing)))

    def lock(self, part: int) -> asyncio.Lock:
        """Whoever holds it is alone in opening and closing this part here."""
        return self._changing.setdefault(part, asyncio.Lock())

    def reconfigure(self, settings: Settings) -> None:
        for adopted in self._parts.values():
            adopted.reconfigure(settings)

    async def look(self) -> None:
        """Forever: they have a share of all limits while there is mail in them."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            for part, adopted in list(self._parts.items()):
                with contextlib.suppress(TempFail):
                    has_mail = await adopted.has_mail()
                    if self._parts.get(part) is adopted:
                        self._hub.set_idle(part, idle=not has_mail)
