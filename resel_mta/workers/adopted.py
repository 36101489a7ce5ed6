"""A part of the queue that has no worker: delivered from, and shown to commands; nothing comes in."""

from __future__ import annotations

from collections.abc import Mapping

from resel_mta.config import Settings
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


class AdoptedPart:
    """Implements `pool.Adopted`. Make one with `open`."""

    def __init__(
        self, store: SQLiteStore, intake: MailIntake, scheduler: Scheduler, housekeeper: Housekeeper
    ) -> None:
        self._store = store
        self._intake = intake
        self._scheduler = scheduler
        self._housekeeper = housekeeper
        self._table: Table = {}

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
        adopted._table = QueueVerbs(store, scheduler, log).table()
        return adopted

    def table(self) -> Table:
        return self._table

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
        await self._store.close()
