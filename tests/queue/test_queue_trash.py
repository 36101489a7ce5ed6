"""Deleted mail that can be brought back, on the in-memory queue and on the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from queue_fakes import OK, MemoryStore, make_log, make_message, read_all, until

from resel_mta.config import Settings
from resel_mta.mail import Bounced, Deferred, Delivered, Message, Reply, TempFail
from resel_mta.queue import housekeeping
from resel_mta.queue.door import QueueStore, Result, Retry
from resel_mta.queue.housekeeping import Housekeeper
from resel_mta.queue.sqlite import SQLiteStore

BUSY = Deferred(Reply(450, "4.2.1", "busy"), relay="mx[192.0.2.1]:25")
DONE = Delivered(OK)
NO = Bounced(Reply(550, "5.1.1", "no such user"), relay="mx[192.0.2.1]:25")
LARGE = b"0123456789abcde\r\n" * 12_000


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


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


async def entered(store: QueueStore, *to: str, body: bytes = b"hello\r\n") -> Message:
    message = make_message(store, *to, body=body)
    await store.enter(message)
    return message


async def claimed(store: QueueStore, *to: str) -> Message:
    message = make_message(store, *to)
    await store.enter(message, claim_for="me")
    return message


async def test_deleted_mail_is_out_of_sight_and_comes_back(store: QueueStore) -> None:
    large = await entered(store, body=LARGE)
    other = await entered(store)
    assert await store.delete([large.queue_id, "F00"], keep=True) == [large.queue_id]
    assert await listed(store) == [other.queue_id]
    assert await listed(store, "trash") == [large.queue_id]
    entry = await store.get(large.queue_id)
    assert entry is not None
    assert (entry.queue, entry.deleted) == ("trash", 1_800_000_000.0)
    assert [m.queue_id for m in await store.claim("me", 60, 10)] == [other.queue_id]
    stats = await store.stats()
    assert (stats.incoming, stats.active, stats.deferred) == (0, 1, 0)

    assert await store.undelete([large.queue_id, other.queue_id]) == [large.queue_id]
    assert await listed(store, "trash") == []
    (again,) = await store.claim("me", 60, 10)
    assert again.queue_id == large.queue_id
    assert read_all(await store.content(again)).endswith(LARGE)


async def test_nothing_else_touches_the_trash(store: QueueStore) -> None:
    message = await entered(store)
    ids = [message.queue_id]
    assert await store.delete(keep=True) == ids
    for verb in (store.hold, store.release, store.requeue, store.wake):
        for chosen in (ids, None):
            assert not await verb(chosen)
    assert await store.delete(ids, keep=True) == []
    assert await store.delete() == []
    assert await listed(store, "trash") == ids


async def test_held_mail_comes_back_on_hold(store: QueueStore) -> None:
    message = await entered(store)
    await store.hold()
    await store.delete(keep=True)
    await store.undelete()
    assert await listed(store, "hold") == [message.queue_id]
    assert await store.claim("me", 60, 10) == []


async def test_a_delivery_that_was_under_way_counts(store: QueueStore) -> None:
    message = await claimed(store, "a@x.net", "b@x.net")
    await store.delete([message.queue_id], keep=True)
    first, second = message.recipients
    retry = Retry(second, message.arrival + 600, BUSY)
    result = Result(message, [(first, DONE)], [retry], release=True)
    await store.apply("me", [result])
    assert await listed(store) == []
    await store.undelete()
    (again,) = await store.claim("me", 60, 10)
    assert [r.address for r in again.recipients] == ["b@x.net"]


async def test_delivered_meanwhile_is_gone_for_good(store: QueueStore) -> None:
    message = await claimed(store)
    await store.delete([message.queue_id], keep=True)
    done = [(message.recipients[0], DONE)]
    result = Result(message, done, release=True, complete=True)
    assert await store.apply("me", [result]) == {message.queue_id}
    assert await listed(store, "trash") == []
    assert await store.undelete([message.queue_id]) == []


async def test_nobody_is_told_of_what_was_deleted(store: QueueStore) -> None:
    message = await claimed(store)
    await store.delete([message.queue_id], keep=True)
    notice = make_message(store, sender="")
    done = [(message.recipients[0], NO)]
    result = Result(message, done, notices=[notice], release=True)
    assert await store.apply("me", [result]) == {message.queue_id}
    assert await listed(store) == []
    assert await store.undelete() == [message.queue_id]
    assert [r.address for r in (await store.claim("me", 60, 9))[0].recipients] == [
        "rcpt@example.net"
    ]


async def test_restored_while_it_is_delivered_is_begun_once(store: QueueStore) -> None:
    message = await claimed(store)
    await store.delete([message.queue_id], keep=True)
    await store.undelete()
    assert await store.claim("me", 60, 10) == []
    done = [(message.recipients[0], DONE)]
    assert await store.apply("me", [Result(message, done, release=True)]) == {message.queue_id}


async def test_the_oldest_goes_first(store: QueueStore, clock: Clock) -> None:
    names = []
    for _ in range(5):
        names.append((await entered(store, body=LARGE)).queue_id)
        await store.delete([names[-1]], keep=True)
        clock.now += 10
    assert await store.purge(clock.now - 45, 100) == 1
    assert await listed(store, "trash") == names[1:]
    assert await store.purge(clock.now, 2) == 2
    assert await listed(store, "trash") == names[3:]
    assert await store.undelete(names) == names[3:]


@pytest.fixture
def files(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: sorted(path.name for path in (tmp_path / "queue/content").glob("*/*"))


async def test_files_stay_as_long_as_the_trash(
    tmp_path: Path, files: Callable[[], list[str]]
) -> None:
    store = await SQLiteStore.open(tmp_path / "queue")
    message = await entered(store, body=LARGE)
    await store.delete(keep=True)
    await store.close()
    store = await SQLiteStore.open(tmp_path / "queue")
    assert files() == [message.queue_id]
    await store.purge(message.arrival + 1e6, 10)
    assert files() == []
    await store.close()


async def test_emptied_trash_gives_its_room_back(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path / "queue")
    for _ in range(40):
        await entered(store, body=b"x" * 100_000)
    await store.delete(keep=True)
    await store.close()
    store = await SQLiteStore.open(tmp_path / "queue")
    before = store.path.stat().st_size
    await store.purge(1e12, 1000)
    after = store.path.stat().st_size
    await store.close()
    assert before > 4_000_000
    assert after < before / 10


@dataclass
class Shortage:
    """A disk that is short until so many messages are gone."""

    store: SQLiteStore
    until: int

    async def is_short(self) -> bool:
        return len(await listed(self.store, "trash")) > self.until

    async def purge(self, before: float, n: int) -> int:
        return await self.store.purge(before, min(n, 2))

    async def forget_ledger(self, before: float) -> None:
        await self.store.forget_ledger(before)

    async def wake_stranded(self, after: float) -> int:
        return await self.store.wake_stranded(after)


async def test_housekeeping_that_fails_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await SQLiteStore.open(tmp_path / "queue")
    looked = 0

    async def purge(before: float, n: int) -> int:
        nonlocal looked
        looked += 1
        if looked == 5:
            raise ValueError("a bug")
        raise TempFail(Reply(452, "4.3.1", "disk full"))

    monkeypatch.setattr(store, "purge", purge)
    monkeypatch.setattr(housekeeping, "LOOK_AFTER", 0.0)
    log, lines = make_log()
    keeper = Housekeeper(Settings.build(), store, log)
    keeper.start()
    await until(lambda: looked > 8)
    await keeper.stop()
    log.flush()
    assert [line for line in lines if "452 4.3.1 disk full" in line] == [lines[0], lines[2]]
    assert "ValueError('a bug')" in lines[1]
    await store.close()


async def test_housekeeping_wakes_what_waits_for_a_time_of_a_wrong_clock(
    store: QueueStore, clock: Clock
) -> None:
    right, wrong, later = [await entered(store) for _ in range(3)]
    await store.hold([later.queue_id])
    log, lines = make_log()
    keeper = Housekeeper(Settings.build(maximal_backoff_time="1h"), store, log)
    for message, ahead in ((right, 3599.0), (wrong, 9 * 365 * 86400.0)):
        [claimed] = await store.claim("me", 60, 1)
        assert claimed.queue_id == message.queue_id
        retry = Retry(claimed.recipients[0], clock.now + ahead, Deferred(Reply(450, "4.2.0", "x")))
        await store.apply("me", [Result(claimed, retries=[retry], release=True)])
    await keeper.tidy(clock.now)
    assert [each.queue_id for each in await store.claim("me", 60, 9)] == [wrong.queue_id]
    log.flush()
    [line] = lines
    assert "a clock in the future has set are due now: 1" in line


async def test_housekeeping(tmp_path: Path, clock: Clock) -> None:
    store = await SQLiteStore.open(tmp_path / "queue", clock=clock)
    names = []
    for _ in range(8):
        names.append((await entered(store)).queue_id)
        await store.delete([names[-1]], keep=True)
        clock.now += 3600
    settings = Settings.build(queue_trash_time="7h")
    log, lines = make_log()
    keeper = Housekeeper(settings, store, log)
    await keeper.tidy(clock.now)
    assert await listed(store, "trash") == names[1:]
    log.flush()
    assert lines == []

    short = Housekeeper(settings, cast(QueueStore, Shortage(store, 4)), log)
    await short.tidy(clock.now)
    assert await listed(store, "trash") == names[5:]
    log.flush()
    assert len(lines) == 1
    assert "4 deleted messages cannot be restored" in lines[0]

    keeper.reconfigure(Settings.build(queue_trash_time="0"))
    await keeper.tidy(clock.now)
    assert await listed(store, "trash") == []
    await store.close()
