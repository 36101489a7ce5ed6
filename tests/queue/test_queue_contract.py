"""The QueueStore door's contract, on the in-memory queue and on the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from queue_fakes import OK, MemoryStore, make_message, read_all

from resel_mta.mail import Deferred, Delivered, Message, Notify, Recipient, Reply
from resel_mta.queue.door import AlreadyEntered, QueueStore, Result, Retry
from resel_mta.queue.sqlite import SQLiteStore

BUSY = Deferred(Reply(450, "4.2.1", "busy"), relay="mx[192.0.2.1]:25")
DOWN = Deferred(Reply(450, "4.4.1", "connect to mx[192.0.2.1]:25: refused"), host_down=True)
DONE = Delivered(OK)


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Recording:
    """A watcher that admits for `owner`."""

    owner: str | None = None
    calls: list[tuple[str, object]] = field(default_factory=list)

    def admit(self, message: Message) -> str | None:
        return self.owner

    def entered(self, message: Message) -> None:
        self.calls.append(("entered", message.queue_id))

    def refused(self, message: Message) -> None:
        self.calls.append(("refused", message.queue_id))

    def arrived(self) -> None:
        self.calls.append(("arrived", None))

    def withdrawn(self, queue_ids: Sequence[str]) -> None:
        self.calls.append(("withdrawn", list(queue_ids)))

    def restored(self, claimed: Sequence[str]) -> None:
        """Nothing is damaged here."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[QueueStore]:
    made: QueueStore
    if request.param == "memory":
        made = MemoryStore(clock)
    else:
        made = await SQLiteStore.open(tmp_path / "queue", clock=clock)
    yield made
    await made.close()


async def listed(store: QueueStore, queue: str | None = None) -> list[str]:
    return [entry.queue_id async for entry in store.walk(queue)]


async def test_ids_grow_and_look_like_postfix(store: QueueStore) -> None:
    ids = [store.new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids, key=lambda name: int(name, 16))
    assert all(set(name) <= set("0123456789ABCDEF") and 6 <= len(name) <= 15 for name in ids)


async def test_entered_message_is_claimed_whole(store: QueueStore) -> None:
    message = make_message(store, "a@example.net", "b@example.net", body=b"one\r\ntwo\r\n")
    message.envelope.envid, message.envelope.ret = "QQ314159", "HDRS"
    message.envelope.body, message.envelope.smtputf8 = "8BITMIME", True
    first = message.recipients[0]
    first.orig_to, first.orcpt, first.via = "root@example.net", "rfc822;root@x", ("root", "ops")
    first.notify, first.reverse_path = Notify.SUCCESS | Notify.DELAY, "owner-list@example.net"
    await store.enter(message)
    (claimed,) = await store.claim("me", 60, 10)
    assert claimed.queue_id == message.queue_id
    assert claimed.content is None
    assert (claimed.arrival, claimed.size) == (message.arrival, message.size)
    assert claimed.envelope.reverse_path == "sender@example.org"
    assert claimed.envelope.envid == "QQ314159"
    assert claimed.envelope.ret == "HDRS"
    assert claimed.envelope.body == "8BITMIME"
    assert claimed.envelope.smtputf8 is True
    assert [r.address for r in claimed.recipients] == ["a@example.net", "b@example.net"]
    got = claimed.recipients[0]
    assert (got.orig_to, got.orcpt, got.via) == (
        "root@example.net",
        "rfc822;root@x",
        ("root", "ops"),
    )
    assert got.notify == Notify.SUCCESS | Notify.DELAY
    assert got.reverse_path == "owner-list@example.net"
    assert claimed.recipients[1].reverse_path is None
    assert read_all(await store.content(claimed)) == b"Subject: test\r\n\r\none\r\ntwo\r\n"


