"""Messages read one by one in equal steps are read ahead; what is gone is never served from there."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_store_mailbox import append, make_store

from resel_lda.mailbox import MailboxError
from resel_lda.maildir.readahead import ReadAhead

MAIL = b"Subject: %d\r\n\r\nbody\r\n"


def test_steps() -> None:
    uids = list(range(10, 30))
    ahead = ReadAhead()
    assert ahead.follow(10, uids) == []
    assert ahead.follow(11, uids) == []
    assert ahead.follow(12, uids) == list(range(13, 21))
    ahead.keep({13: b"x", 14: b"y"})
    assert ahead.follow(13, uids) == []
    assert ahead.take(13) == b"x"
    assert ahead.take(13) is None
    # Another step: what was kept is dropped.
    assert ahead.follow(20, uids) == []
    assert ahead.take(14) is None
    # Downwards, as webmail does.
    assert ahead.follow(18, uids) == []
    assert ahead.follow(16, uids) == [14, 12, 10]


async def test_all_are_read_and_the_gone_are_gone(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await append(folder, *[MAIL % number for number in range(30)])
    reads = 0
    inner = folder.reader.read_with

    def counting(uid, others):
        nonlocal reads
        reads += 1
        return inner(uid, others)

    folder.reader.read_with = counting
    for uid in range(1, 11):
        assert await folder.read(uid) == MAIL % (uid - 1)
    assert reads == 3
    # Read ahead already, and expunged by us and by another program.
    await folder.expunge([11])
    (tmp_path / "Maildir" / "cur" / folder.index.name(12)).unlink()
    with pytest.raises(MailboxError, match="gone"):
        await folder.read(11)
    while folder.get(12) is not None:
        await folder.refresh()
    with pytest.raises(MailboxError, match="gone"):
        await folder.read(12)
    for uid in range(30, 12, -1):
        assert await folder.read(uid) == MAIL % (uid - 1)
    await store.close()
