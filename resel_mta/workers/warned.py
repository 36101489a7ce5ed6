"""What a worker has warned of, told to worker 0 for `resel-mta status`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from resel_mta.maillog import RECENT

#: Seconds between two packets, however much there is to warn of.
_EVERY = 1.0
#: Characters of a line that are told.
_LONGEST = 500


class Warned:
    """Give `add` to the log as its `warned`. tell: takes [[time, line], …], the latest ones."""

    def __init__(self, tell: Callable[[list[list[Any]]], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._lines: deque[list[Any]] = deque(maxlen=RECENT)
        self._timer: asyncio.TimerHandle | None = None

    def add(self, when: float, line: str) -> None:
        """In any thread."""
        self._lines.append([when, line[:_LONGEST]])
        self._loop.call_soon_threadsafe(self._soon)

    def _soon(self) -> None:
        if self._timer is None:
            self.flush()
            self._timer = self._loop.call_later(_EVERY, self._again)

    def _again(self) -> None:
        self._timer = None
        if self._lines:
            self._soon()

    def flush(self) -> None:
        """Tell what was not told yet."""
        lines = list(self._lines)
        self._lines.clear()
        if lines:
            self._tell(lines)
