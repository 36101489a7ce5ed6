"""Who is served when: next hops that are slow, dead or back, backlogs, and large messages."""

from __future__ import annotations

import asyncio

import pytest
from queue_fakes import OK, MemoryStore, make_log, make_message, until
from queue_house import BUSY, DOWN, House, MakeHouse

from resel_mta.config import Settings
from resel_mta.mail import Delivered, Route
from resel_mta.queue import dispatch
from resel_mta.queue.journal import Journal
from resel_mta.queue.retry import Policy
from resel_mta.queue.sites import Active
from resel_mta.workers import channel
from resel_mta.workers.sharing import SharingPeers


async def test_concurrency_starts_low_and_grows(make_house: MakeHouse) -> None:
    house = make_house(
        default_destination_concurrency_limit="8", initial_destination_concurrency="2"
    )
    await house.scheduler.start()
    house.smtp.gate.clear()
    for _ in range(60):
        await house.enter("a@x.net")
    await until(lambda: house.smtp.running == 2)
    await asyncio.sleep(0.05)
    assert house.smtp.most == 2
    house.smtp.gate.set()
    await house.idle()
    assert 2 < house.smtp.most <= 8


async def test_a_dead_next_hop_is_left_alone(house: House) -> None:
    house.smtp.answer = lambda m, r, route: DOWN if route.nexthop == "dead.net" else Delivered(OK)
    for _ in range(50):
        await house.enter("a@dead.net")
    await house.enter("b@alive.net")
    await house.idle()
    tried = [names for _, names in house.smtp.deliveries if names == ["a@dead.net"]]
    assert len(tried) <= 10
    suspended = house.lines(
        r"relay=none, .*dsn=4\.4\.1, status=deferred \(delivery temporarily suspended: "
        r"connect to mx\[192\.0\.2\.1\]:25: refused\)"
    )
    assert len(suspended) == 50 - len(tried)
    assert house.lines(r"to=<b@alive.net>, .* status=sent")
    before = len(house.smtp.deliveries)
    await house.enter("late@dead.net")
    await house.idle()
    assert len(house.smtp.deliveries) == before


async def test_what_was_not_tried_is_no_attempt(make_house: MakeHouse) -> None:
    house = make_house()
    await house.scheduler.start()
    house.smtp.answer = lambda m, r, route: DOWN
    for _ in range(30):
        await house.enter("a@dead.net")
    await house.idle()
    attempts = [each.recipients[0].attempts async for each in house.store.walk()]
    assert sorted(set(attempts)) == [0, 1]
    assert sum(attempts) == len(house.smtp.deliveries) < 30
    # It is known to wait all the same, and follows as soon as the host is back.
    await house.scheduler.stop(5)
    await house.store.delete(
        [each.queue_id async for each in house.store.walk() if each.recipients[0].attempts]
    )
    house = make_house(store=house.store, smtp=house.smtp)
    house.smtp.answer = lambda m, r, route: Delivered(OK)
    await house.scheduler.start()
    await until(lambda: len(house.lines("removed")) == attempts.count(0))


async def test_backlog_follows_the_probe(house: House) -> None:
    house.smtp.answer = lambda m, r, route: DOWN
    for _ in range(30):
        await house.enter("a@dead.net")
    await house.idle()
    house.smtp.answer = lambda m, r, route: Delivered(OK)
    (first, *_) = await house.names()
    await house.scheduler.flush(queue_id=first)
    await until(lambda: len(house.lines("removed")) == 30)


async def test_ten_thousand_recipients_do_not_delay_one(make_house: MakeHouse) -> None:
    house = make_house(default_destination_concurrency_limit="2")
    await house.scheduler.start()
    release = asyncio.Event()
    house.smtp.gate.clear()
    big = await house.enter(*(f"r{n}@x.net" for n in range(10_000)))
    await until(lambda: house.smtp.running == 2)
    cron = await house.enter("cron@x.net")
    house.smtp.gate.set()
    await until(lambda: cron.queue_id in house.smtp.seen)
    release.set()
    served = [name for name, _ in house.smtp.deliveries]
    assert served.index(cron.queue_id) < 8
    await house.idle()
    assert all(len(names) <= 50 for _, names in house.smtp.deliveries)
    assert (
        sum(len(names) for name, names in house.smtp.deliveries if name == big.queue_id) == 10_000
    )
    assert await house.names() == []


async def test_next_hops_take_turns(make_house: MakeHouse) -> None:
    house = make_house(default_process_limit="1")
    await house.scheduler.start()
    house.smtp.gate.clear()
    for _ in range(20):
        await house.enter("a@busy.net")
    await house.enter("b@quiet.net")
    house.smtp.gate.set()
    await house.idle()
    order = [names[0] for _, names in house.smtp.deliveries]
    assert order.index("b@quiet.net") <= 3


async def test_local_recipients_are_next_hops_of_their_own(house: House) -> None:
    house.router.decide = lambda address: Route("local", "mail.example.org")
    house.local.gate.clear()
    for _ in range(5):
        await house.enter("slow@example.org")
    await house.enter("other@example.org")
    await until(lambda: house.local.running == 3)
    assert sorted(names[0] for _, names in house.local.deliveries) == [
        "other@example.org",
        "slow@example.org",
        "slow@example.org",
    ]


