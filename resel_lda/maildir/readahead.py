"""Guesses which messages a client reads next, from those that it read one by one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

# Messages, and octets of them, kept ahead.
_AHEAD = 8
MAX_OCTETS = 512 * 1024


class ReadAhead:
    """Of one folder. A client that goes up or down through it in equal steps is read ahead for:
    a hop to a thread for each message costs more than reading it."""

    def __init__(self) -> None:
        self._last = -1
        self._step = 0
        self._kept: dict[int, bytes] = {}

    def has(self, uid: int) -> bool:
        """Whether the message was read ahead."""
        return uid in self._kept

    def take(self, uid: int) -> bytes | None:
        """The message, if it was read ahead."""
        return self._kept.pop(uid, None)

    def follow(self, uid: int, uids: Sequence[int]) -> list[int]:
        """The client reads `uid`, one of the ascending `uids`; what to read with it."""
        at = bisect_left(uids, uid)
        step = at - self._last if self._last >= 0 else 0
        steady = step != 0 and step == self._step
        self._last, self._step = at, step
        if not steady:
            self._kept.clear()
            return []
        if self._kept:
            return []
        return [
            uids[n] for n in range(at + step, at + step * (_AHEAD + 1), step) if 0 <= n < len(uids)
        ]

    def keep(self, found: dict[int, bytes]) -> None:
        self._kept = found
