"""Cut-through: mail that is handed on before it is kept, and kept on any trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest
from queue_fakes import (
    OK,
    FakeIntake,
    FakeRouter,
    FakeTransport,
    ledger_counts,
    make_log,
    make_message,
    until,
    what_is_queued,
)
from queue_faults import Plan, fault_vfs
from queue_house import BUSY, DOWN, UNKNOWN

from resel_mta.config import Settings
from resel_mta.content import Body
from resel_mta.mail import Message, Notify, Outcome, Recipient, Relayed, Route, TempFail
from resel_mta.queue import carrying
from resel_mta.queue.scheduler import Scheduler
from resel_mta.queue.sqlite import SQLiteStore

TAKEN = Relayed(OK, "mx.example.net", "mx.example.net[192.0.2.1]:25")
LARGE = b"0123456789abcde\r\n" * 12_000


@dataclass
class Relay:
    store: SQLiteStore
    smtp: FakeTransport
    scheduler: Scheduler
    log: list[str]
    plan: Plan

    def message(self, *to: str, body: Body | bytes = b"hello\r\n") -> Message:
        return make_message(self.store, *to, body=body)

    def lines(self, words: str) -> list[str]:
        return [line for line in self.log if words in line]


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    plan = Plan(tmp_path)
    with fault_vfs(plan) as vfs:
        store = await SQLiteStore.open(tmp_path, vfs=vfs)
        log, lines = make_log()
        smtp = FakeTransport()
        smtp.answer = lambda m, r, route: TAKEN
        settings = Settings.build(myhostname="mail.example.org")
        scheduler = Scheduler(settings, store, FakeRouter(), {"smtp": smtp}, FakeIntake(store), log)
        await scheduler.start()
        yield Relay(store, smtp, scheduler, lines, plan)
        smtp.gate.set()
        await scheduler.stop(5)
        await store.close()


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "PATIENCE", 0.05)


async def sink_body(store: SQLiteStore, data: bytes) -> Body:
    sink = store.sink()
    await sink.write(data)
    return await sink.finish()


def files(relay: Relay) -> list[str]:
    return [path.name for path in relay.store.path.parent.glob("*/**/*") if path.is_file()]


async def test_the_next_hop_takes_it_and_nothing_is_kept(relay: Relay) -> None:
    relay.smtp.gate.clear()
    message = relay.message("a@x.net", "b@x.net")
    carried = asyncio.create_task(relay.scheduler.carry(message))
    await until(lambda: relay.smtp.running == 1)
    assert not carried.done()
    assert await what_is_queued(relay.store) == {}
    relay.smtp.gate.set()
    await carried
    assert await what_is_queued(relay.store) == {}
    name = message.queue_id
    assert [line.split(", ")[0] for line in relay.log] == [
        f"{name}: from=<sender@example.org>",
        f"{name}: to=<a@x.net>",
        f"{name}: to=<b@x.net>",
        f"{name}: removed",
    ]
    assert await ledger_counts(relay.store) == {"accepted": 2, "relayed": 2}
    assert relay.scheduler.active == 0


async def test_a_large_body_is_not_left_behind(relay: Relay) -> None:
    message = relay.message(body=await sink_body(relay.store, LARGE))
    assert len(files(relay)) == 1
    await relay.scheduler.carry(message)
    assert relay.smtp.seen[message.queue_id].endswith(LARGE)
    assert files(relay) == []


@pytest.mark.parametrize("trouble", [BUSY, DOWN])
@pytest.mark.parametrize("data", [b"hello\r\n", LARGE])
async def test_trouble_puts_it_into_the_queue(relay: Relay, trouble: Outcome, data: bytes) -> None:
    relay.smtp.answer = lambda m, r, route: trouble
    message = relay.message(body=await sink_body(relay.store, data))
    await relay.scheduler.carry(message)
    await until(lambda: relay.scheduler.active == 0)
    entry = await relay.store.get(message.queue_id)
    assert entry is not None
    assert entry.queue == "deferred"
    assert (entry.recipients[0].attempts, entry.recipients[0].reason) == (1, trouble.reply.text)
    relay.smtp.answer = lambda m, r, route: TAKEN
    await relay.scheduler.flush()
    await until(lambda: bool(relay.lines("removed")))
    assert relay.smtp.seen[message.queue_id].endswith(data)
    assert files(relay) == []
    assert await ledger_counts(relay.store) == {"accepted": 1, "relayed": 1}


async def test_a_refusal_bounces_from_the_queue(relay: Relay) -> None:
    relay.smtp.answer = lambda m, r, route: UNKNOWN if m.envelope.reverse_path else TAKEN
    message = relay.message()
    await relay.scheduler.carry(message)
    await until(lambda: len(relay.lines("removed")) == 2)
    assert relay.lines(f"{message.queue_id}: sender non-delivery notification")
    assert await what_is_queued(relay.store) == {}
    assert (await ledger_counts(relay.store))["bounced"] == 1


async def test_what_is_taken_in_part_is_kept_in_part(relay: Relay) -> None:
    relay.smtp.answer = lambda m, r, route: TAKEN if r.address.startswith("a") else BUSY
    message = relay.message("a@x.net", "b@y.net")
    message.named = 1
    await relay.scheduler.carry(message)
    await until(lambda: relay.scheduler.active == 0)
    assert await what_is_queued(relay.store) == {message.queue_id: ["b@y.net"]}
    assert await ledger_counts(relay.store) == {"accepted": 1, "expanded": 1, "relayed": 1}


async def test_recipients_that_were_merged_are_counted(relay: Relay) -> None:
    relay.smtp.answer = lambda m, r, route: TAKEN if r.address.startswith("a") else BUSY
    for to in (["a@x.net"], ["a@x.net", "b@y.net"]):
        message = relay.message(*to)
        message.named, message.merged = 3, 1
        await relay.scheduler.carry(message)
    await until(lambda: relay.scheduler.active == 0)
    # The first was one of two, and an alias of nobody.
    assert await ledger_counts(relay.store) == {
        "accepted": 6,
        "merged": 2,
        "deleted": 1,
        "relayed": 2,
    }


async def test_a_slow_next_hop_does_not_hold_the_client(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    relay.smtp.gate.clear()
    message = relay.message("a@x.net", "b@y.net")
    await relay.scheduler.carry(message)
    assert await what_is_queued(relay.store) == {message.queue_id: ["a@x.net", "b@y.net"]}
    assert not relay.lines("removed")
    relay.smtp.gate.set()
    await until(lambda: bool(relay.lines("removed")))
    assert len(relay.smtp.deliveries) == 2
    assert await what_is_queued(relay.store) == {}
    assert await ledger_counts(relay.store) == {"accepted": 2, "relayed": 2}


async def test_an_outcome_while_it_is_being_kept(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    relay.smtp.gate.clear()
    enter = relay.store.enter

    async def slow(message: Message, **options: Any) -> None:
        relay.smtp.gate.set()
        await until(lambda: relay.smtp.running == 0)
        await asyncio.sleep(0.01)
        await enter(message, **options)

    monkeypatch.setattr(relay.store, "enter", slow)
    message = relay.message("a@x.net", "b@y.net")
    await relay.scheduler.carry(message)
    await until(lambda: bool(relay.lines("removed")))
    assert await what_is_queued(relay.store) == {}
    assert await ledger_counts(relay.store) == {"accepted": 2, "relayed": 2}


async def test_a_client_that_goes_away_loses_nothing(relay: Relay) -> None:
    relay.smtp.gate.clear()
    message = relay.message()
    carried = asyncio.create_task(relay.scheduler.carry(message))
    await until(lambda: relay.smtp.running == 1)
    carried.cancel()
    with pytest.raises(asyncio.CancelledError):
        await carried
    relay.smtp.answer = lambda m, r, route: BUSY
    relay.smtp.gate.set()
    await until(lambda: relay.scheduler.active == 0)
    assert list(await what_is_queued(relay.store)) == [message.queue_id]


async def test_when_it_can_not_be_kept_the_client_is_told(relay: Relay) -> None:
    relay.smtp.answer = lambda m, r, route: BUSY
    relay.plan.database_error = apsw.FullError
    with pytest.raises(TempFail) as caught:
        await relay.scheduler.carry(relay.message())
    assert caught.value.reply.code == 452
    relay.plan.database_error = None
    assert relay.scheduler.active == 0
    assert await what_is_queued(relay.store) == {}
    relay.smtp.answer = lambda m, r, route: TAKEN
    await relay.scheduler.carry(relay.message())
    assert await ledger_counts(relay.store) == {"accepted": 1, "relayed": 1}


async def test_stopping_keeps_what_waits(relay: Relay) -> None:
    relay.smtp.gate.clear()
    message = relay.message()
    carried = asyncio.create_task(relay.scheduler.carry(message))
    await until(lambda: relay.smtp.running == 1)
    stopping = asyncio.create_task(relay.scheduler.stop(0.2))
    await carried
    await stopping
    assert list(await what_is_queued(relay.store)) == [message.queue_id]
    late = relay.message()
    await relay.scheduler.carry(late)
    assert list(await what_is_queued(relay.store)) == [message.queue_id, late.queue_id]


def held(message: Message) -> None:
    message.hold = True


def reported(message: Message) -> None:
    message.recipients[0].notify = Notify.SUCCESS


def our_own(message: Message) -> None:
    message.origin_protocol = "internal"


def known_by_token(message: Message) -> None:
    message.token = "t"


@pytest.mark.parametrize("change", [held, reported, our_own, known_by_token])
async def test_what_has_to_be_kept_is_kept_first(
    relay: Relay, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    message = relay.message()
    change(message)
    kept_first: list[bool] = []

    def answer(m: Message, r: Recipient, route: Route) -> Outcome:
        kept_first.append(True)
        return BUSY

    relay.smtp.answer = answer
    relay.smtp.gate.clear()
    await relay.scheduler.carry(message)
    assert list(await what_is_queued(relay.store)) == [message.queue_id]
    assert not kept_first


async def test_passed_mail_is_in_the_ledger_also_after_a_failed_commit(relay: Relay) -> None:
    for _ in range(3):
        await relay.scheduler.carry(relay.message())
    relay.plan.database_error = apsw.IOError
    with pytest.raises(TempFail):
        await relay.store.enter(relay.message())
    relay.plan.database_error = None
    assert await ledger_counts(relay.store) == {"accepted": 3, "relayed": 3}