async def test_active_window_is_bounded(make_house: MakeHouse) -> None:
    house = make_house(qmgr_message_active_limit="10")
    await house.scheduler.start()
    house.smtp.gate.clear()
    for _ in range(40):
        await house.enter()
    await asyncio.sleep(0.05)
    assert house.scheduler.active == 10
    house.smtp.gate.set()
    await until(lambda: len(house.lines("removed")) == 40)


async def test_a_backlog_begins_with_one_probe_for_each_next_hop(make_house: MakeHouse) -> None:
    """After a restart everything comes from the store."""
    house = make_house(initial_destination_concurrency="5")
    for number in range(60):
        await house.enter(f"a@{'xy'[number % 2]}.net")
    house.smtp.gate.clear()
    await house.scheduler.start()
    await until(lambda: house.smtp.running == 2)
    await asyncio.sleep(0.05)
    assert sorted(names[0] for _, names in house.smtp.deliveries) == ["a@x.net", "a@y.net"]
    house.smtp.gate.set()
    await house.idle()
    assert house.smtp.most > 6
    assert await house.names() == []


async def test_a_start_finds_out_whether_a_next_hop_is_back(make_house: MakeHouse) -> None:
    """Its backlog follows at once; hosts that answered keep their back-off."""
    house = make_house()
    house.smtp.answer = lambda m, r, route: BUSY if r.address == "busy@up.net" else DOWN
    await house.scheduler.start()
    busy = await house.enter("busy@up.net")
    for _ in range(20):
        await house.enter("a@dead.net")
    await house.idle()
    await house.scheduler.stop(5)
    house.smtp.answer = lambda m, r, route: Delivered(OK)
    again = make_house(store=house.store, smtp=house.smtp)
    await again.scheduler.start()
    await until(lambda: len(again.lines("removed")) == 20)
    assert await again.names() == [busy.queue_id]


async def test_a_backlog_for_a_dead_next_hop_costs_one_probe(make_house: MakeHouse) -> None:
    house = make_house()
    for _ in range(40):
        await house.enter("a@dead.net")
    house.smtp.answer = lambda m, r, route: DOWN
    await house.scheduler.start()
    await until(lambda: len(house.lines("status=deferred")) == 40)
    assert len(house.smtp.deliveries) == 1
    await house.idle()
    house.smtp.answer = lambda m, r, route: Delivered(OK)
    await house.scheduler.flush()
    await until(lambda: len(house.lines("removed")) == 40)


async def test_no_backlog_is_in_the_way_of_new_mail(make_house: MakeHouse) -> None:
    house = make_house(qmgr_message_active_limit="10")
    for _ in range(50):
        await house.enter("a@slow.net")
    house.smtp.gate.clear()
    await house.scheduler.start()
    await until(lambda: house.scheduler.active == 8)
    await house.enter("cron@quiet.net")
    await until(lambda: ["cron@quiet.net"] in [names for _, names in house.smtp.deliveries])
    house.smtp.gate.set()
    await until(lambda: len(house.lines("removed")) == 51)


async def test_a_rate_delay_spaces_deliveries_to_one_next_hop(make_house: MakeHouse) -> None:
    house = make_house(smtp_destination_rate_delay="1s")
    await house.scheduler.start()
    for _ in range(3):
        await house.enter("a@x.net")
    await house.enter("b@y.net")
    loop = asyncio.get_running_loop()
    await until(lambda: len(house.smtp.deliveries) == 2)
    first = loop.time()
    assert sorted(names[0] for _, names in house.smtp.deliveries) == ["a@x.net", "b@y.net"]
    await until(lambda: len(house.smtp.deliveries) == 3)
    assert loop.time() - first > 0.9
    assert house.smtp.most <= 2


async def test_a_transport_has_limits_of_its_own(make_house: MakeHouse) -> None:
    house = make_house(
        smtp_destination_concurrency_limit="3",
        smtp_initial_destination_concurrency="1",
        local_destination_concurrency_limit="4",
        local_destination_recipient_limit="2",
        local_initial_destination_concurrency="4",
    )
    house.router.decide = lambda address: Route(
        "local" if address.endswith(".org") else "smtp", "next.hop"
    )
    await house.scheduler.start()
    house.smtp.gate.clear()
    house.local.gate.clear()
    for _ in range(9):
        await house.enter("a@x.net")
        await house.enter("b@x.org")
    await until(lambda: house.smtp.running == 1 and house.local.running == 4)
    await asyncio.sleep(0.02)
    assert (house.smtp.running, house.local.running) == (1, 4)
    house.smtp.gate.set()
    house.local.gate.set()
    await house.idle()
    assert house.smtp.most == 3


@pytest.mark.parametrize("workers", [1, 2])
async def test_content_in_memory_is_for_all_processes_together(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(dispatch, "KEPT_LIMIT", 1000)
    log, _ = make_log()
    peers = SharingPeers(lambda kind, fields: None)
    dispatcher = dispatch.Dispatcher(
        Policy(Settings.build(myhostname="mail.example.org")),
        MemoryStore(),
        {},
        Journal(log),
        lambda *outcome: None,
        lambda: True,
        peers,
    )
    peers.hear(channel.SHARES, {"index": 0, "count": workers})
    assert dispatcher.room == 1000 // workers
    first, second = (Active(make_message(MemoryStore(), body=b"x" * 300), 0.0, 1) for _ in range(2))
    dispatcher.keep(first)
    dispatcher.keep(second)
    assert first.message.content is not None
    assert (second.message.content is None) == (workers == 2)
    dispatcher.forget(first)
    dispatcher.forget(second)
    assert dispatcher.room == 1000 // workers
