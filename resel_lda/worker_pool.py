"""The workers that serve all mailboxes of one uid: each user is owned by exactly one of them.

Which one follows from the user's name alone. A worker that dies is started again at once, for the
same users; what belongs to the others goes on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from resel_lda.handover import Handover
from resel_lda.keeper import Keeper, Spawned, spawn_child
from resel_mta.config import Settings
from resel_mta.maillog import MailLog

# More serve nobody sooner, and each takes some 24 MiB before anybody logs in.
_MOST_FOR_CORES = 16


def worker_count(settings: Settings) -> int:
    """How many workers `mailbox_processes` asks for; 0 there is one for each core, up to 16."""
    return settings.number("mailbox_processes") or min(
        len(os.sched_getaffinity(0)), _MOST_FOR_CORES
    )


class WorkerPool:
    """spawn: starts a worker; raises OSError. How many there are is settled here, once."""

    def __init__(
        self,
        settings: Settings,
        log: MailLog,
        spawn: Callable[[], Awaitable[Spawned]] = spawn_child,
    ) -> None:
        self._settings = settings
        self._log = log
        self._keepers = [Keeper(settings, log, spawn) for _ in range(worker_count(settings))]

    def start(self) -> None:
        """Start the workers, if they were not yet; they need not be waited for."""
        for keeper in self._keepers:
            keeper.start()

    async def stop(self, timeout: float) -> None:
        """Have the workers say BYE to their sessions, and wait for their end."""
        await asyncio.gather(*(keeper.stop(timeout) for keeper in self._keepers))

    def reconfigure(self, settings: Settings) -> None:
        """Stores opened from now on use these."""
        if worker_count(settings) != len(self._keepers):
            # Users would change hands while they have sessions.
            self._log.warning("master", "mailbox_processes: a restart changes it")
        self._settings = settings
        for keeper in self._keepers:
            keeper.reconfigure(settings)

    def pids(self) -> list[int]:
        """Of the workers that are ready, in the order of `owner`; 0 for one that is not."""
        return [keeper.pid for keeper in self._keepers]

    def owner(self, user: str) -> int:
        """Which of the workers owns a user: the same for as long as their number is."""
        return zlib.crc32(user.encode("utf-8", "surrogateescape")) % len(self._keepers)

    async def hand_over(
        self, request: Handover, connection: socket.socket, ended: Callable[[], None]
    ) -> int:
        """See `Keeper.hand_over`."""
        keeper = self._keepers[self.owner(request.user)]
        return await keeper.hand_over(request, connection, ended)

    async def kick(self, session: str) -> None:
        """Have its worker end a session, politely; nothing if there is none of this name."""
        for keeper in self._keepers:
            if keeper.has(session):
                await keeper.kick(session)

    async def deliver(self, owner: int, fields: Mapping[str, object], descriptor: int) -> list[Any]:
        """Have a worker deliver to users that it owns: see `Keeper.deliver`."""
        return await self._keepers[owner].deliver(fields, descriptor)
