"""The sketch of the ledger: a set that can name what is missing from it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resel_mta.queue.sketch import SIZE, Sketch

NUMBERS = st.sets(st.integers(1, (1 << 46) - 1), max_size=300)


def of(numbers: set[int] | range) -> Sketch:
    sketch = Sketch()
    sketch.add(numbers)
    return sketch


@given(NUMBERS, NUMBERS)
def test_what_is_added_and_taken_away_leaves_no_trace(some: set[int], others: set[int]) -> None:
    sketch = of(some)
    sketch.add(others)
    sketch.remove(some)
    assert sketch.to_bytes() == of(others).to_bytes()
    assert len(sketch.to_bytes()) == SIZE


# Derandomized: one time in thousands, some of them cover each other, and that is said.
@settings(derandomize=True)
@given(NUMBERS, st.randoms(use_true_random=False))
def test_a_few_differences_are_named(there: set[int], chance: random.Random) -> None:
    missing = {chance.randrange(1, 1 << 46) for _ in range(chance.randrange(12))} - there
    unknown = set(chance.sample(sorted(there), min(len(there), 5)))
    sketch = Sketch(of((there - unknown) | missing).to_bytes())
    found = sketch.difference(there)
    assert found.complete
    assert set(found.missing) == missing
    assert set(found.unknown) == unknown


def test_neighbours_are_told_apart() -> None:
    """Ids given in the same second are numbers in a row."""
    start = 2_200_000_000_000
    sketch = of(range(start, start + 10_000))
    lost = set(range(start + 500, start + 580))
    found = sketch.difference(n for n in range(start, start + 10_000) if n not in lost)
    assert found.complete
    assert set(found.missing) == lost


def test_too_many_differences_are_admitted() -> None:
    found = of(range(1_000_000, 1_001_000)).difference(())
    assert not found.complete
    assert set(found.missing) <= set(range(1_000_000, 1_001_000))
    assert found.unknown == []


def test_a_broken_one_is_refused() -> None:
    with pytest.raises(ValueError, match="no sketch"):
        Sketch(bytes(16))
