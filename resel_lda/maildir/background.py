"""What the stores of a process do one after the other rather than all at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

# Of the time that a piece takes, this many times as much is left to sessions.
_PAUSE = 3.0
# Folders that are loaded at a time: one may wait for the disk while another is worked on. More of
# them would only fight for the interpreter, and for memory.
_LOADS = 2
# Seconds that sessions must have read and changed nothing before a piece begins, and after which one
# begins all the same. A thread at work holds up every system call of another.
_QUIET = 0.1
_PATIENCE = 1.0


class Background:
    """One piece at a time, whoever it is for, so that many mailboxes with something to do take no
    more of the processor than one. pause: the share of time between two pieces, see above. loads:
    to be held while a folder is loaded, for which a session waits."""

    def __init__(self, pause: float = _PAUSE) -> None:
        self._turn = asyncio.Lock()
        self._pause = pause
        self._users = 0
        self.loads = asyncio.Semaphore(_LOADS)
        self._used = -_QUIET

    def busy(self) -> None:
        """Something is about to be done for a session."""
        self._used = asyncio.get_running_loop().time()

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """While messages are read or changed for a session."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self.busy()

    async def quiet(self) -> None:
        """Until sessions do nothing, or it is time. Left at once where it is cancelled."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + _PATIENCE
        while True:
            used = loop.time() if self._users else self._used
            left = min(used + _QUIET, latest) - loop.time()
            if left <= 0:
                return
            await asyncio.sleep(left)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around a piece: some milliseconds of work. Left at once where it is cancelled."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            await self.quiet()
            began = loop.time()
            yield
            await asyncio.sleep((loop.time() - began) * self._pause)
