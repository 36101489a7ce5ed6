"""Work that nobody waits for, of all stores of a process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

# Of the time that a piece takes, this many times as much is left to sessions.
_PAUSE = 3.0


class Background:
    """One piece at a time, whoever it is for, so that many mailboxes with something to do take no
    more of the processor than one. pause: the share of time between two pieces, see above."""

    def __init__(self, pause: float = _PAUSE) -> None:
        self._turn = asyncio.Lock()
        self._pause = pause

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around a piece: some milliseconds of work. Left at once where it is cancelled."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            began = loop.time()
            yield
            await asyncio.sleep((loop.time() - began) * self._pause)
