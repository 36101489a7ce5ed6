"""Which messages are recent, without a set of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resel_lda.imap.recent import RecentUids


def in_claims(numbers: list[int], sizes: list[int]) -> list[list[int]]:
    """So many of the numbers, each time."""
    found = []
    for size in sizes:
        found.append(numbers[:size])
        numbers = numbers[size:]
    return found


@given(
    st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=30),
    st.lists(st.integers(0, 8), max_size=6),
    st.sets(st.integers(0, 29)),
)
def test_it_holds_what_a_set_would(
    steps: list[tuple[int, bool]], sizes: list[int], gone: set[int]
) -> None:
    known: list[int] = []
    mine: list[int] = []
    for step, claimed in steps:
        known.append((known[-1] if known else 0) + step)
        if claimed:
            mine.append(known[-1])
    recent, expected = RecentUids(), set[int]()
    for claim in in_claims(mine, sizes):
        recent.add(claim, known)
        expected.update(claim)
        assert recent.count(known) == len(expected)
    left = [uid for at, uid in enumerate(known) if at not in gone]
    assert [uid for uid in left if uid in recent] == [uid for uid in left if uid in expected]
    container = recent.container()
    assert [uid for uid in left if uid in container] == [uid for uid in left if uid in expected]
    assert recent.count(left) == len(expected.intersection(left))
    recent.clear()
    assert recent.count(known) == 0
    assert not [uid for uid in known if uid in recent]


def test_one_claim_of_all_and_those_that_follow_are_one_range() -> None:
    recent, known = RecentUids(), list(range(1, 5001, 2))
    recent.add(known, known)
    for uid in (5000, 5001, 5002):
        known.append(uid)
        recent.add([uid], known)
    assert recent.container() == range(1, 5003)
