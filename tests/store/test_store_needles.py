"""What one search found out is used by the next, and is never wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_store_fulltext import searched
from test_store_mailbox import append, make_store

from resel_lda.mailbox import TextAnswers
from resel_lda.maildir import needles
from resel_lda.maildir.needles import Needles

MAILS = (
    b"Subject: cordial\r\n\r\nles amis\r\n",
    b"Subject: x\r\n\r\ncordialement\r\n",
    b"Subject: x\r\n\r\nrien\r\n",
    b"Subject: y\r\n\r\ncordial\r\n",
)


async def test_the_same_search_reads_nothing_again(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await append(folder, *MAILS)
    assert await searched(store, folder, "BODY cordial") == [2, 4]
    assert await searched(store, folder, "TEXT cordial") == [1, 2, 4]
    read, folder.reader.read = folder.reader.read, None
    assert await searched(store, folder, "BODY cordial") == [2, 4]
    assert await searched(store, folder, "NOT TEXT cordial") == [3]
    assert await searched(store, folder, "OR BODY cordial SUBJECT cordial") == [1, 2, 4]
    folder.reader.read = read
    # One more letter: what was without is not looked at, what had it is.
    looked: list[int] = []
    folder.reader.read = lambda uid: looked.append(uid) or read(uid)
    assert await searched(store, folder, "BODY cordiale") == [2]
    assert looked in ([2], [2, 4])
    # What comes later is looked at.
    await append(folder, b"Subject: z\r\n\r\ncordial, aussi\r\n", b"Subject: z\r\n\r\nnon\r\n")
    assert await searched(store, folder, "BODY cordial") == [2, 4, 5]
    await folder.expunge([2])
    assert await searched(store, folder, "BODY cordial") == [4, 5]
    await store.close()


def test_only_what_follows_is_taken_over() -> None:
    known = Needles()
    known.answers("cord", True).update({1: True, 2: False})
    known.answers("cord", False).update({1: False, 2: False, 3: True})
    # A longer one: what is without the shorter one is without it. TEXT says so of BODY too.
    assert known.answers("cordial", False) == {1: False, 2: False}
    assert known.answers("cordial", True) == {2: False}
    # A shorter one: what has the longer one has it, in the header or not.
    assert known.answers("cor", False) == {3: True}
    assert known.answers("cor", True) == {1: True, 3: True}
    assert known.answers("x", True) == {}
    known.forget([1, 3])
    assert known.answers("cord", True) == {2: False}


def test_it_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needles, "_MOST", 3)
    monkeypatch.setattr(needles, "_MOST_ANSWERS", 10)
    known = Needles()
    kept = [known.answers(word, True) for word in "abc"]
    assert known.answers("a", True) is kept[0]
    known.answers("d", True)
    assert known.answers("a", True) is kept[0]
    assert known.answers("b", True) is not kept[1]
    known.answers("a", True).update(dict.fromkeys(range(20), False))
    # The one that is being used stays, however large.
    assert len(known.answers("a", True)) == 20
    assert isinstance(known.answers("e", True), TextAnswers)
    assert len(known.answers("a", True)) == 0
