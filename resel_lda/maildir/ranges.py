"""Sets of UIDs as sorted, disjoint (low, high) ranges."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def uid_ranges(uids: Collection[int]) -> list[tuple[int, int]]:
    """Of UIDs in any order."""
    found: list[tuple[int, int]] = []
    for uid in sorted(uids):
        if found and uid == found[-1][1] + 1:
            found[-1] = (found[-1][0], uid)
        else:
            found.append((uid, uid))
    return found


def uid_gaps(uids: Sequence[int], next_uid: int) -> list[tuple[int, int]]:
    """Of the UIDs below `next_uid` that are not among these, which ascend."""
    found: list[tuple[int, int]] = []
    following = 1
    for uid in uids:
        if uid > following:
            found.append((following, uid - 1))
        following = uid + 1
    if next_uid > following:
        found.append((following, next_uid - 1))
    return found
