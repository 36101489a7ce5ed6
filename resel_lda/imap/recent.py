"""Which messages a session shows as \\Recent. Nearly always these are all from one UID up to another,
and of a large mailbox that is seen for the first time, all: ranges take no memory for each."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter

_start = attrgetter("start")


class RecentUids:
    """Made of UIDs that a session knows; of others nothing can be said."""

    def __init__(self) -> None:
        # Ascending.
        self._ranges: list[range] = []

    def add(self, uids: Sequence[int], known: Sequence[int]) -> None:
        """Some more (ascending). known: all that the session knows (ascending)."""
        if not uids:
            return
        low, high = uids[0], uids[-1]
        if bisect_right(known, high) - bisect_left(known, low) == len(uids):
            self._put(range(low, high + 1))
        else:
            for uid in uids:
                self._put(range(uid, uid + 1))

    def _put(self, more: range) -> None:
        ranges = self._ranges
        if ranges and ranges[-1].stop == more.start:
            ranges[-1] = range(ranges[-1].start, more.stop)
        else:
            ranges.append(more)
            ranges.sort(key=_start)

    def clear(self) -> None:
        self._ranges.clear()

    def __contains__(self, uid: int) -> bool:
        at = bisect_right(self._ranges, uid, key=_start)
        return at > 0 and uid in self._ranges[at - 1]

    def container(self) -> range | RecentUids:
        """The same as they are now, for many questions."""
        return self._ranges[0] if len(self._ranges) == 1 else self

    def count(self, known: Sequence[int]) -> int:
        """How many of these (ascending) are."""
        return sum(
            bisect_left(known, one.stop) - bisect_left(known, one.start) for one in self._ranges
        )
