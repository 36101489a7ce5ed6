"""The threads that deliveries are written in."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from resel_lda.deposit_threads import DepositThreads


async def test_work_runs_in_parallel_and_each_gets_its_own_result() -> None:
    threads: DepositThreads[int] = DepositThreads(4)
    # Passed by nobody until all four are in it at once.
    together = threading.Barrier(4)

    def work(number: int) -> int:
        together.wait(20)
        return number

    futures = [threads.run(partial(work, number)) for number in range(8)]
    assert await asyncio.gather(*futures) == list(range(8))
    await asyncio.to_thread(threads.close)


async def test_no_more_at_once_than_there_are_threads() -> None:
    threads: DepositThreads[None] = DepositThreads(2)
    guard = threading.Lock()
    running = most = 0

    def work() -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        # A switch to the others, if there were any.
        threading.Event().wait(0.001)
        with guard:
            running -= 1

    await asyncio.gather(*(threads.run(work) for _ in range(20)))
    assert most == 2
    await asyncio.to_thread(threads.close)


async def test_what_is_raised_comes_out_and_the_thread_goes_on() -> None:
    threads: DepositThreads[str] = DepositThreads(1)

    def fail() -> str:
        raise OSError("the disk failed")

    failed, done = threads.run(fail), threads.run(lambda: "done")
    with pytest.raises(OSError, match="the disk failed"):
        await failed
    assert await done == "done"
    await asyncio.to_thread(threads.close)


async def test_work_whose_caller_is_gone_is_finished_before_it_closes() -> None:
    threads: DepositThreads[None] = DepositThreads(2)
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert may_end.wait(20)
        ended.set()

    async def wait_for(future: asyncio.Future[None]) -> None:
        await future

    task = asyncio.ensure_future(wait_for(threads.run(work)))
    await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    closing = asyncio.ensure_future(asyncio.to_thread(threads.close))
    await asyncio.sleep(0)
    assert not ended.is_set()
    may_end.set()
    await closing
    assert ended.is_set()
    # What came of it reaches the loop, where nobody waits for it.
    await asyncio.sleep(0)
