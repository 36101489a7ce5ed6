"""The scheduler, on the in-memory queue and scripted transports."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from queue_fakes import OK, make_message, read_all, until
from queue_house import BUSY, UNKNOWN, House, MakeHouse

from resel_mta.config import Settings
from resel_mta.mail import (
    Delivered,
    Message,
    Notify,
    Outcome,
    PermFail,
    Recipient,
    Relayed,
    Reply,
    Route,
    TempFail,
)


async def test_delivered_and_removed_with_postfix_lines(house: House) -> None:
    house.smtp.answer = lambda m, r, route: Relayed(
        OK, "mx.example.net", "mx.example.net[192.0.2.1]:25", 0.25, 0.5
    )
    message = await house.enter("rcpt@example.net")
    await house.idle()
    assert await house.names() == []
    assert house.smtp.seen[message.queue_id] == b"Subject: test\r\n\r\nhello\r\n"
    name = message.queue_id
    assert house.log[0] == (
        f"{name}: from=<sender@example.org>, size={message.size}, nrcpt=1 (queue active)"
    )
    assert re.fullmatch(
        rf"{name}: to=<rcpt@example\.net>, relay=mx\.example\.net\[192\.0\.2\.1\]:25, "
        r"delay=[\d.]+, delays=[\d.]+/[\d.]+/0\.25/0\.5, dsn=2\.0\.0, "
        r"status=sent \(250 2\.0\.0 Ok: queued as X\)",
        house.log[1],
    )
    assert house.log[2] == f"{name}: removed"


async def test_a_route_that_the_router_remembers_is_not_asked_for(house: House) -> None:
    house.router.remembers = True
    house.router.decide = lambda address: Route("smtp", "[hub]")
    first, second = await house.enter("rcpt@example.net"), await house.enter("a@b.net", "c@d.net")
    await house.idle()
    assert await house.names() == []
    assert house.router.asked == ["a@b.net", "c@d.net"]
    assert sorted(house.smtp.deliveries) == sorted(
        [(first.queue_id, ["rcpt@example.net"]), (second.queue_id, ["a@b.net", "c@d.net"])]
    )


async def test_a_remembered_route_to_a_transport_that_is_not_there_defers(house: House) -> None:
    house.router.remembers = True
    house.router.decide = lambda address: Route("nosuch", "[hub]")
    await house.enter("rcpt@example.net")
    await house.idle()
    assert house.lines("warning: unknown mail transport: nosuch")
    assert house.lines(r"status=deferred \(mail transport unavailable\)")


async def test_orig_to_is_logged(house: House) -> None:
    message = make_message(house.store)
    message.recipients[0].orig_to = "root@example.net"
    await house.store.enter(message)
    await house.idle()
    assert house.lines(r"to=<rcpt@example.net>, orig_to=<root@example.net>, relay=")


async def test_deferred_then_tried_again(house: House) -> None:
    house.smtp.answer = lambda m, r, route: BUSY
    before = time.time()
    message = await house.enter()
    await house.idle()
    entry = await house.store.get(message.queue_id)
    assert entry is not None
    assert entry.queue == "deferred"
    assert before + 300 <= entry.next_attempt <= time.time() + 375
    assert house.lines(r"status=deferred \(busy\)")
    house.smtp.answer = lambda m, r, route: Delivered(OK)
    assert await house.scheduler.flush() == 1
    await until(lambda: bool(house.lines("removed")))
    assert len(house.smtp.deliveries) == 2


async def test_back_off_doubles_up_to_the_maximum(house: House) -> None:
    house.smtp.answer = lambda m, r, route: BUSY
    message = await house.enter()
    waits: list[float] = []
    for _ in range(6):
        await until(lambda: len(house.smtp.deliveries) == len(waits) + 1)
        await house.idle()
        entry = await house.store.get(message.queue_id)
        assert entry is not None
        waits.append(entry.next_attempt - time.time())
        await house.scheduler.flush(queue_id=message.queue_id)
    for wait, expected in zip(waits, (300, 600, 1200, 2400, 4000, 4000), strict=True):
        assert expected - 5 <= wait <= min(expected * 1.25, 4000)


async def test_failure_bounces_to_the_sender(house: House) -> None:
    def answer(message: Message, recipient: Recipient, route: Route) -> Outcome:
        return UNKNOWN if message.envelope.reverse_path else Delivered(OK)

    house.smtp.answer = answer
    message = await house.enter("nobody@example.net")
    await house.idle()
    assert await house.names() == []
    (bounce,) = [name for name, _ in house.smtp.deliveries if name != message.queue_id]
    text = house.smtp.seen[bounce].decode()
    assert "To: sender@example.org" in text
    assert "Action: failed" in text
    assert "Status: 5.1.1" in text
    assert "Final-Recipient: rfc822; nobody@example.net" in text
    assert house.lines(f"{message.queue_id}: sender non-delivery notification: {bounce}")
    assert house.lines(f"{bounce}: from=<>, size=")
    assert house.lines(f"{message.queue_id}: removed")


async def test_one_bounce_for_several_failures(house: House) -> None:
    house.smtp.answer = lambda m, r, route: (
        Delivered(OK) if not m.envelope.reverse_path or r.address.startswith("good") else UNKNOWN
    )
    await house.enter("a@one.net", "b@two.net", "good@two.net")
    await house.idle()
    texts = [data.decode() for data in house.smtp.seen.values() if b"multipart/report" in data]
    assert len(texts) == 1
    assert texts[0].count("Action: failed") == 2
    assert "good@two.net" not in texts[0]


async def test_null_sender_is_never_answered(house: House) -> None:
    house.smtp.answer = lambda m, r, route: UNKNOWN
    message = await house.enter(sender="")
    await house.idle()
    assert await house.names() == []
    assert len(house.smtp.deliveries) == 1
    assert house.lines(f"{message.queue_id}: warning: undeliverable notification discarded")


async def test_double_bounce_goes_to_the_postmaster_and_no_further(make_house: MakeHouse) -> None:
    house = make_house(notify_classes="2bounce", myorigin="example.org")
    await house.scheduler.start()
    house.smtp.answer = lambda m, r, route: UNKNOWN
    await house.enter(sender="")
    await until(lambda: len(house.smtp.deliveries) == 2)
    await house.idle()
    assert house.smtp.deliveries[1][1] == ["postmaster@example.org"]
    assert await house.names() == []
    assert len(house.smtp.deliveries) == 2


async def test_own_reverse_path_gets_its_own_bounce(house: House) -> None:
    house.smtp.answer = lambda m, r, route: UNKNOWN if m.envelope.reverse_path else Delivered(OK)
    message = make_message(house.store, "a@x.net", "b@x.net")
    message.recipients[1].reverse_path = "owner-list@example.org"
    await house.store.enter(message)
    await house.idle()
    assert [names for _, names in house.smtp.deliveries[:2]] == [["a@x.net"], ["b@x.net"]]
    assert {tuple(names) for _, names in house.smtp.deliveries[2:]} == {
        ("sender@example.org",),
        ("owner-list@example.org",),
    }


async def test_notify_never_is_silent(house: House) -> None:
    house.smtp.answer = lambda m, r, route: UNKNOWN
    message = make_message(house.store)
    message.recipients[0].notify = Notify.NEVER
    await house.store.enter(message)
    await house.idle()
    assert await house.names() == []
    assert len(house.smtp.deliveries) == 1


@pytest.mark.parametrize(
    ("outcome", "action"),
    [
        (Delivered(OK), "delivered"),
        (Relayed(OK, "mx.example.net"), "relayed"),
        (Relayed(OK, "mx.example.net", dsn_capable=True), ""),
    ],
)
async def test_success_is_reported_when_asked(house: House, outcome: Outcome, action: str) -> None:
    message = make_message(house.store)
    message.recipients[0].notify = Notify.SUCCESS
    message.recipients[0].orcpt = "rfc822;rcpt+2Btag@example.net"
    message.envelope.envid = "QQ+2B1"
    house.smtp.answer = lambda m, r, route: outcome
    await house.store.enter(message)
    await house.idle()
    texts = [data.decode() for data in house.smtp.seen.values() if b"multipart/report" in data]
    assert len(texts) == bool(action)
    if texts:
        assert f"Action: {action}" in texts[0]
        assert "Original-Recipient: rfc822; rcpt+tag@example.net" in texts[0]
        assert "Original-Envelope-Id: QQ+1" in texts[0]
        assert "text/rfc822-headers" in texts[0]


async def test_expired_mail_is_returned(house: House) -> None:
    house.smtp.answer = lambda m, r, route: BUSY if m.envelope.reverse_path else Delivered(OK)
    message = make_message(house.store)
    message.arrival -= 6 * 86400
    await house.store.enter(message)
    await house.idle()
    assert await house.names() == []
    assert house.lines("from=<sender@example.org>, status=expired, returned to sender")
    text = next(d for d in house.smtp.seen.values() if b"multipart/report" in d).decode()
    assert "Action: failed" in text
    assert "Status: 4.2.1" in text


async def test_soft_bounce_defers(make_house: MakeHouse) -> None:
    house = make_house(soft_bounce="yes")
    await house.scheduler.start()
    house.smtp.answer = lambda m, r, route: UNKNOWN
    message = await house.enter()
    await house.idle()
    assert await house.names() == [message.queue_id]
    assert house.lines(r"dsn=4\.1\.1, status=deferred \(unknown user\)")


async def test_late_mail_is_warned_about_once(make_house: MakeHouse) -> None:
    house = make_house(delay_warning_time="4h")
    await house.scheduler.start()
    house.smtp.answer = lambda m, r, route: BUSY if m.envelope.reverse_path else Delivered(OK)
    message = make_message(house.store)
    message.arrival -= 5 * 3600
    await house.store.enter(message)
    await house.idle()
    await house.scheduler.flush()
    await house.idle()
    texts = [d.decode() for d in house.smtp.seen.values() if b"multipart/report" in d]
    assert len(texts) == 1
    assert "Action: delayed" in texts[0]
    assert "Will-Retry-Until: " in texts[0]
    assert await house.names() == [message.queue_id]


async def test_unknown_exceptions_defer_and_are_logged(house: House) -> None:
    def fail(message: Message, recipient: Recipient, route: Route) -> Outcome:
        raise RuntimeError("a bug with secret internals")

    house.smtp.answer = fail
    message = await house.enter()
    await house.idle()
    entry = await house.store.get(message.queue_id)
    assert entry is not None
    assert entry.queue == "deferred"
    reference = re.search(r"reference ([0-9a-f]{8})", entry.recipients[0].reason)
    assert reference
    assert "secret" not in entry.recipients[0].reason
    assert house.lines(f"{reference[1]}: Traceback")
    assert house.lines(f"{reference[1]}: RuntimeError: a bug with secret internals")


async def test_router_that_fails(house: House) -> None:
    def decide(address: str) -> Route:
        if address.startswith("temp"):
            raise TempFail(Reply(451, "4.3.0", "map failed"))
        if address.startswith("perm"):
            raise PermFail(Reply(550, "5.1.2", "no such domain"))
        if address.startswith("bug"):
            raise RuntimeError("oops")
        if address.startswith("odd"):
            return Route("pigeon", "roof")
        return Route("smtp", "x.net")

    house.router.decide = decide
    await house.enter("temp@x.net", "perm@x.net", "bug@x.net", "odd@x.net", "fine@x.net")
    await house.idle()
    assert house.lines(r"to=<temp@x.net>, relay=none, .* status=deferred \(map failed\)")
    assert house.lines(r"to=<perm@x.net>, .* status=bounced \(no such domain\)")
    assert house.lines(r"to=<bug@x.net>, .* status=deferred \(Error: internal error")
    assert house.lines(r"to=<odd@x.net>, .* status=deferred \(mail transport unavailable\)")
    assert house.lines(r"to=<fine@x.net>, .* status=sent")
    (left,) = [entry async for entry in house.store.walk()]
    assert {r.address for r in left.recipients} == {"temp@x.net", "bug@x.net", "odd@x.net"}


async def test_transport_that_forgets_a_recipient(house: House) -> None:
    async def deliver(message: Message, recipients: list[Recipient], route: Route) -> object:
        return {recipients[0]: Delivered(OK)}

    house.smtp.deliver = deliver  # type: ignore[method-assign, assignment]
    message = await house.enter("a@x.net", "b@x.net")
    await house.idle()
    entry = await house.store.get(message.queue_id)
    assert entry is not None
    assert [r.address for r in entry.recipients] == ["b@x.net"]


async def test_bounce_that_cannot_be_made_keeps_the_original(house: House) -> None:
    house.smtp.answer = lambda m, r, route: UNKNOWN
    house.intake.failure = TempFail(Reply(452, "4.3.1", "full"))
    message = await house.enter()
    await house.idle()
    assert await house.names() == [message.queue_id]
    house.intake.failure = None
    await house.scheduler.flush()
    await until(lambda: bool(house.lines(f"{message.queue_id}: removed")))


async def test_content_is_read_when_it_was_not_kept(make_house: MakeHouse) -> None:
    house = make_house()
    message = await house.enter(body=b"from the store\r\n")
    await house.scheduler.start()
    await house.idle()
    await until(lambda: message.queue_id in house.smtp.seen)
    assert house.smtp.seen[message.queue_id].endswith(b"\r\n\r\nfrom the store\r\n")


async def test_stop_lets_deliveries_finish_and_keeps_the_rest(make_house: MakeHouse) -> None:
    house = make_house(initial_destination_concurrency="1")
    await house.scheduler.start()
    house.smtp.gate.clear()
    first = await house.enter("a@x.net")
    second = await house.enter("b@x.net")
    await until(lambda: house.smtp.running == 1)
    stopping = asyncio.ensure_future(house.scheduler.stop(5))
    await asyncio.sleep(0.02)
    late = await house.enter("c@x.net")
    house.smtp.gate.set()
    await stopping
    assert await house.names() == [second.queue_id, late.queue_id]
    assert house.lines(f"{first.queue_id}: removed")
    assert {entry.queue async for entry in house.store.walk()} == {"incoming"}


async def test_stop_breaks_off_what_takes_too_long(house: House) -> None:
    house.smtp.gate.clear()
    message = await house.enter()
    await until(lambda: house.smtp.running == 1)
    await house.scheduler.stop(0.05)
    assert house.smtp.running == 0
    entry = await house.store.get(message.queue_id)
    assert entry is not None
    assert entry.queue == "incoming"


async def test_held_and_deleted_mail_is_not_begun(make_house: MakeHouse) -> None:
    house = make_house(initial_destination_concurrency="1")
    await house.scheduler.start()
    house.smtp.gate.clear()
    running, held, deleted, left = [await house.enter(f"{n}@x.net") for n in "abcd"]
    await until(lambda: house.smtp.running == 1)
    await house.store.hold([held.queue_id])
    await house.store.delete([deleted.queue_id])
    house.smtp.gate.set()
    await house.idle()
    assert {name for name, _ in house.smtp.deliveries} == {running.queue_id, left.queue_id}
    assert await house.names() == [held.queue_id]
    assert not house.lines(f"{deleted.queue_id}: removed")
    await house.store.release([held.queue_id])
    await until(lambda: bool(house.lines(f"{held.queue_id}: removed")))


async def test_requeued_while_waiting_is_tried_again(make_house: MakeHouse) -> None:
    house = make_house(initial_destination_concurrency="1")
    await house.scheduler.start()
    house.smtp.gate.clear()
    await house.enter("a@x.net")
    waiting = await house.enter("b@x.net")
    await until(lambda: house.smtp.running == 1)
    await house.store.requeue([waiting.queue_id])
    house.smtp.gate.set()
    await until(lambda: len(house.lines("removed")) == 2)
    assert await house.names() == []


async def test_flush_of_a_site(house: House) -> None:
    house.smtp.answer = lambda m, r, route: BUSY
    one = await house.enter("a@one.net")
    await house.enter("a@two.net")
    await house.idle()
    house.smtp.answer = lambda m, r, route: Delivered(OK)
    assert await house.scheduler.flush(site="one.net") == 1
    await until(lambda: bool(house.lines(f"{one.queue_id}: removed")))
    house.router.decide = lambda address: Route("smtp", "[relay.net]:2525")
    assert await house.scheduler.flush(site="[relay.net]") == 1


async def test_flush_of_a_site_asks_for_the_way_of_a_domain_once(house: House) -> None:
    house.smtp.answer = lambda m, r, route: BUSY
    house.router.decide = lambda address: Route(
        "smtp", "[relay.net]", "relayhost", alike=address.endswith(".net")
    )
    for address in ("a@one.net", "b@one.net", "c@One.NET", "d@two.net", "e@own.org", "f@own.org"):
        await house.enter(address)
    await house.idle()
    house.router.asked.clear()
    assert await house.scheduler.flush(site="elsewhere.net") == 0
    assert sorted(house.router.asked) == ["a@one.net", "d@two.net", "e@own.org", "f@own.org"]
    assert await house.scheduler.flush(site="relay.net") == 6


async def test_reconfigure_changes_the_limits(house: House) -> None:
    house.scheduler.reconfigure(
        Settings.build(myhostname="mail.example.org", minimal_backoff_time="10s")
    )
    house.smtp.answer = lambda m, r, route: BUSY
    message = await house.enter()
    await house.idle()
    entry = await house.store.get(message.queue_id)
    assert entry is not None
    assert entry.next_attempt < time.time() + 13


async def test_what_the_transport_sees_is_whole(house: House) -> None:
    message = make_message(house.store, header=b"A: b\r\nC: d\r\n", body=b".\r\n..\r\n")
    assert message.content is not None
    expected = read_all(message.content)
    await house.store.enter(message)
    await house.idle()
    assert house.smtp.seen[message.queue_id] == expected


async def test_one_look_up_serves_all_recipients_that_go_the_same_way(house: House) -> None:
    asked: list[str] = []

    def decide(address: str) -> Route:
        asked.append(address)
        alike = not address.endswith("@mixed.example")
        return Route("smtp", address.rpartition("@")[2], alike=alike)

    house.router.decide = decide
    near, mixed = (
        [f"{n}@{domain}" for n in range(5)] for domain in ("near.example", "mixed.example")
    )
    await house.enter(*near, *mixed, "last@sub.near.example")
    await house.idle()
    assert asked == [near[0], *mixed, "last@sub.near.example"]
    assert sorted(to for _, to in house.smtp.deliveries) == [mixed, near, ["last@sub.near.example"]]
