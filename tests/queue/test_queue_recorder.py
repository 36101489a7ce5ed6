"""In which order outcomes are recorded when the store fails in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
from queue_fakes import OK, MemoryStore, make_log, make_message, until

from resel_mta.mail import Delivered, Reply, TempFail
from resel_mta.queue import recorder
from resel_mta.queue.door import QueueStore, Result
from resel_mta.queue.journal import Journal
from resel_mta.queue.recorder import Recorder


class FailingStore:
    """Fails so many times; then notes what it is given."""

    def __init__(self, fail: list[bool]) -> None:
        self.fail = fail
        self.recorded: list[Result] = []

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
