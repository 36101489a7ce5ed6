"""In which order outcomes are recorded when the store fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from queue_fakes import OK, MemoryStore, make_log, make_message, until
from queue_faults import Plan, fault_vfs

from resel_mta.mail import Delivered, Reply, TempFail
from resel_mta.queue import patience, recorder
from resel_mta.queue.door import QueueStore, Result
from resel_mta.queue.journal import Journal
from resel_mta.queue.recorder import Recorder
from resel_mta.queue.sqlite import SQLiteStore


class FailingStore:
    """Fails so many times; then notes what it is given."""

    def __init__(self, fail: list[bool]) -> None:
        self.fail = fail
        self.recorded: list[Result] = []

    async def next_commit(self) -> None:
        """Never late."""

    async def apply(self, owner: str, results: Sequence[Result]) -> set[str]:
        if self.fail and self.fail.pop(0):
            raise TempFail(Reply(451, "4.3.0", "no"))
        self.recorded += results
        return set()


async def test_the_last_word_on_a_message_stays_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "RETRY_AFTER", 0.0)
    memory = MemoryStore()
    one, other = make_message(memory, "a@x", "b@x"), make_message(memory)
    part = Result(one, [(one.recipients[0], Delivered(OK))])
    last = Result(one, [(one.recipients[1], Delivered(OK))], release=True, complete=True)
    third = Result(other, [(other.recipients[0], Delivered(OK))], release=True, complete=True)
    # Together; then the first one alone.
    store = FailingStore([True, True])
    log, _ = make_log()
    made = Recorder(
        cast(QueueStore, store), "me", Journal(log), lambda: None, lambda result: result
    )
    ended: list[bool] = []
    for result in (part, last, third):
        made.add(result, lambda gone, entered: ended.append(entered))
    await until(lambda: len(ended) == 3)
    assert store.recorded == [third, part, last]


class Syncs(Plan):
    """Counts those of the database."""

    syncs = 0

    def database_synced(self, path: str) -> None:
        self.syncs += 1
        super().database_synced(path)


async def test_a_removal_shares_the_next_message_s_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BUSY_FOR", 60.0)
    monkeypatch.setattr(patience, "PATIENCE", 60.0)
    plan = Syncs(tmp_path)
    log, _ = make_log()
    ended: list[bool] = []
    with fault_vfs(plan) as vfs:
        store = await SQLiteStore.open(tmp_path, vfs=vfs)
        made = Recorder(store, "me", Journal(log), lambda: None, lambda result: result)
        message = make_message(store)
        await store.enter(message, claim_for="me")
        before = plan.syncs
        for _ in range(5):
            done = [(message.recipients[0], Delivered(OK))]
            result = Result(message, done, release=True, complete=True)
            made.add(result, lambda gone, entered: ended.append(gone))
            await asyncio.sleep(0)
            assert await store.get(message.queue_id) is not None
            message = make_message(store)
            await store.enter(message, claim_for="me")
        assert plan.syncs - before == 5
        # Nothing follows the last one.
        monkeypatch.setattr(patience, "PATIENCE", 0.0)
        last = Result(message, [(message.recipients[0], Delivered(OK))], release=True)
        made.add(last, lambda gone, entered: ended.append(gone))
        await until(lambda: len(ended) == 6)
        assert ended == [True] * 6
        assert [entry async for entry in store.walk()] == []
        await store.close()
