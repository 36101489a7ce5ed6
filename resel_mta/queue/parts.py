"""A queue of several parts: each is a queue directory of its own, which one process holds.

Part 0 is queue_directory itself, part n is ``parts/n`` in it. Nothing moves from one part to
another. The ids of messages say which part they are in (`ids.part_of`).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

MOST = 64
"""Parts that there may be."""


def part_directory(queue_directory: str, part: int) -> Path:
    """Where a part lies."""
    root = Path(queue_directory)
    return root / "parts" / str(part) if part else root


def other_parts(queue_directory: str) -> list[int]:
    """The parts beside part 0 that were ever made. Raises OSError."""
    found = []
    with suppress(FileNotFoundError):
        for entry in (Path(queue_directory) / "parts").iterdir():
            if entry.name.isdecimal() and str(int(entry.name)) == entry.name != "0":
                found.append(int(entry.name))
    return sorted(found)
