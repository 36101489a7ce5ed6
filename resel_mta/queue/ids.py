"""Queue ids: the time in uppercase hexadecimal, as short as Postfix's short ids (11 digits until
2075), so that they fit its listings and everybody's patterns.

They only ever grow. The highest one that may have been given is kept in the database ahead of
its use, so that neither a crash nor a clock that is set back can give one twice.

A queue may have several parts, each with a database of its own (see `parts`). Part 0 has ids as
above; those of part n have n in front of the eleven digits, so that no two parts give the same one
and everybody can tell where a message is.
"""

from __future__ import annotations

import time
from collections.abc import Callable

EPOCH = 1_577_836_800
"""2020-01-01 00:00 UTC."""
UNIT = 10_000
"""Ids per second. More than that in one second take those of the next."""
RESERVE = 600 * UNIT
"""How far ahead ids are reserved. A crash skips at most that much."""
PART = 1 << 44
"""What is below this in a number is the time; what is above, the part."""


def format_id(number: int) -> str:
    return f"{number:X}"


def parse_id(queue_id: str) -> int | None:
    """The number behind a queue id; None if it cannot be one of ours."""
    if not 1 <= len(queue_id) <= 15 or queue_id.strip("0123456789ABCDEF"):
        return None
    return int(queue_id, 16)


def part_of(queue_id: str) -> int:
    """The part that gave a queue id; 0 for what cannot be one of ours."""
    return (parse_id(queue_id) or 0) // PART


def time_of(queue_id: str) -> float:
    """When a queue id was given."""
    return EPOCH + (parse_id(queue_id) or 0) % PART / UNIT


class IdSource:
    """Gives ids of a part; `ceiling` is the reservation, which whoever commits next has to store."""

    def __init__(self, ceiling: int, clock: Callable[[], float] = time.time, base: int = 0) -> None:
        """base: what the ids of this part are added to."""
        self._clock = clock
        self._base = base
        self._last = max(ceiling, self._now())
        self.ceiling = 0
        self.reserve()

    def _now(self) -> int:
        return self._base + int((self._clock() - EPOCH) * UNIT)

    def reserve(self) -> int:
        """Move the reservation ahead and return it."""
        self.ceiling = self._last + RESERVE
        return self.ceiling

    @property
    def low(self) -> bool:
        """Whether half the reservation is used, so that it should be renewed."""
        return self.ceiling - self._last < RESERVE // 2

    @property
    def last(self) -> int:
        return self._last

    def next(self) -> int:
        self._last = max(self._last + 1, self._now())
        return self._last
