"""Everything at once, by chance: the audit balances in the middle of it and at the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest
from queue_fakes import OK, FakeIntake, FakeRouter, FakeTransport, make_log, make_message, until
from queue_faults import Plan, fault_vfs

from resel_mta.config import Settings
from resel_mta.content import Content
from resel_mta.mail import (
    Bounced,
    Deferred,
    Envelope,
    Message,
    Origin,
    Outcome,
    Recipient,
    Relayed,
    Reply,
    Route,
    TempFail,
)
from resel_mta.queue import feeder, ledger, recorder, schema
from resel_mta.queue.audit import report
from resel_mta.queue.reserve import SIZE
from resel_mta.queue.scheduler import Scheduler
from resel_mta.queue.sqlite import SQLiteStore

TAKEN = Relayed(OK, "mx.example.net", "mx.example.net[192.0.2.1]:25")
BUSY = Deferred(Reply(450, "4.2.1", "busy"), relay="mx[192.0.2.1]:25")
DOWN = Deferred(Reply(450, "4.4.1", "connect to mx[192.0.2.1]:25: refused"), host_down=True)
NO = Bounced(Reply(550, "5.1.1", "unknown user"), relay="mx[192.0.2.1]:25")


class Intake(FakeIntake):
    """Counts as the real one does."""

    async def prepare(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> Message:
        message = await super().prepare(envelope, content, origin, queue_id)
        message.named = len(message.recipients)
        message.generated = origin.service == "bounce"
        return message


class Transport(FakeTransport):
    """Takes its time."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    async def deliver(
        self, message: Message, recipients: Sequence[Recipient], route: Route
    ) -> dict[Recipient, Outcome]:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0.001)
        return await super().deliver(message, recipients, route)


INTERVAL = 0.05
"""Seconds that the ledger adds up, so that many end in the middle of it all."""


@pytest.mark.parametrize("seed", range(4))
async def test_soak(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "INTERVAL", INTERVAL)
    await soak(await SQLiteStore.open(tmp_path), random.Random(seed), None)


@pytest.mark.parametrize("seed", range(8))
async def test_soak_on_a_failing_disk(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "INTERVAL", INTERVAL)
    # Checkpoints fail too.
    monkeypatch.setattr(schema, "WAL_PAGES", 8 if seed % 2 else 64)
    monkeypatch.setattr(recorder, "RETRY_AFTER", 0.01)
    monkeypatch.setattr(feeder, "RETRY_AFTER", 0.01)
    if seed % 4 > 1:
        (tmp_path / "reserve").write_bytes(b"x" * SIZE)
    plan = Plan(tmp_path)
    with fault_vfs(plan) as vfs:
        log, _ = make_log()
        store = await SQLiteStore.open(tmp_path, vfs=vfs, log=log)
        await soak(store, random.Random(seed), plan)


async def soak(store: SQLiteStore, chance: random.Random, plan: Plan | None) -> None:
    log, _ = make_log()
    smtp = Transport(chance)
    trouble = True

    def answer(message: Message, recipient: Recipient, route: Route) -> Outcome:
        if not trouble:
            return TAKEN
        return chance.choice((TAKEN, TAKEN, TAKEN, BUSY, NO, DOWN))

    smtp.answer = answer
    settings = Settings.build(myhostname="mail.example.org", queue_run_delay="1s")
    router, intake = FakeRouter(), Intake(store)
    scheduler = Scheduler(settings, store, router, {"smtp": smtp}, intake, log)
    await scheduler.start()

    async def client() -> None:
        for _ in range(25):
            to = [f"u{n}@host{chance.randrange(5)}.net" for n in range(chance.randrange(1, 6))]
            message = make_message(store, *to, body=b"x" * chance.choice((10, 10, 10, 200_000)))
            message.named = chance.randrange(len(to) + 2)
            message.merged = chance.randrange(3)
            if chance.random() < 0.1:
                message.hold = True
            with contextlib.suppress(TempFail):
                await (scheduler.carry if chance.random() < 0.3 else store.enter)(message)
            await asyncio.sleep(0.001 * chance.randrange(3))

    async def person() -> None:
        for _ in range(40):
            with contextlib.suppress(TempFail):
                await one_thing()

    async def one_thing() -> None:
        ids = [e.queue_id async for e in store.walk() if chance.random() < 0.3]
        match chance.randrange(8):
            case 0:
                await store.delete(ids, keep=True)
            case 1:
                await store.delete(ids[:3])
            case 2:
                await store.undelete()
            case 3:
                await store.hold(ids)
            case 4:
                await store.release()
            case 5:
                await store.requeue(ids)
            case 6:
                await store.purge(1e12, 3)
            case _:
                await scheduler.flush()
        audit = await store.audit(0)
        assert audit.is_balanced, "\n".join(report(audit))

    async def disk() -> None:
        while plan is not None:
            await asyncio.sleep(0.02)
            plan.database_error = chance.choice((apsw.IOError, apsw.FullError))
            await asyncio.sleep(0.003)
            plan.database_error = None

    failing = asyncio.create_task(disk())
    await asyncio.gather(*(client() for _ in range(6)), person(), person())
    failing.cancel()
    if plan is not None:
        plan.database_error = None
    trouble = False
    await store.undelete()
    await store.release()
    for _ in range(100):
        await scheduler.flush()
        await until(lambda: scheduler.active == 0)
        if not [entry async for entry in store.walk()]:
            break
    audit = await store.audit(0)
    assert audit.is_balanced, "\n".join(report(audit))
    assert (audit.queued, audit.held) == (0, 0)
    # Most of what is asked of a disk that fails is refused.
    few = plan is not None
    assert audit.counts["relayed"] > (10 if few else 100)
    assert audit.counts["bounced"] > (0 if few else 10)
    await scheduler.stop(5)
    await store.close()