@pytest.mark.parametrize("size", [0, 1, 127 * 1024, 128 * 1024 + 1, 700_000])
async def test_bodies_of_any_size_come_back(store: QueueStore, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    sink = store.sink()
    for start in range(0, size, 60_000):
        await sink.write(data[start : start + 60_000])
    body = await sink.finish()
    assert body.size == size
    message = make_message(store, body=body)
    await store.enter(message)
    await sink.discard()
    (claimed,) = await store.claim("me", 60, 1)
    assert read_all(await store.content(claimed)) == b"Subject: test\r\n\r\n" + data


async def test_a_message_has_one_owner(store: QueueStore) -> None:
    for _ in range(3):
        await store.enter(make_message(store))
    mine = await store.claim("me", 60, 2)
    yours = await store.claim("you", 60, 10)
    assert (len(mine), len(yours)) == (2, 1)
    assert not {m.queue_id for m in mine} & {m.queue_id for m in yours}
    assert await store.claim("me", 60, 10) == []


async def test_claimed_at_once_when_entered_for_an_owner(store: QueueStore) -> None:
    message = make_message(store)
    await store.enter(message, claim_for="me")
    assert await store.claim("you", 60, 10) == []
    await store.unclaim("me")
    assert len(await store.claim("you", 60, 10)) == 1


async def test_what_is_under_way_is_not_claimed_again_after_a_sleep(
    store: QueueStore, clock: Clock
) -> None:
    await store.enter(make_message(store))
    assert len(await store.claim("me", 60, 10)) == 1
    clock.now += 3600
    assert await store.claim("me", 60, 10) == []
    assert await store.claim("other", 60, 10) == []


async def test_lease_that_runs_out_frees_the_messages(store: QueueStore, clock: Clock) -> None:
    await store.enter(make_message(store))
    assert len(await store.claim("dead", 60, 10)) == 1
    clock.now += 50
    await store.renew("dead", 60)
    clock.now += 50
    assert await store.claim("me", 60, 10) == []
    clock.now += 11
    assert len(await store.claim("me", 60, 10)) == 1


async def test_done_recipients_go_and_the_message_with_the_last(store: QueueStore) -> None:
    message = make_message(store, "a@x.org", "b@x.org")
    await store.enter(message, claim_for="me")
    first, second = message.recipients
    assert await store.apply("me", [Result(message, [(first, DONE)])]) == set()
    entry = await store.get(message.queue_id)
    assert entry is not None
    assert [r.address for r in entry.recipients] == ["b@x.org"]
    assert await store.apply("me", [Result(message, [(second, DONE)], release=True)]) == {
        message.queue_id
    }
    assert await store.get(message.queue_id) is None
    assert await listed(store) == []


async def test_retry_is_due_at_its_time(store: QueueStore, clock: Clock) -> None:
    message = make_message(store, "a@x.org", "b@x.org")
    await store.enter(message, claim_for="me")
    first, second = message.recipients
    retries = [Retry(first, clock.now + 100, BUSY), Retry(second, clock.now + 200, BUSY)]
    await store.apply("me", [Result(message, retries=retries, release=True)])
    assert await store.next_due() == clock.now + 100
    assert await store.claim("me", 60, 10) == []
    entry = await store.get(message.queue_id)
    assert entry is not None
    assert entry.queue == "deferred"
    assert entry.recipients[0].reason == "busy"
    assert entry.recipients[0].relay == "mx[192.0.2.1]:25"
    clock.now += 100
    (again,) = await store.claim("me", 60, 10)
    assert [r.address for r in again.recipients] == ["a@x.org"]
    assert again.recipients[0].attempts == 1
    assert again.recipients[0].row == first.row


async def test_what_was_only_put_off_waited_and_was_not_tried(store: QueueStore) -> None:
    message = make_message(store)
    await store.enter(message, claim_for="me")
    assert not message.recipients[0].waited
    retry = Retry(message.recipients[0], 0.0, DOWN, "smtp:x.org", tried=False)
    await store.apply("me", [Result(message, retries=[retry], release=True)])
    (again,) = await store.claim("me", 60, 10)
    assert again.recipients[0].waited
    assert again.recipients[0].attempts == 0
    entry = await store.get(message.queue_id)
    assert entry is not None
    assert entry.recipients[0].attempts == 0


async def test_earliest_first(store: QueueStore, clock: Clock) -> None:
    names = []
    for wait in (300, 100, 200):
        message = make_message(store)
        await store.enter(message, claim_for="me")
        retry = Retry(message.recipients[0], clock.now + wait, BUSY)
        await store.apply("me", [Result(message, retries=[retry], release=True)])
        names.append(message.queue_id)
    clock.now += 1000
    claimed = await store.claim("me", 60, 2)
    assert [m.queue_id for m in claimed] == [names[1], names[2]]


async def test_notice_is_entered_with_the_removal(store: QueueStore) -> None:
    message, notice = make_message(store), make_message(store, sender="")
    await store.enter(message, claim_for="me")
    done = [(message.recipients[0], DONE)]
    gone = await store.apply("me", [Result(message, done, notices=[notice], release=True)])
    assert gone == {message.queue_id}
    assert await listed(store) == [notice.queue_id]


async def test_deleted_meanwhile_is_gone_and_nobody_is_told(store: QueueStore) -> None:
    message, notice = make_message(store), make_message(store, sender="")
    await store.enter(message, claim_for="me")
    await store.delete([message.queue_id])
    done = [(message.recipients[0], DONE)]
    gone = await store.apply("me", [Result(message, done, notices=[notice], release=True)])
    assert gone == {message.queue_id}
    assert await listed(store) == []


async def test_added_recipients_are_due(store: QueueStore) -> None:
    message = make_message(store, "list@x.org")
    await store.enter(message, claim_for="me")
    added = [Recipient("a@x.org", orig_to="list@x.org"), Recipient("b@x.org")]
    done = [(message.recipients[0], DONE)]
    assert await store.apply("me", [Result(message, done, added=added, release=True)]) == set()
    (again,) = await store.claim("me", 60, 10)
    assert [r.address for r in again.recipients] == ["a@x.org", "b@x.org"]
    assert len({r.row for r in (*added, message.recipients[0])}) == 3


async def test_hold_and_release(store: QueueStore) -> None:
    message = make_message(store)
    await store.enter(message)
    assert await store.hold([message.queue_id, "ABCDEF", "nonsense"]) == [message.queue_id]
    assert await store.hold([message.queue_id]) == []
    assert await store.claim("me", 60, 10) == []
    assert await store.wake() == 0
    assert await listed(store, "hold") == [message.queue_id]
    assert await store.release() == [message.queue_id]
    assert await store.release() == []
    assert len(await store.claim("me", 60, 10)) == 1


async def test_entered_held_stays_held(store: QueueStore) -> None:
    message = make_message(store)
    message.hold = True
    await store.enter(message, claim_for="me")
    assert (await store.stats()).hold == 1
    assert await store.claim("me", 60, 10) == []


async def test_wake_and_requeue_make_due(store: QueueStore, clock: Clock) -> None:
    message = make_message(store)
    await store.enter(message, claim_for="me")
    later = Retry(message.recipients[0], clock.now + 1000, BUSY)
    await store.apply("me", [Result(message, retries=[later], release=True)])
    assert await store.wake(["ABCDEF"]) == 0
    assert await store.wake([message.queue_id]) == 1
    (again,) = await store.claim("me", 60, 10)
    await store.apply("me", [Result(again, retries=[later], release=True)])
    assert await store.requeue([message.queue_id]) == [message.queue_id]
    assert len(await store.claim("me", 60, 10)) == 1


async def test_forced_to_expire(store: QueueStore, clock: Clock) -> None:
    message, held = make_message(store), make_message(store)
    for each in (message, held):
        await store.enter(each, claim_for="me")
        later = Retry(each.recipients[0], clock.now + 1000, BUSY)
        await store.apply("me", [Result(each, retries=[later], release=True)])
    await store.hold([held.queue_id])
    both = [message.queue_id, held.queue_id]
    assert await store.expire([*both, "ABCDEF"]) == both
    assert await store.expire() == []
    assert [entry.forced_expire async for entry in store.walk()] == [True, True]
    (due,) = await store.claim("me", 60, 10)
    assert (due.queue_id, due.expires < 0) == (message.queue_id, True)
    await store.release([held.queue_id])
    (due,) = await store.claim("me", 60, 10)
    assert (due.queue_id, due.expires < 0) == (held.queue_id, True)


async def test_waiting_for_a_next_hop(store: QueueStore, clock: Clock) -> None:
    for name in ("smtp:a", "smtp:b"):
        message = make_message(store)
        await store.enter(message, claim_for="me")
        retry = Retry(message.recipients[0], clock.now + 1000, BUSY, name)
        await store.apply("me", [Result(message, retries=[retry], release=True)])
    assert await store.wake_waiting("smtp:b") == 1
    assert [m.queue_id for m in await store.claim("me", 60, 10)] == [message.queue_id]
    assert await store.wake_waiting("smtp:b") == 0


async def test_one_probe_for_each_next_hop(store: QueueStore, clock: Clock) -> None:
    messages = [make_message(store, "a@x.org", "b@x.org") for _ in range(4)]
    for message, waits in zip(messages, ("one", "one", "two", ""), strict=True):
        await store.enter(message, claim_for="me")
        later = [Retry(r, clock.now + 1000, BUSY, waits) for r in message.recipients]
        await store.apply("me", [Result(message, retries=later, release=True)])
    assert await store.wake_probes() == 2
    found = await store.claim("me", 60, 10)
    assert [each.queue_id for each in found] == [messages[0].queue_id, messages[2].queue_id]
    assert [len(each.recipients) for each in found] == [1, 1]


async def test_named_messages_are_claimed_before_their_time(
    store: QueueStore, clock: Clock
) -> None:
    message = make_message(store, "a@x.org", "b@x.org")
    await store.enter(message, claim_for="me")
    retries = [Retry(r, clock.now + 1000, BUSY) for r in message.recipients]
    await store.apply("me", [Result(message, retries=retries, release=True)])
    (claimed,) = await store.claim("me", 60, 10, queue_ids=[message.queue_id])
    assert len(claimed.recipients) == 2


async def test_listing_in_pages_sees_every_message(store: QueueStore) -> None:
    names = []
    for _ in range(450):
        message = make_message(store)
        names.append(message.queue_id)
        await store.enter(message)
    seen = []
    async for entry in store.walk():
        seen.append(entry.queue_id)
        if len(seen) == 10:
            await store.delete(names[300:310])
    assert [name for name in seen if name not in names[300:310]] == names[:300] + names[310:]


async def test_delete_for_good(store: QueueStore) -> None:
    held, live, kept = make_message(store), make_message(store), make_message(store)
    for message in (held, live, kept):
        await store.enter(message)
    await store.hold([held.queue_id])
    await store.delete([kept.queue_id], keep=True)
    assert await store.delete([held.queue_id, "F00"]) == [held.queue_id]
    assert await store.delete() == [live.queue_id]
    assert await listed(store, "trash") == [kept.queue_id]
    assert await store.delete([kept.queue_id]) == [kept.queue_id]
    assert await listed(store, "trash") == []
    assert await store.undelete() == []


async def test_counts(store: QueueStore, clock: Clock) -> None:
    for _ in range(4):
        await store.enter(make_message(store))
    first, _ = await store.claim("me", 60, 2)
    later = Retry(first.recipients[0], clock.now + 9, BUSY)
    await store.apply("me", [Result(first, retries=[later], release=True)])
    stats = await store.stats()
    assert (stats.active, stats.deferred, stats.incoming, stats.hold) == (1, 1, 2, 0)


async def test_load_shows_what_somebody_delivers(store: QueueStore) -> None:
    message = make_message(store)
    await store.enter(message, claim_for="me")
    loaded = await store.load(message.queue_id)
    assert loaded is not None
    assert loaded.content is not None
    assert read_all(loaded.content) == b"Subject: test\r\n\r\nhello\r\n"
    assert await store.load("ABCDEF") is None
    assert await store.load("../../etc/passwd") is None
    assert await store.get("") is None


async def test_a_token_is_known_after_its_message_is_gone(store: QueueStore) -> None:
    message = make_message(store)
    message.token = "1000.abc"
    assert not await store.knows_token("1000.abc")
    await store.enter(message)
    await store.delete([message.queue_id])
    assert await store.knows_token("1000.abc")
    again = make_message(store)
    again.token = "1000.abc"
    with pytest.raises(AlreadyEntered):
        await store.enter(again)
    assert await store.get(again.queue_id) is None
    await store.forget_tokens(message.arrival)
    assert await store.knows_token("1000.abc")
    await store.forget_tokens(message.arrival + 1)
    assert not await store.knows_token("1000.abc")


async def test_watchers_are_asked_and_told(store: QueueStore) -> None:
    watcher = Recording("me")
    store.watch(watcher)
    message = make_message(store)
    await store.enter(message)
    assert watcher.calls == [("entered", message.queue_id)]
    assert await store.claim("you", 60, 10) == []
    watcher.owner, watcher.calls = None, []
    await store.enter(make_message(store))
    assert watcher.calls == [("arrived", None)]
    watcher.calls = []
    await store.hold([message.queue_id])
    assert watcher.calls == [("withdrawn", [message.queue_id])]


async def test_progress_of_one_recipient_after_the_other(store: QueueStore) -> None:
    addresses = [f'"q\\"{n}"@example.net' for n in range(70)]
    message = make_message(store, *addresses)
    message.recipients[3].orig_to, message.recipients[3].via = "list@example.net", ("list",)
    await store.enter(message, claim_for="me")
    first, second, third, *rest = message.recipients
    retry = Retry(second, message.arrival + 500, BUSY, waits_for="smtp:x")
    assert await store.apply("me", [Result(message, [(first, DONE)], [retry])]) == set()
    entry = await store.get(message.queue_id)
    assert entry is not None
    assert entry.queue == "active"
    assert [r.address for r in entry.recipients] == addresses[1:]
    assert [r.reason for r in entry.recipients[:2]] == ["busy", ""]
    assert entry.recipients[2].orig_to == "list@example.net"
    result = Result(message, [(r, DONE) for r in (third, *rest)], release=True)
    assert await store.apply("me", [result]) == set()
    assert await store.wake_waiting("smtp:x") == 1
    (again,) = await store.claim("you", 60, 5)
    assert [r.address for r in again.recipients] == [second.address]
    assert again.whole
    assert again.recipients[0].attempts == 1
    last = Result(again, [(again.recipients[0], DONE)], release=True, complete=True)
    assert await store.apply("you", [last]) == {message.queue_id}
    assert await listed(store) == []


async def test_only_a_part_of_a_message_is_due(store: QueueStore) -> None:
    message = make_message(store, "a@example.net", "b@example.net")
    await store.enter(message, claim_for="me")
    retries = [
        Retry(recipient, message.arrival + wait, BUSY)
        for recipient, wait in zip(message.recipients, (-5, 5e9), strict=True)
    ]
    await store.apply("me", [Result(message, [], retries, release=True)])
    (part,) = await store.claim("me", 60, 5)
    assert [r.address for r in part.recipients] == ["a@example.net"]
    assert not part.whole
    result = Result(part, [(part.recipients[0], DONE)], release=True)
    assert await store.apply("me", [result]) == set()
    assert await listed(store, "deferred") == [message.queue_id]


async def test_content_comes_along_as_far_as_there_is_room(store: QueueStore) -> None:
    messages = [make_message(store, body=b"%d" % n * 1000) for n in range(3)]
    for message in messages:
        await store.enter(message)
    claimed = await store.claim("me", 60, 5, octets=messages[0].size * 2 + 10)
    assert [m.content is None for m in claimed] == [False, False, True]
    for message, got in zip(messages[:2], claimed[:2], strict=True):
        assert message.content is not None
        assert got.content is not None
        assert read_all(got.content) == read_all(message.content)
