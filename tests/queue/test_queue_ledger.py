"""The ledger: what came in is what became of it and what is there, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import apsw
import pytest
from queue_fakes import OK, make_log, make_message
from queue_faults import Plan, fault_vfs

from resel_mta.disk import Disk
from resel_mta.mail import (
    Bounced,
    Deferred,
    Delivered,
    Expanded,
    Message,
    Outcome,
    Recipient,
    Relayed,
    Reply,
    TempFail,
)
from resel_mta.queue import changes, ledger
from resel_mta.queue.audit import IN, OUT, Audit, audit_from_row, report
from resel_mta.queue.door import Result, Retry
from resel_mta.queue.salvage import salvage
from resel_mta.queue.sqlite import SQLiteStore

BUSY = Deferred(Reply(450, "4.2.1", "busy"), relay="mx[192.0.2.1]:25")
TAKEN = Relayed(OK, "mx.example.net", "mx.example.net[192.0.2.1]:25")
NO = Bounced(Reply(550, "5.1.1", "no such user"), relay="mx[192.0.2.1]:25")
PIPED = Delivered(Reply(250, "2.0.0", "delivered to command: procmail"), relay="local")
NOBODY = Expanded(Reply(250, "2.0.0", "expands to nobody"), relay="local")
LARGE = b"0123456789abcde\r\n" * 12_000


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def entered(store: SQLiteStore, *to: str, owner: str | None = "me", **facts: int) -> Message:
    message = make_message(store, *to)
    for name, value in facts.items():
        setattr(message, name, value)
    await store.enter(message, claim_for=owner)
    return message


async def finish(store: SQLiteStore, message: Message, *outcomes: Outcome) -> None:
    """In the quick way if nothing failed."""
    done = list(zip(message.recipients, outcomes, strict=False))
    complete = len(outcomes) == len(message.recipients) and not any(
        isinstance(outcome, Bounced | Deferred) for outcome in outcomes
    )
    await store.apply("me", [Result(message, done, release=True, complete=complete)])


def terms(audit: Audit) -> dict[str, int]:
    """Those that are not 0."""
    shown = {**audit.counts, "queued": audit.queued, "held": audit.held, "opening": audit.opening}
    return {name: count for name, count in shown.items() if count}


async def test_every_term(tmp_path: Path, clock: Clock) -> None:
    store = await SQLiteStore.open(tmp_path, clock=clock)
    await finish(store, await entered(store, "a@x", "b@x"), Delivered(OK), Relayed(OK))
    await finish(store, await entered(store, "c@x"), PIPED)
    await entered(store, "a@x", "b@x", "c@x", named=1, owner=None)
    # Two were the same person; an alias made two of one; another one names nobody.
    held = await entered(store, "d@x", named=3, merged=2, owner=None)
    await entered(store, "k@x", "l@x", named=2, merged=1, owner=None)
    await entered(store, "m@x", named=3, merged=1, owner=None)
    await store.hold([held.queue_id])
    bounced = await entered(store, "e@x", "f@x")
    notice = make_message(store, sender="")
    notice.generated = True
    done = [(bounced.recipients[0], NO), (bounced.recipients[1], BUSY)]
    await store.apply("me", [Result(bounced, done, notices=[notice], release=True)])
    deleted = await entered(store, "g@x", "h@x", owner=None)
    await store.delete([deleted.queue_id], keep=True)
    await store.dropped(4)
    await finish(store, await entered(store, "alias@x"), NOBODY)
    await entered(store, "i@x", "j@x", named=0, owner=None)
    audit = await store.audit(0)
    assert terms(audit) == {
        "accepted": 2 + 1 + 1 + 3 + 2 + 3 + 2 + 2 + 4 + 1,
        "expanded": 2 + 1 + 2,
        "generated": 1,
        "delivered": 1,
        "relayed": 1,
        "piped": 1,
        "merged": 2 + 1 + 1,
        "bounced": 1,
        "expired": 1,
        "deleted": 1 + 2 + 4 + 1,
        "queued": 3 + 2 + 1 + 1 + 2,
        "held": 1,
    }
    assert audit.is_balanced
    await store.close()


async def test_trash_and_back(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    names = [(await entered(store, owner=None)).queue_id for _ in range(4)]
    await store.delete(names[:3], keep=True)
    await store.undelete(names[:1])
    await store.delete(names[1:2])
    await store.purge(1e12, 10)
    await store.delete(names[3:])
    audit = await store.audit(0)
    assert terms(audit) == {"accepted": 4, "deleted": 3, "queued": 1}
    assert audit.is_balanced
    await store.close()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("large", [True, False])
async def test_deleted_while_it_was_delivered(tmp_path: Path, keep: bool, large: bool) -> None:
    store = await SQLiteStore.open(tmp_path)
    messages = []
    for _ in range(3):
        message = make_message(store, "a@x", "b@x", body=LARGE if large else b"x\r\n")
        await store.enter(message, claim_for="me")
        messages.append(message)
    await store.delete([message.queue_id for message in messages], keep=keep)
    whole, part, failed = messages
    await finish(store, whole, Relayed(OK), Relayed(OK))
    first, second = part.recipients
    retry = Retry(second, part.arrival + 9, BUSY)
    await store.apply("me", [Result(part, [(first, Relayed(OK))], [retry], release=True)])
    await finish(store, failed, NO, NO)
    audit = await store.audit(0)
    assert audit.is_balanced
    assert audit.counts["relayed"] == (3 if keep else 0)
    assert audit.counts["bounced"] == 0
    await store.undelete()
    audit = await store.audit(0)
    assert audit.is_balanced
    assert audit.queued == (3 if keep else 0)
    await store.close()


async def test_since(tmp_path: Path, clock: Clock) -> None:
    store = await SQLiteStore.open(tmp_path, clock=clock)
    start = clock.now
    for hour in range(5):
        clock.now = start + hour * 3600
        await entered(store, "a@x")
        await finish(store, await entered(store, "b@x"), Relayed(OK))
    audit = await store.audit(start + 2 * 3600)
    assert terms(audit) == {"opening": 2, "accepted": 6, "relayed": 3, "queued": 5}
    assert audit.since == start + 2 * 3600
    assert audit.is_balanced
    await store.forget_ledger(start + 3 * 3600)
    audit = await store.audit(0)
    assert terms(audit) == {"opening": 3, "accepted": 4, "relayed": 2, "queued": 5}
    assert audit.since == start + 3 * 3600
    await store.close()
    clock.now -= 7200
    store = await SQLiteStore.open(tmp_path, clock=clock)
    await finish(store, await entered(store, "b@x"), Relayed(OK))
    assert (await store.audit(0)).is_balanced
    await store.close()


async def test_a_queue_from_before_the_ledger_is_taken_as_it_is(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    await entered(store, "a@x", "b@x")
    await store.close()
    by_hand(tmp_path, "DELETE FROM ledger")
    for _ in range(2):
        store = await SQLiteStore.open(tmp_path)
        (message,) = await store.claim("me", 60, 10)
        audit = await store.audit(0)
        assert audit.is_balanced
        assert audit.queued == 2
        await store.close()
    store = await SQLiteStore.open(tmp_path)
    (message,) = await store.claim("me", 60, 10)
    await finish(store, message, Relayed(OK), Relayed(OK))
    audit = await store.audit(0)
    assert terms(audit) == {"opening": 2, "relayed": 2}
    assert audit.is_balanced
    await store.close()


def by_hand(directory: Path, *statements: str) -> None:
    db = apsw.Connection(str(directory / "queue.db"))
    for statement in statements:
        db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM message WHERE id = {}", "its envelope is missing"),
        ("DELETE FROM content WHERE id = {}", "its content is missing"),
    ],
)
async def test_a_row_removed_by_hand_is_noticed(tmp_path: Path, statement: str, words: str) -> None:
    store = await SQLiteStore.open(tmp_path)
    names = [(await entered(store, owner=None)).queue_id for _ in range(50)]
    await store.close()
    by_hand(tmp_path, statement.format(int(names[17], 16)))
    store = await SQLiteStore.open(tmp_path)
    audit = await store.audit(0)
    await store.close()
    assert not audit.is_balanced
    assert audit.damaged == {names[17]: words}
    lines = [line for line in report(audit) if names[17] in line]
    assert len(lines) == 1
    assert words in lines[0]


async def test_a_message_removed_by_hand_without_trace_is_named(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    names = [(await entered(store, "a@x", "b@x", owner=None)).queue_id for _ in range(50)]
    await store.close()
    number = int(names[17], 16)
    by_hand(
        tmp_path,
        f"DELETE FROM message WHERE id = {number}",
        f"DELETE FROM content WHERE id = {number}",
    )
    store = await SQLiteStore.open(tmp_path)
    # It goes on from there, and does not forget.
    for message in await store.claim("me", 60, 10):
        await finish(store, message, Relayed(OK), Delivered(OK))
    audit = await store.audit(0)
    await store.close()
    assert audit.difference == 2
    assert audit.missing == [names[17]]
    assert audit.unknown == []
    text = "\n".join(report(audit))
    assert "It does NOT balance: 2 recipients are missing." in text
    assert f"{names[17]} of " in text


async def test_recipients_removed_by_hand_are_noticed(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    message = await entered(store, "a@x", "b@x", "c@x")
    retries = [Retry(recipient, message.arrival + 9, BUSY) for recipient in message.recipients]
    await store.apply("me", [Result(message, [], retries, release=True)])
    await store.close()
    by_hand(tmp_path, "DELETE FROM recipient WHERE row = 2")
    store = await SQLiteStore.open(tmp_path)
    audit = await store.audit(0)
    await store.close()
    assert audit.difference == 1
    assert audit.damaged == {message.queue_id: "some of its recipients are missing"}


async def test_a_message_that_never_came_in_is_noticed(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    message = await entered(store, owner=None)
    number = int(message.queue_id, 16)
    await store.close()
    columns = [row[1] for row in rows(tmp_path, "PRAGMA table_info(message)")][1:]
    names = ",".join(str(name) for name in columns)
    by_hand(
        tmp_path,
        f"INSERT INTO message(id,{names}) SELECT id + 1,{names} FROM message",
        f"INSERT INTO content SELECT {number + 1}, header, body FROM content",
    )
    store = await SQLiteStore.open(tmp_path)
    audit = await store.audit(0)
    await store.close()
    assert audit.unknown == [f"{number + 1:X}"]
    assert audit.difference == -1


def rows(directory: Path, query: str) -> list[tuple[object, ...]]:
    db = apsw.Connection(str(directory / "queue.db"))
    found = db.execute(query).fetchall()
    db.close()
    return list(found)


async def test_many_lost_are_not_all_named(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    await asyncio.gather(*(entered(store, owner=None) for _ in range(600)))
    await store.close()
    by_hand(tmp_path, "DELETE FROM message", "DELETE FROM content")
    store = await SQLiteStore.open(tmp_path)
    audit = await store.audit(0)
    await store.close()
    assert audit.difference == 600
    assert not audit.named
    assert "more messages than can be named" in "\n".join(report(audit))


@pytest.mark.parametrize("together", [True, False])
async def test_the_last_word_comes_before_another(tmp_path: Path, together: bool) -> None:
    store = await SQLiteStore.open(tmp_path)
    message = await entered(store, "a@x", "b@x")
    first, second = message.recipients
    notice = make_message(store, sender="")
    notice.generated = True
    part = Result(message, [(first, Relayed(OK))], notices=[notice])
    last = Result(message, [(second, Relayed(OK))], release=True, complete=True)
    if together:
        await store.apply("me", [part, last])
    else:
        await store.apply("me", [last])
        await store.apply("me", [part])
    audit = await store.audit(0)
    assert audit.is_balanced
    assert terms(audit) == {"accepted": 2, "generated": 1, "relayed": 2, "queued": 1}
    await store.close()


async def test_an_audit_in_the_middle_of_the_load(tmp_path: Path) -> None:
    """What it sees is of one moment, whatever else is in its group."""
    store = await SQLiteStore.open(tmp_path)
    old = [await entered(store, "a@x", "b@x") for _ in range(20)]

    async def look() -> Audit:
        return await store.audit(0)

    jobs = []
    for message in old:
        jobs += [look(), entered(store, "c@x"), finish(store, message, Relayed(OK), NO)]
    audits = [each for each in await asyncio.gather(*jobs) if isinstance(each, Audit)]
    assert len(audits) == 20
    assert all(audit.is_balanced for audit in audits)
    await store.close()


async def test_an_interval_that_ends_between_an_audit_and_its_commit(
    tmp_path: Path, clock: Clock
) -> None:
    store = await SQLiteStore.open(tmp_path, clock=clock)
    message = await entered(store)

    async def wait() -> None:
        def operation(db: apsw.Connection) -> None:
            clock.now += ledger.INTERVAL

        await store._writer.submit(operation)

    # In one group, in this order.
    _, audit, _ = await asyncio.gather(finish(store, message, TAKEN), store.audit(0), wait())
    for found in (audit, await store.audit(0)):
        assert found.is_balanced
        assert terms(found) == {"accepted": 1, "relayed": 1}
    assert (await store.audit(clock.now)).counts["relayed"] == 0
    await store.close()


async def test_a_job_that_fails_counts_for_nothing(tmp_path: Path) -> None:
    """The group is done again job by job; one of them is rolled back alone."""
    store = await SQLiteStore.open(tmp_path)
    first = make_message(store)
    first.token = "t"
    again = make_message(store)
    again.token = "t"
    others = [make_message(store) for _ in range(5)]
    results = await asyncio.gather(
        *(store.enter(message) for message in (first, again, *others)), return_exceptions=True
    )
    assert sum(isinstance(result, Exception) for result in results) == 1
    audit = await store.audit(0)
    assert terms(audit) == {"accepted": 6, "queued": 6}
    assert audit.is_balanced
    await store.close()


async def test_a_disk_that_fails_now_and_then(tmp_path: Path) -> None:
    """Whatever a failed commit did, each recipient is counted once."""
    plan = Plan(tmp_path)
    chance = random.Random(1)
    log, _ = make_log()
    with fault_vfs(plan) as vfs:
        store = await SQLiteStore.open(tmp_path, vfs=vfs, log=log)
        waiting: list[Message] = []
        for turn in range(120):
            plan.database_error = apsw.IOError if chance.random() < 0.15 else None
            with contextlib.suppress(TempFail):
                waiting.append(await entered(store, "a@x", "b@x"))
            if turn % 3 == 0 and waiting:
                message = waiting.pop(0)
                outcomes = (Relayed(OK), chance.choice([Relayed(OK), NO]))
                for _ in range(20):
                    try:
                        await finish(store, message, *outcomes)
                        break
                    except TempFail:
                        plan.database_error = None
        plan.database_error = None
        audit = await store.audit(0)
        await store.close()
    assert audit.is_balanced, "\n".join(report(audit))
    assert audit.counts["relayed"] >= 40


async def test_damage_that_cost_messages_is_told(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    messages = [make_message(store, body=b"x" * 3000 + b"\r\n") for _ in range(200)]
    await asyncio.gather(*(store.enter(message) for message in messages))
    names = [message.queue_id for message in messages]
    await store.close()
    path = tmp_path / "queue.db"
    data = bytearray(path.read_bytes())
    # A page of envelopes; the first that has the text is the table's root, from before it grew.
    place = data.rindex(messages[100].envelope.reverse_path.encode()) // 4096 * 4096
    data[place : place + 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    text = salvage(str(path), tmp_path / "corrupt", Disk(), None)
    assert "only the content is left" in text
    store = await SQLiteStore.open(tmp_path)
    left = {entry.queue_id async for entry in store.walk()}
    audit = await store.audit(0)
    await store.close()
    assert audit.difference == 200 - len(left) > 0
    assert not audit.named or audit.missing == [name for name in names if name not in left]


def made(change: Callable[[Audit], None] = lambda audit: None) -> Audit:
    audit = Audit(1_800_000_000.0, 1_800_003_600.0, opening=2)
    audit.counts = dict.fromkeys(IN + OUT, 0) | {"accepted": 10, "relayed": 9}
    audit.queued = 3
    change(audit)
    return audit


def test_report() -> None:
    lines = list(report(made()))
    assert lines[0].startswith("Recipients since ")
    assert "          10  accepted from clients and programs" in lines
    assert "          12" in lines
    assert lines[-1] == "It balances: nothing is missing."
    assert not any("damaged" in line for line in lines)

    def lose(audit: Audit) -> None:
        audit.queued, audit.corrupt = 1, 1

    lines = list(report(made(lose)))
    assert "           1  damaged, set aside" in lines
    assert "It does NOT balance: 1 recipient is missing." in lines


def test_an_audit_survives_its_way_from_the_daemon() -> None:
    audit = made()
    audit.damaged["1F7A3B2C0D4"] = "its content is missing"
    assert audit_from_row(json.loads(json.dumps(asdict(audit)))) == audit


async def test_added_recipients(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    message = await entered(store, "list@x")
    result = Result(
        message,
        [(message.recipients[0], Expanded(OK))],
        added=[Recipient("a@x"), Recipient("b@x")],
        release=True,
    )
    await store.apply("me", [result])
    audit = await store.audit(0)
    assert terms(audit) == {"accepted": 1, "expanded": 1, "queued": 2}
    assert audit.is_balanced
    await store.close()


@pytest.mark.parametrize("keep", [True, False])
async def test_deleted_after_it_was_set_aside_under_way(tmp_path: Path, keep: bool) -> None:
    """Setting it aside takes the claim away; who delivers it has read it before."""
    store = await SQLiteStore.open(tmp_path)
    message = await entered(store, "a@x", "b@x")
    number = int(message.queue_id, 16)
    await store._writer.submit(lambda db: changes.mark_corrupt(db, number))
    await store.delete([message.queue_id], keep=keep)
    await finish(store, message, TAKEN, TAKEN)
    audit = await store.audit(0)
    assert audit.is_balanced, "\n".join(report(audit))
    assert audit.counts["relayed"] == (2 if keep else 0)
    await store.close()
