"""Threads for deliveries, which wait for the disk nearly all the time."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class DepositThreads(Generic[T]):
    """At most so many, started as they are needed. Used in one event loop.

    `run_in_executor` takes twice the time, which is a tenth of a whole delivery's: here a piece of
    work has one future, and all that end before the loop comes round wake it once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: SimpleQueue[tuple[asyncio.Future[T], Callable[[], T]] | None] = SimpleQueue()
        self._ended: deque[tuple[asyncio.Future[T], T | None, BaseException | None]] = deque()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._woken = False

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have it done in a thread, to its end even if the future is cancelled."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._busy += 1
        self._waiting.put((future, work))
        if len(self._threads) < min(self._busy, self._most):
            # Whoever closes waits for them; an interpreter that ends without that does not.
            thread = threading.Thread(
                target=self._work, name=f"deposit_{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Wait for all that was asked for. Blocks, outside of the loop."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            future, work = item
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = work()
            except BaseException as error:
                failure = error
            self._ended.append((future, result, failure))
            # Whoever finds it set has appended before `_collect`, which unsets it first, looks.
            if not self._woken:
                self._woken = True
                loop = future.get_loop()
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self._collect)
            # Nothing of a message is kept while the thread waits for the next one.
            del item, future, work, result, failure

    def _collect(self) -> None:
        self._woken = False
        while self._ended:
            future, result, failure = self._ended.popleft()
            self._busy -= 1
            if future.done():
                continue
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(result)  # type: ignore[arg-type]
