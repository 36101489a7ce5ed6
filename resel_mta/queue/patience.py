"""What nobody waits for is kept until a commit has to be made anyway."""

from __future__ import annotations

import asyncio

PATIENCE = 0.01
"""Seconds that it is kept."""
BUSY_FOR = 0.05
"""Seconds after a message came in during which another one is expected."""


class Patience:
    """Used on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._inserted_at = -BUSY_FOR
        self._waiters: list[asyncio.Future[None]] = []

    def inserted(self) -> None:
        """A message came in."""
        self._inserted_at = self._loop.time()

    async def wait(self) -> None:
        """Returns when it has `ended`, or when no message is expected."""
        if self._loop.time() - self._inserted_at >= BUSY_FOR:
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        timer = self._loop.call_later(PATIENCE, _set, waiter)
        try:
            await waiter
        finally:
            timer.cancel()

    def end(self) -> None:
        """A commit has to be made."""
        for waiter in self._waiters:
            _set(waiter)
        self._waiters.clear()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
