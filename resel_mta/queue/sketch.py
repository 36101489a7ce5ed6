"""A set of queue numbers in 1,536 octets: too small to list it, enough to say what is missing.

It is an invertible Bloom lookup table (Goodrich, Mitzenmacher, 2011): each number is added to one
cell of each of three parts, together with a check that is made from it. Take away everything that is still
there, and the cells that hold a single number name it; taking that away as well uncovers others.
About a hundred differences can be named; of more, only that there are some.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

PARTS = 3
CELLS = 64
"""Of one part; a power of two."""
_NUMBER_BITS = 46
"""Enough for the ids of this century (`ids.UNIT`)."""
_NUMBER = (1 << _NUMBER_BITS) - 1
_WORD = (1 << 64) - 1
_CHECK = _WORD - _NUMBER
_FACTOR = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio: multiplied by it, numbers in a row spread out."""
SIZE = PARTS * CELLS * 8
"""Octets of `Sketch.to_bytes`."""


class Sketch:
    """Adding and taking away are each other's opposite, in any order."""

    __slots__ = ("cells",)

    def __init__(self, data: bytes = b"") -> None:
        """data: from `to_bytes`; nothing is an empty set. Raises ValueError."""
        self.cells = array("Q", data if data else bytes(SIZE))
        if len(self.cells) != PARTS * CELLS:
            raise ValueError(f"{len(data)} octets are no sketch")

    def to_bytes(self) -> bytes:
        return self.cells.tobytes()

    def copy(self) -> Sketch:
        made = Sketch.__new__(Sketch)
        made.cells = self.cells[:]
        return made

    def add(self, numbers: Iterable[int]) -> None:
        cells = self.cells
        for number in numbers:
            mixed = number * _FACTOR & _WORD
            mixed = (mixed ^ mixed >> 32) * _FACTOR & _WORD
            word = mixed & _CHECK | number
            first = mixed & 63
            second = 64 + (mixed >> 6 & 63)
            third = 128 + (mixed >> 12 & 63)
            cells[first] = cells[first] + word & _WORD
            cells[second] = cells[second] + word & _WORD
            cells[third] = cells[third] + word & _WORD

    def remove(self, numbers: Iterable[int]) -> None:
        cells = self.cells
        for number in numbers:
            mixed = number * _FACTOR & _WORD
            mixed = (mixed ^ mixed >> 32) * _FACTOR & _WORD
            word = mixed & _CHECK | number
            first = mixed & 63
            second = 64 + (mixed >> 6 & 63)
            third = 128 + (mixed >> 12 & 63)
            cells[first] = cells[first] - word & _WORD
            cells[second] = cells[second] - word & _WORD
            cells[third] = cells[third] - word & _WORD

    def difference(self, there: Iterable[int]) -> Difference:
        """What is in the set and not there, and the other way round."""
        rest = self.copy()
        rest.remove(there)
        missing: list[int] = []
        unknown: list[int] = []
        found = -1
        while found != len(missing) + len(unknown) <= PARTS * CELLS:
            found = len(missing) + len(unknown)
            for index in range(PARTS * CELLS):
                word = rest.cells[index]
                if (number := _single(word, index)) is not None:
                    missing.append(number)
                    rest.remove((number,))
                elif (number := _single(-word & _WORD, index)) is not None:
                    unknown.append(number)
                    rest.add((number,))
        return Difference(missing, unknown, complete=not any(rest.cells))


class Difference:
    """missing, unknown: numbers in no order. complete: whether these are all."""

    __slots__ = ("complete", "missing", "unknown")

    def __init__(self, missing: list[int], unknown: list[int], *, complete: bool) -> None:
        self.missing = missing
        self.unknown = unknown
        self.complete = complete


def _single(word: int, index: int) -> int | None:
    """The number that is alone in a cell."""
    number = word & _NUMBER
    alone = word and word == _word(number) and index in _places(number)
    return number if alone else None


def _word(number: int) -> int:
    return _mixed(number) & _CHECK | number


def _places(number: int) -> tuple[int, int, int]:
    mixed = _mixed(number)
    return mixed & 63, 64 + (mixed >> 6 & 63), 128 + (mixed >> 12 & 63)


def _mixed(number: int) -> int:
    mixed = number * _FACTOR & _WORD
    return (mixed ^ mixed >> 32) * _FACTOR & _WORD
