"""A part of the queue that has no worker: delivered from, and shown to commands; nothing comes in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from resel_mta.config import Settings
from resel_mta.control import ControlError, Row, Verb
from resel_mta.intake import MailIntake
from resel_mta.mail import Transport
from resel_mta.maillog import MailLog
from resel_mta.queue.housekeeping import Housekeeper
from resel_mta.queue.parts import part_directory
from resel_mta.queue.peers import Peers
from resel_mta.queue.scheduler import Scheduler
from resel_mta.queue.spool import needed_space
from resel_mta.queue.sqlite import SQLiteStore
from resel_mta.routing import Expander, RoutingTable
from resel_mta.verbs import QueueVerbs
from resel_mta.workers.merging import Table

#: Seconds for commands that are being answered when the part is closed.
_ANSWERS = 5.0


class AdoptedPart:
    """Implements `adopting.Adopted`. Make one with `open`."""

    def __init__(
        self, store: SQLiteStore, intake: MailIntake, scheduler: Scheduler, housekeeper: Housekeeper
    ) -> None:
        self._store = store
        self._intake = intake
        self._scheduler = scheduler
        self._housekeeper = housekeeper
        self._table: Table = {}
        self._asked = 0
        self._unasked = asyncio.Event()
        self._unasked.set()
        self._closed = False

    @classmethod
    async def open(
        cls,
        settings: Settings,
        log: MailLog,
        part: int,
        expander: Expander,
        router: RoutingTable,
        transports: Mapping[str, Transport],
        peers: Peers,
    ) -> AdoptedPart:
        """Raises what `SQLiteStore.open` does."""
        store = await SQLiteStore.open(
            part_directory(settings.text("queue_directory"), part),
            minfree=needed_space(settings),
            log=log,
            part=part,
        )
        # Bounces and notices belong into the part of what they are about.
        intake = MailIntake(settings, expander, router, store, log)
        scheduler = Scheduler(settings, store, router, transports, intake, log, peers)
        housekeeper = Housekeeper(settings, store, log)
        await scheduler.start()
        housekeeper.start()
        adopted = cls(store, intake, scheduler, housekeeper)
        verbs = QueueVerbs(store, scheduler, log).table()
        adopted._table = {name: adopted._counted(verb) for name, verb in verbs.items()}
        return adopted

    def table(self) -> Table:
        return self._table

    def _counted(self, verb: Verb) -> Verb:
        async def counted(args: Mapping[str, Any]) -> AsyncIterator[Row]:
            self._asked += 1
            self._unasked.clear()
            try:
                async for row in verb(args):
                    yield row
                    if self._closed:
                        raise ControlError(75, "a part of the queue went to its worker: ask again")
            finally:
                self._asked -= 1
                if not self._asked:
                    self._unasked.set()

        return counted

    def reconfigure(self, settings: Settings) -> None:
        self._intake.reconfigure(settings)
        self._scheduler.reconfigure(settings)
        self._housekeeper.reconfigure(settings)

    async def has_mail(self) -> bool:
        stats = await self._store.stats()
        return bool(self._scheduler.active or stats.active or stats.incoming or stats.deferred)

    async def close(self, timeout: float) -> None:
        await self._housekeeper.stop()
        await self._scheduler.stop(timeout)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWERS):
                await self._unasked.wait()
        self._closed = True
        await self._store.close()
