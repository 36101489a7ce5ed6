"""Workers of users who have a uid of their own, beside those that serve all others.

Started when such a user logs in, and let go some minutes after his last session. A user's own
programs may kill or stop his worker: his sessions end, and nobody else's.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from resel_lda.handover import Handover
from resel_lda.keeper import Keeper, Spawned, WorkerUnavailable
from resel_lda.worker_pool import WorkerPool
from resel_mta.config import Settings
from resel_mta.maillog import MailLog

#: Workers beside the common ones, and seconds for which one is kept without sessions.
_MOST = 48
_KEEP = 300.0
_STOP = 10.0

Spawn = Callable[[], Awaitable[Spawned]]


class SpawnFor(Protocol):
    """Starts workers. Both raise OSError."""

    def is_own(self, uid: int | None) -> bool:
        """Whether the common workers serve users of this uid."""
        ...

    async def spawn(self) -> Spawned: ...

    async def spawn_for(self, user: str) -> Spawned:
        """A worker that runs as this user."""
        ...


class _UserLog(MailLog):
    """What a user's worker says is his: it can look like nobody else's line."""

    def __init__(self, log: MailLog, uid: int) -> None:
        self._log = log
        self._uid = uid
        self.users: set[str] = set()

    def event(self, service: str, text: str, queue_id: str = "", **fields: object) -> None:
        own = any(text.startswith(f"{service}({user})<") for user in self.users)
        if service not in ("imap", "pop3") or not own:
            service, text = "imap", f"worker of uid {self._uid}: {text}"
        self._log.event(service, text[:2000])

    def warning(self, service: str, text: str, queue_id: str = "", **fields: object) -> None:
        self._log.warning(service, text)


class _UserWorker:
    def __init__(self, keeper: Keeper, log: _UserLog) -> None:
        self.keeper = keeper
        self.log = log
        self.sessions: set[str] = set()
        self.used = time.monotonic()


class Workers(WorkerPool):
    """The common workers, and one for each uid that needs its own."""

    def __init__(self, settings: Settings, log: MailLog, spawner: SpawnFor) -> None:
        super().__init__(settings, log, spawner.spawn)
        self._spawner = spawner
        self._users: dict[int, _UserWorker] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    async def hand_over(
        self, request: Handover, connection: socket.socket, ended: Callable[[], None]
    ) -> int:
        uid = request.uid
        if uid is None or self._spawner.is_own(uid):
            return await super().hand_over(request, connection, ended)
        users = self._users.get(uid) or self._start(uid, request.user)
        users.sessions.add(request.session)
        users.log.users.add(request.user)

        def over() -> None:
            users.sessions.discard(request.session)
            users.used = time.monotonic()
            ended()
            asyncio.get_running_loop().call_later(_KEEP, self._let_idle_go)

        try:
            return await users.keeper.hand_over(request, connection, over)
        except WorkerUnavailable:
            users.sessions.discard(request.session)
            raise

    def _start(self, uid: int, user: str) -> _UserWorker:
        """Raises WorkerUnavailable."""
        if len(self._users) >= _MOST:
            idle = [key for key, users in self._users.items() if not users.sessions]
            if not idle:
                raise WorkerUnavailable("too many users with a worker of their own")
            self._drop(min(idle, key=lambda key: self._users[key].used))

        async def spawn() -> Spawned:
            return await self._spawner.spawn_for(user)

        log = _UserLog(self._log, uid)
        keeper = Keeper(self._settings, log, spawn)
        keeper.start()
        users = self._users[uid] = _UserWorker(keeper, log)
        return users

    def _let_idle_go(self) -> None:
        before = time.monotonic() - _KEEP
        for uid, users in list(self._users.items()):
            if not users.sessions and users.used <= before:
                self._drop(uid)

    def _drop(self, uid: int) -> None:
        task = asyncio.get_running_loop().create_task(self._users.pop(uid).keeper.stop(_STOP))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def pids(self) -> list[int]:
        """With those of users' own workers at the end."""
        return [*super().pids(), *(users.keeper.pid for users in self._users.values())]

    async def kick(self, session: str) -> None:
        for users in self._users.values():
            if session in users.sessions:
                await users.keeper.kick(session)
                return
        await super().kick(session)

    def reconfigure(self, settings: Settings) -> None:
        super().reconfigure(settings)
        for users in self._users.values():
            users.keeper.reconfigure(settings)

    async def stop(self, timeout: float) -> None:
        for uid in list(self._users):
            self._drop(uid)
        await super().stop(timeout)
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=timeout)
