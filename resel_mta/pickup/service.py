"""`PickupService`: the daemon's side of resel-sendmail."""

from __future__ import annotations

import asyncio
import os
from functools import partial

from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.mail import Intake, Router
from resel_mta.maillog import MailLog
from resel_mta.pickup.drop import drop_directory, open_letter, submit_path
from resel_mta.pickup.reader import DropReader, Ledger, Opener
from resel_mta.pickup.server import SubmitServer
from resel_mta.pickup.taker import Taker


class PickupService:
    """Takes letters from the public socket and the drop folder.

    ledger: the queue, which knows what it took. opener: opens drop files where this process may not read those of others; None where it can
    do no better than itself.
    """

    def __init__(
        self,
        settings: Settings,
        intake: Intake,
        router: Router,
        ledger: Ledger,
        log: MailLog,
        opener: Opener | None = None,
    ) -> None:
        queue = settings.text("queue_directory")
        directory = drop_directory(queue)
        self._taker = Taker(settings, intake, router, log)
        self._server = SubmitServer(submit_path(queue), self._taker, log)
        self._reader = DropReader(
            directory, opener or partial(_open, str(directory)), self._taker, ledger, log, Disk()
        )
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises OSError."""
        await self._server.start()
        self._reading = asyncio.get_running_loop().create_task(self._reader.run())

    def reconfigure(self, settings: Settings) -> None:
        """From the next letter on, by these."""
        self._taker.reconfigure(settings)

    async def stop(self, timeout: float) -> None:
        """Letters on their way may come to their end within `timeout` seconds; what lies in the
        drop folder stays there for the next start."""
        self._reader.begin_stop()
        await self._server.stop(timeout)
        if self._reading is not None:
            await asyncio.wait((self._reading,), timeout=timeout)
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


async def _open(directory: str, name: str) -> int:
    return await asyncio.to_thread(_open_in, directory, name)


def _open_in(directory: str, name: str) -> int:
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return open_letter(folder, name)
    finally:
        os.close(folder)
