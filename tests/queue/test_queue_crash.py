"""Rules 1 to 4 and 6 of the queue, by stopping at every disk operation in turn."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest
from queue_fakes import OK, make_log, make_message, read_all
from queue_faults import FaultDisk, Plan, fault_vfs

from resel_mta.mail import Bounced, Deferred, Delivered, Message, Reply, TempFail
from resel_mta.queue.audit import report
from resel_mta.queue.door import Result, Retry
from resel_mta.queue.spool import SpoolSink
from resel_mta.queue.sqlite import SQLiteStore

SMALL = b"small\r\n"
LARGE = b"0123456789abcde\r\n" * 12_000
BUSY = Deferred(Reply(450, "4.2.1", "busy"))
UNKNOWN = Bounced(Reply(550, "5.1.1", "unknown"))


class Facts:
    """What callers were told. `kept`: messages that must be there, with their bodies."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.maybe: dict[str, bytes] = {}
        self.gone: set[str] = set()
        self.held: set[str] = set()
        self.trashed: set[str] = set()
        self.restored: set[str] = set()
        # original -> notice: where the one is not, the other must be.
        self.either: dict[str, str] = {}

    def forget(self, name: str) -> None:
        """Being removed: from now on it may be there or not."""
        if name in self.kept:
            self.maybe[name] = self.kept.pop(name)


async def enter(store: SQLiteStore, facts: Facts, data: bytes) -> Message:
    sink = store.sink()
    assert isinstance(sink, SpoolSink)
    for start in range(0, len(data), 70_000):
        await sink.write(data[start : start + 70_000])
    message = make_message(store, body=await sink.finish())
    facts.maybe[message.queue_id] = data
    await store.enter(message, claim_for="me")
    facts.kept[message.queue_id] = facts.maybe.pop(message.queue_id)
    return message


async def remove(store: SQLiteStore, facts: Facts, message: Message) -> None:
    facts.forget(message.queue_id)
    done = [(message.recipients[0], Delivered(OK))]
    await store.apply("me", [Result(message, done, release=True)])
    facts.gone.add(message.queue_id)


async def scenario(store: SQLiteStore, facts: Facts) -> None:
    """Accept, deliver, defer, bounce, hold, release, requeue, delete, restore: small and large."""
    for data in (SMALL, LARGE):
        delivered = await enter(store, facts, data)
        deferred = await enter(store, facts, data)
        bounced = await enter(store, facts, data)
        deleted = await enter(store, facts, data)
        await remove(store, facts, delivered)
        retry = Retry(deferred.recipients[0], deferred.arrival + 9, BUSY)
        await store.apply("me", [Result(deferred, retries=[retry], release=True)])
        notice = make_message(store, sender="", body=b"sorry\r\n")
        facts.either[bounced.queue_id] = notice.queue_id
        facts.forget(bounced.queue_id)
        facts.maybe[notice.queue_id] = b"sorry\r\n"
        done = [(bounced.recipients[0], UNKNOWN)]
        await store.apply("me", [Result(bounced, done, notices=[notice], release=True)])
        facts.gone.add(bounced.queue_id)
        await store.hold([deferred.queue_id])
        facts.held.add(deferred.queue_id)
        facts.held.discard(deferred.queue_id)
        await store.release([deferred.queue_id])
        await store.requeue([deferred.queue_id])
        facts.forget(deleted.queue_id)
        await store.delete([deleted.queue_id])
        facts.gone.add(deleted.queue_id)
    thrown = await enter(store, facts, LARGE)
    back = await enter(store, facts, SMALL)
    both = [thrown.queue_id, back.queue_id]
    await store.delete(both, keep=True)
    facts.trashed.add(thrown.queue_id)
    await store.undelete([back.queue_id])
    facts.restored.add(back.queue_id)
    facts.trashed.clear()
    facts.forget(thrown.queue_id)
    await store.purge(1e12, 10)
    facts.gone.add(thrown.queue_id)


async def run(plan: Plan) -> Facts:
    facts = Facts()
    with fault_vfs(plan) as vfs:
        try:
            store = await SQLiteStore.open(plan.root, disk=FaultDisk(plan), vfs=vfs)
        except (OSError, apsw.Error):
            return facts
        try:
            await scenario(store, facts)
        except TempFail:
            assert plan.stop_at
        finally:
            await store.close()
    return facts


async def violations(plan: Plan, facts: Facts, target: Path) -> list[str]:
    """Open what is left and compare it with what callers were told."""
    plan.image(target)
    log, lines = make_log()
    found: list[str] = []
    store = await SQLiteStore.open(target, log=log)
    try:
        present = {entry.queue_id: entry async for entry in store.walk()}
        trash = {entry.queue_id async for entry in store.walk("trash")}
        found += [f"{name} was deleted and is back" for name in facts.trashed - trash]
        found += [f"{name} was restored and is not there" for name in facts.restored & trash]
        audit = await store.audit(0)
        if not audit.is_balanced:
            found += report(audit)
        for name, data in {**facts.kept, **facts.maybe}.items():
            if name not in present and name not in trash:
                if name in facts.kept:
                    found.append(f"{name} was accepted and is lost")
                continue
            try:
                message = await store.load(name)
            except TempFail as failure:
                found.append(f"{name}: {failure.reply}")
                continue
            assert message is not None
            assert message.content is not None
            if not read_all(message.content).endswith(b"\r\n\r\n" + data):
                found.append(f"{name} is not what was accepted")
        found += [f"{name} was removed and is back" for name in facts.gone & set(present)]
        for original, notice in facts.either.items():
            if original not in present and notice not in present:
                found.append(f"{original} bounced without a word")
            if original in present and notice in present:
                found.append(f"{original} is there beside its bounce")
        if any(entry.queue == "active" for entry in present.values()):
            found.append("claims of the dead process are left")
    finally:
        await store.close()
    return [*found, *(line for line in lines if "warning" in line)]


@pytest.mark.timeout(400)
async def test_every_operation(tmp_path: Path) -> None:
    whole = Plan(tmp_path / "whole")
    await run(whole)
    assert whole.count > 60
    for k in range(1, whole.count + 1):
        plan = Plan(tmp_path / f"q{k}", stop_at=k)
        facts = await run(plan)
        assert await violations(plan, facts, tmp_path / f"i{k}") == [], f"stopped at {k}"


@pytest.mark.parametrize("broken", ["no_fsync", "no_directory_sync", "no_database_sync"])
async def test_red_when_a_sync_does_nothing(tmp_path: Path, broken: str) -> None:
    whole = Plan(tmp_path / "whole")
    await run(whole)
    seen: list[str] = []
    for k in range(20, whole.count + 1, 3):
        plan = Plan(tmp_path / f"q{k}", stop_at=k)
        setattr(plan, broken, True)
        facts = await run(plan)
        seen += await violations(plan, facts, tmp_path / f"i{k}")
    assert seen
