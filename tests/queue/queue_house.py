"""A scheduler with everything round it, for tests."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from queue_fakes import (
    FakeIntake,
    FakeRouter,
    FakeTransport,
    MemoryStore,
    make_log,
    make_message,
    until,
)

from resel_mta.config import Settings
from resel_mta.mail import Bounced, Deferred, Message, Reply
from resel_mta.queue.scheduler import Scheduler

UNKNOWN = Bounced(Reply(550, "5.1.1", "unknown user"), relay="local")
BUSY = Deferred(Reply(450, "4.2.1", "busy"), relay="mx[192.0.2.1]:25")
DOWN = Deferred(Reply(450, "4.4.1", "connect to mx[192.0.2.1]:25: refused"), host_down=True)


@dataclass
class House:
    store: MemoryStore
    router: FakeRouter
    smtp: FakeTransport
    local: FakeTransport
    intake: FakeIntake
    log: list[str]
    scheduler: Scheduler

    async def enter(self, *to: str, **options: object) -> Message:
        message = make_message(self.store, *to, **options)  # type: ignore[arg-type]
        await self.store.enter(message)
        return message

    async def names(self) -> list[str]:
        return [entry.queue_id async for entry in self.store.walk()]

    async def idle(self) -> None:
        await until(lambda: self.scheduler.active == 0)

    def lines(self, pattern: str) -> list[str]:
        return [line for line in self.log if re.search(pattern, line)]


MakeHouse = Callable[..., House]


async def make_houses() -> AsyncIterator[MakeHouse]:
    made: list[House] = []

    def make(
        *, store: MemoryStore | None = None, smtp: FakeTransport | None = None, **values: str
    ) -> House:
        """store, smtp: another house's, whose scheduler has stopped."""
        values.setdefault("myhostname", "mail.example.org")
        values.setdefault("mydomain", "example.org")
        settings = Settings.build(**values)
        log, lines = make_log()
        store = store or MemoryStore()
        smtp = smtp or FakeTransport()
        router, local = FakeRouter(), FakeTransport("local")
        intake = FakeIntake(store)
        scheduler = Scheduler(settings, store, router, {"smtp": smtp, "local": local}, intake, log)
        house = House(store, router, smtp, local, intake, lines, scheduler)
        made.append(house)
        return house

    yield make
    for house in made:
        house.smtp.gate.set()
        house.local.gate.set()
        await house.scheduler.stop(5)
