"""Steps whose commit failed: whether it reached the disk or not, they are done once, with their
notices, which are neither lost nor sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    read_all,
    until,
    what_is_queued,
)
from queue_faults import Plan, fault_vfs
from queue_house import BUSY, UNKNOWN

from resel_mta.config import Settings
from resel_mta.mail import Message, Outcome, Recipient, Relayed, Route, TempFail
from resel_mta.queue import recorder
from resel_mta.queue.door import Result, Retry
from resel_mta.queue.scheduler import Scheduler
from resel_mta.queue.sqlite import SQLiteStore

TAKEN = Relayed(OK, "mx.example.net", "mx.example.net[192.0.2.1]:25")
LARGE = b"0123456789abcde\r\n" * 12_000


@dataclass
class FailingQueue:
    store: SQLiteStore
    plan: Plan
    log: list[str]

    def fail(self, *, committed: bool) -> None:
        """The next commits fail: all is written and not synced; or nothing is written."""
        if committed:
            self.plan.database_error = apsw.IOError
        else:
            self.plan.stop_at = self.plan.count + 1

    def repair(self) -> None:
        self.plan.database_error, self.plan.stop_at = None, 0

    async def entered(self, *to: str) -> Message:
        message = make_message(self.store, *to)
        await self.store.enter(message, claim_for="me")
        return message

    def notice(self, body: bytes = b"sorry\r\n") -> Message:
        notice = make_message(self.store, "sender@example.org", sender="", body=body)
        notice.generated = True
        return notice

    async def apply_in_vain(self, result: Result, *, committed: bool) -> None:
        self.fail(committed=committed)
        with pytest.raises(TempFail):
            await self.store.apply("me", [result])
        self.repair()

    async def apply_beside(self, result: Result, *, committed: bool) -> None:
        """In vain, in one commit with a message, so that there is something to write."""
        self.fail(committed=committed)
        answers = await asyncio.gather(
            self.store.enter(make_message(self.store)),
            self.store.apply("me", [result]),
            return_exceptions=True,
        )
        self.repair()
        assert [type(answer) for answer in answers] == [TempFail, TempFail]

    async def apply_twice(self, result: Result, *, committed: bool) -> set[str]:
        await self.apply_in_vain(result, committed=committed)
        return await self.store.apply("me", [result])


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[FailingQueue]:
    plan = Plan(tmp_path)
    with fault_vfs(plan) as vfs:
        log, lines = make_log()
        store = await SQLiteStore.open(tmp_path, vfs=vfs, log=log)
        yield FailingQueue(store, plan, lines)
        plan.database_error, plan.stop_at = None, 0
        await store.close()


@dataclass
class FakeWatcher:
    """Takes every message, like a scheduler that has room."""

    owner: str = "me"
    admitted: int = 0
    arrivals: int = 0
    begun: list[str] = field(default_factory=list)

    def admit(self, message: Message) -> str:
        self.admitted += 1
        return self.owner

    def entered(self, message: Message) -> None:
        self.admitted -= 1
        self.begun.append(message.queue_id)

    def refused(self, message: Message) -> None:
        self.admitted -= 1

    def arrived(self) -> None:
        self.arrivals += 1

    def withdrawn(self, queue_ids: Sequence[str]) -> None:
        """Nothing is active here."""

    def restored(self, claimed: Sequence[str]) -> None:
        """Nothing is damaged here."""


both = pytest.mark.parametrize("committed", [True, False])


@both
@pytest.mark.parametrize("body", [b"sorry\r\n", LARGE], ids=["small", "large"])
async def test_the_bounce_of_what_is_gone(
    queue: FailingQueue, committed: bool, body: bytes
) -> None:
    message, notice = await queue.entered(), queue.notice(body)
    result = Result(message, [(message.recipients[0], UNKNOWN)], notices=[notice], release=True)
    assert await queue.apply_twice(result, committed=committed) == {message.queue_id}
    assert await what_is_queued(queue.store) == {notice.queue_id: ["sender@example.org"]}
    found = await queue.store.load(notice.queue_id)
    assert found is not None
    assert found.content is not None
    assert read_all(found.content).endswith(body)
    assert await ledger_counts(queue.store) == {"accepted": 1, "generated": 1, "bounced": 1}


@both
async def test_the_bounce_of_what_has_recipients_left(queue: FailingQueue, committed: bool) -> None:
    message, notice = await queue.entered("a@example.net", "b@example.net"), queue.notice()
    first, second = message.recipients
    retries = [Retry(second, message.arrival + 900, BUSY)]
    result = Result(message, [(first, UNKNOWN)], retries, notices=[notice], release=True)
    assert await queue.apply_twice(result, committed=committed) == set()
    assert await what_is_queued(queue.store) == {
        message.queue_id: ["b@example.net"],
        notice.queue_id: ["sender@example.org"],
    }
    entry = await queue.store.get(message.queue_id)
    assert entry is not None
    assert [recipient.attempts for recipient in entry.recipients] == [1]
    assert await ledger_counts(queue.store) == {"accepted": 2, "generated": 1, "bounced": 1}


@both
async def test_a_delay_warning(queue: FailingQueue, committed: bool) -> None:
    """Nothing of it is done for good, and still it is told once."""
    message, notice = await queue.entered(), queue.notice()
    retries = [Retry(message.recipients[0], message.arrival + 900, BUSY)]
    result = Result(message, [], retries, notices=[notice], release=True, warned=True)
    await queue.apply_twice(result, committed=committed)
    assert set(await what_is_queued(queue.store)) == {message.queue_id, notice.queue_id}
    found = await queue.store.load(message.queue_id)
    assert found is not None
    assert found.warned
    assert await ledger_counts(queue.store) == {"accepted": 1, "generated": 1}


@both
async def test_a_notice_of_success(queue: FailingQueue, committed: bool) -> None:
    message, notice = await queue.entered("a@example.net", "b@example.net"), queue.notice()
    first, second = message.recipients
    part = Result(message, [(first, TAKEN)], notices=[notice])
    last = Result(message, [(second, TAKEN)], release=True, complete=True)
    assert await queue.apply_twice(part, committed=committed) == set()
    assert await queue.store.apply("me", [last]) == {message.queue_id}
    assert set(await what_is_queued(queue.store)) == {notice.queue_id}
    assert await ledger_counts(queue.store) == {"accepted": 2, "generated": 1, "relayed": 2}


@both
@pytest.mark.parametrize("body", [b"sorry\r\n", LARGE], ids=["small", "large"])
async def test_a_notice_that_was_sent_before_the_next_try(
    queue: FailingQueue, committed: bool, body: bytes
) -> None:
    watcher = FakeWatcher()
    queue.store.watch(watcher)
    message, notice = await queue.entered("a@example.net", "b@example.net"), queue.notice(body)
    first, second = message.recipients
    retries = [Retry(second, message.arrival + 900, BUSY)]
    result = Result(message, [(first, UNKNOWN)], retries, notices=[notice], release=True)
    await queue.apply_in_vain(result, committed=committed)
    arrivals = watcher.arrivals
    claimed = await queue.store.claim("me", 60, 10)
    assert [found.queue_id for found in claimed] == ([notice.queue_id] if committed else [])
    for found in claimed:
        # Whoever waits for mail was told that there is some.
        assert watcher.arrivals > arrivals
        done = [(found.recipients[0], TAKEN)]
        await queue.store.apply("me", [Result(found, done, release=True, complete=True)])
    await queue.apply_beside(result, committed=committed)
    assert await queue.store.apply("me", [result]) == set()
    assert watcher.begun == ([] if committed else [notice.queue_id])
    assert watcher.admitted == 0
    assert set(await what_is_queued(queue.store)) == {message.queue_id} | set(watcher.begun)
    assert (await ledger_counts(queue.store)).get("relayed", 0) == committed


async def test_a_notice_under_way_is_not_given_to_another(queue: FailingQueue) -> None:
    queue.store.watch(FakeWatcher())
    message, notice = await queue.entered(), queue.notice()
    result = Result(message, [(message.recipients[0], UNKNOWN)], notices=[notice], release=True)
    for _ in range(2):
        await queue.apply_beside(result, committed=True)
        await queue.store.claim("me", 60, 10)
    assert await queue.store.apply("me", [result]) == {message.queue_id}
    assert await queue.store.claim("other", 60, 10) == []


async def test_a_full_disk_that_took_it_all_the_same(queue: FailingQueue) -> None:
    """What it left in the log is read again when the database is opened anew."""
    message, notice = await queue.entered(), queue.notice()
    result = Result(message, [(message.recipients[0], UNKNOWN)], notices=[notice], release=True)
    queue.plan.database_error = apsw.FullError
    with pytest.raises(TempFail):
        await queue.store.apply("me", [result])
    queue.plan.database_error = None
    assert await queue.apply_twice(result, committed=False) == {message.queue_id}
    assert set(await what_is_queued(queue.store)) == {notice.queue_id}
    assert await ledger_counts(queue.store) == {"accepted": 1, "generated": 1, "bounced": 1}


async def test_the_last_word_comes_first_and_a_commit_fails_after_it(queue: FailingQueue) -> None:
    message, notice = await queue.entered("a@example.net", "b@example.net"), queue.notice()
    first, second = message.recipients
    last = Result(message, [(second, TAKEN)], release=True, complete=True)
    assert await queue.store.apply("me", [last]) == {message.queue_id}
    # Its notice took longer to make.
    part = Result(message, [(first, TAKEN)], notices=[notice])
    for committed in (True, False):
        queue.fail(committed=committed)
        with pytest.raises(TempFail):
            await queue.entered()
        queue.repair()
    assert await queue.store.apply("me", [part]) == {message.queue_id}
    assert set(await what_is_queued(queue.store)) == {notice.queue_id}
    assert await ledger_counts(queue.store) == {"accepted": 2, "generated": 1, "relayed": 2}


@both
@pytest.mark.parametrize("keep", [True, False])
async def test_nobody_is_told_of_what_was_deleted_meanwhile(
    queue: FailingQueue, committed: bool, keep: bool
) -> None:
    message, notice = await queue.entered(), queue.notice()
    result = Result(message, [(message.recipients[0], UNKNOWN)], notices=[notice], release=True)
    await queue.store.delete([message.queue_id], keep=keep)
    await queue.apply_beside(result, committed=committed)
    assert await queue.store.apply("me", [result]) == {message.queue_id}
    assert await what_is_queued(queue.store) == {}
    assert await ledger_counts(queue.store) == {"accepted": 1, "deleted": 1}


async def test_the_scheduler_sends_the_bounce(
    queue: FailingQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "RETRY_AFTER", 0.01)
    log, _ = make_log()
    smtp, store = FakeTransport(), queue.store
    bad = "nobody@example.net"

    def answer(message: Message, recipient: Recipient, route: Route) -> Outcome:
        if recipient.address != bad:
            return TAKEN
        queue.fail(committed=True)
        return UNKNOWN

    smtp.answer = answer
    settings = Settings.build(myhostname="mail.example.org")
    scheduler = Scheduler(settings, store, FakeRouter(), {"smtp": smtp}, FakeIntake(store), log)
    await scheduler.start()
    await store.enter(make_message(store, bad))
    await until(lambda: any("queue database: IOError" in line for line in queue.log))
    queue.repair()
    await until(lambda: any(to == ["sender@example.org"] for _, to in smtp.deliveries))
    await until(lambda: not scheduler.active)
    await scheduler.stop(5)
    assert [to for _, to in smtp.deliveries].count(["sender@example.org"]) == 1
    assert await what_is_queued(queue.store) == {}


@both
async def test_what_is_given_back_is_claimed_by_nobody_before_that_is_known(
    queue: FailingQueue, committed: bool
) -> None:
    """Requeued while it was delivered, it is due at once: when it is given back once more, that
    must not take it from whoever has it by then."""
    message = await queue.entered()
    await queue.store.requeue([message.queue_id])
    result = Result(message, release=True)
    # With others, so that there is something to write.
    await queue.apply_beside(result, committed=committed)
    assert await queue.store.claim("me", 60, 10) == []
    assert await queue.store.apply("me", [result]) == set()
    claimed = await queue.store.claim("me", 60, 10)
    assert [found.queue_id for found in claimed] == [message.queue_id]
    assert await queue.store.claim("other", 60, 10) == []
