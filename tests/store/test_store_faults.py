"""Disk errors and lost files: nothing acknowledged is lost, nothing half done stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from test_store_mailbox import MAIL, make_store

from resel_lda.mailbox import AppendData, MailboxError
from resel_mta.disk import Disk


class Faulty(Disk):
    """Fails the k-th changing operation from when it is armed; counts them all."""

    def __init__(self) -> None:
        self.left = -1
        self.count = 0

    def _step(self) -> None:
        self.count += 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= self.left > 0

    def create(self, path, mode=0o600) -> int:
        self._step()
        return super().create(path, mode)

    def write(self, fd, data) -> None:
        self._step()
        super().write(fd, data)

    def fsync(self, fd) -> None:
        self._step()
        super().fsync(fd)

    def rename(self, source, target) -> None:
        self._step()
        super().rename(source, target)


async def two(folder) -> None:
    await folder.append([AppendData([MAIL], 0), AppendData([MAIL], 0, ("\\Seen", "NewKeyword"))])


async def test_append_is_all_or_none_at_every_step(tmp_path: Path) -> None:
    disk = Faulty()
    store = make_store(tmp_path, disk=disk)
    folder = await store.open("INBOX")
    disk.count = 0
    await two(folder)
    steps = disk.count
    assert steps > 8
    for step in range(steps):
        before = [info.uid for info in folder.messages()]
        disk.left = step
        failed = ""
        try:
            await two(folder)
        except MailboxError as error:
            failed = error.text
        disk.left = -1
        if failed:
            await folder.refresh()
            after = [info.uid for info in folder.messages()]
            assert (failed, after) == ("Not enough disk space", before)
        assert os.listdir(tmp_path / "Maildir" / "tmp") == []
    assert not [name for name in os.listdir(tmp_path / "Maildir") if name.endswith(".lock")]
    await two(folder)
    uids = [info.uid for info in folder.messages()]
    assert len(uids) == len(set(uids))
    assert len(os.listdir(tmp_path / "Maildir" / "cur")) == len(uids)
    old = list(folder.messages())
    await store.close()
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert [(m.uid, m.flags) for m in folder.messages()] == [(m.uid, m.flags) for m in old]
    await store.close()


async def test_a_message_is_gone_only_when_two_listings_miss_it(
    tmp_path: Path, monkeypatch
) -> None:
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await two(folder)
    index = folder.index
    whole = index.files.list_cur()
    partial = dict(list(whole.items())[:1])
    listings = [partial, whole]
    monkeypatch.setattr(index.files, "list_cur", lambda: listings.pop(0))
    index.scan()
    assert len(index.marks) == 2
    listings = [partial, partial]
    index.scan()
    assert len(index.marks) == 1
    await store.close()


@pytest.mark.parametrize("damage", [b"", b"3 V", b"rubbish\n", b"3 V5 N9 Gabc\n1 :a\n1 :b\nx\n"])
async def test_damaged_uidlist_loses_no_mail(tmp_path: Path, damage: bytes) -> None:
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    await two(folder)
    await store.close()
    uidlist = tmp_path / "Maildir" / "dovecot-uidlist"
    uidlist.write_bytes(damage)
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert len(folder.messages()) == 2
    assert await folder.read(folder.messages()[0].uid) == MAIL
    await store.close()


async def test_uidlist_ruined_while_open_keeps_the_uids(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    await two(folder)
    old = (folder.uidvalidity, [info.uid for info in folder.messages()])
    (tmp_path / "Maildir" / "dovecot-uidlist").unlink()
    await two(folder)
    await store.close()
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert folder.uidvalidity == old[0]
    assert [info.uid for info in folder.messages()] == [*old[1], 3, 4]
    await store.close()
