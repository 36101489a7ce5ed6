"""One worker process as worker 0 sees it, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from resel_mta.config import Settings
from resel_mta.workers import channel
from resel_mta.workers.channel import Channel, Fields
from resel_mta.workers.telling import settings_file

#: Seconds beyond its own time for a worker to end.
GRACE = 5.0


def worker_count(settings: Settings) -> int:
    """How many workers `worker_processes` asks for; 0 there is one for each core."""
    return settings.number("worker_processes") or len(os.sched_getaffinity(0))


class Worker:
    """One process, from its start to its end."""

    def __init__(
        self,
        number: int,
        process: asyncio.subprocess.Process,
        control: socket.socket,
        hear: Callable[[Worker, bytes, Fields, int | None], None],
    ) -> None:
        self.number = number
        self.process = process
        self.ready = asyncio.Event()
        # Whether it has begun to open its part.
        self.opens = asyncio.Event()
        self._answers: list[asyncio.Future[bool]] = []
        self.channel = Channel(control, self._received, self._ended)
        self._hear = hear

    def _received(self, kind: bytes, fields: Fields, descriptor: int | None) -> None:
        if kind == channel.OPENING:
            self.opens.set()
        elif kind in (channel.READY, channel.REFUSED):
            self.ready.set()
            self._answer(kind == channel.READY)
        self._hear(self, kind, fields, descriptor)

    def _ended(self) -> None:
        # Its exit follows, or it is of no use any more.
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        while self._answers:
            self._answer(False)

    def _answer(self, taken: bool) -> None:
        if self._answers and not (answer := self._answers.pop(0)).done():
            answer.set_result(taken)

    def configure(self, settings: Settings) -> asyncio.Future[bool]:
        """Whether it takes these settings."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        with settings_file(settings) as descriptor:
            count = worker_count(settings)
            self.channel.send(channel.CONFIGURE, {"count": count}, descriptor)
        return answer

    async def end(self, timeout: float) -> None:
        """Have it end within `timeout` seconds; wait for it."""
        self.channel.send(channel.STOP, {"timeout": timeout})
        try:
            async with asyncio.timeout(timeout + GRACE):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
