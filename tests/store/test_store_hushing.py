"""Changes of many names that inotify leaves out: ours need no look, others' are all found."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from resel_lda.mailbox import Mailbox, MailboxError
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.store import MaildirStore
from resel_lda.maildir.watch import Watcher
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

COUNT = 80
MAIL = b"From: a@b.c\n\nbody\n"


class _Meddling(Disk):
    """Another program does something in the middle of our renames in cur/."""

    def __init__(self) -> None:
        self.meddle: Callable[[], None] | None = None
        self._renames = 0

    def rename(self, source: str | Path, target: str | Path) -> None:  # type: ignore[override]
        super().rename(source, target)
        self._renames += self.meddle is not None
        if self.meddle is not None and self._renames > COUNT // 2:
            meddle, self.meddle = self.meddle, None
            meddle()


def _store(path: Path, disk: Disk) -> MaildirStore:
    settings = Settings.build(mail_location=f"maildir:{path}/Maildir", myhostname="mx.example.org")
    return MaildirStore(User("u", home=str(path)), settings, disk, MailLog(StreamSink(2)))


def _fill(path: Path) -> Path:
    cur = path / "Maildir" / "cur"
    for part in ("new", "tmp", "cur"):
        (cur.parent / part).mkdir(parents=True)
    for number in range(COUNT):
        (cur / f"{1_700_000_000 + number}.M{number}P1.host:2,").write_bytes(MAIL)
    return cur


async def _all(mailbox: Mailbox, flags: tuple[str, ...] = ("\\Flagged",)) -> None:
    uids = [info.uid for info in mailbox.messages()]
    await mailbox.store(uids, flags, "add")


def _flags(mailbox: Mailbox, uid: int) -> frozenset[str]:
    info = mailbox.get(uid)
    assert info is not None
    return info.flags


async def test_our_own_changes_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(tmp_path)
    store = _store(tmp_path, Disk())
    await store.create("Sub")
    inbox, sub = await store.open("INBOX"), await store.open("Sub")
    looks: list[str] = []
    monkeypatch.setattr(FolderIndex, "scan", lambda self: looks.append("scan"))
    monkeypatch.setattr(FolderIndex, "is_news", lambda self, name, gone: looks.append(name))
    await _all(inbox, ("\\Flagged",))
    await inbox.copy([info.uid for info in inbox.messages()], "Sub")
    await inbox.move([info.uid for info in inbox.messages()], "Sub")
    await sub.expunge([info.uid for info in sub.messages()])
    await inbox.refresh()
    await sub.refresh()
    assert looks == []
    assert not inbox.messages()
    assert not sub.messages()
    await store.close()


@pytest.mark.parametrize("what", ["came", "went", "renamed"])
async def test_what_another_program_did_meanwhile_is_shown(tmp_path: Path, what: str) -> None:
    cur = _fill(tmp_path)
    disk = _Meddling()
    store = _store(tmp_path, disk)
    inbox = await store.open("INBOX")
    woken = asyncio.Event()
    inbox.watch(woken.set)

    def meddle() -> None:
        first = next(name for name in os.listdir(cur) if name.startswith("1700000000."))
        if what == "came":
            (cur / "1800000000.M1P1.host:2,S").write_bytes(MAIL)
        elif what == "went":
            (cur / first).unlink()
        else:
            (cur / first).rename(cur / (first.partition(":")[0] + ":2,DF"))

    disk.meddle = meddle
    await _all(inbox)
    assert disk.meddle is None
    await inbox.refresh()
    uids = [info.uid for info in inbox.messages()]
    if what == "came":
        assert len(uids) == COUNT + 1
        assert _flags(inbox, uids[-1]) == {"\\Seen"}
    elif what == "went":
        assert uids == list(range(2, COUNT + 1))
    else:
        assert len(uids) == COUNT
        assert _flags(inbox, 1) == {"\\Draft", "\\Flagged"}
    await store.close()


async def test_who_idles_is_told_of_it_without_asking(tmp_path: Path) -> None:
    cur = _fill(tmp_path)
    disk = _Meddling()
    store = _store(tmp_path, disk)
    inbox = await store.open("INBOX")
    disk.meddle = lambda: (cur / "1800000000.M1P1.host:2,").write_bytes(MAIL) and None
    await _all(inbox)
    woken = asyncio.Event()
    inbox.watch(woken.set)
    async with asyncio.timeout(20):
        while len(inbox.messages()) == COUNT:
            await woken.wait()
            woken.clear()
    await store.close()


@pytest.mark.parametrize("fails", [False, True])
async def test_afterwards_inotify_tells_as_before(tmp_path: Path, fails: bool) -> None:
    cur = _fill(tmp_path)
    disk = _Meddling()
    store = _store(tmp_path, disk)
    inbox = await store.open("INBOX")

    def fail() -> None:
        raise OSError(5, "Input/output error")

    if fails:
        disk.meddle = fail
        with pytest.raises(MailboxError, match="The disk failed"):
            await _all(inbox)
    else:
        await _all(inbox)
    await inbox.refresh()
    woken = asyncio.Event()
    inbox.watch(woken.set)
    (cur / "1800000000.M1P1.host:2,").write_bytes(MAIL)
    async with asyncio.timeout(20):
        while len(inbox.messages()) == COUNT:
            await woken.wait()
            woken.clear()
    await store.close()


async def test_a_directory_that_is_another_by_then_is_looked_at(tmp_path: Path) -> None:
    cur = _fill(tmp_path)
    disk = _Meddling()
    store = _store(tmp_path, disk)
    inbox = await store.open("INBOX")

    def put_back() -> None:
        """A backup, under the same name."""
        maildir = cur.parent
        copy = tmp_path / "backup"
        for part in ("new", "tmp", "cur"):
            (copy / part).mkdir(parents=True)
        for entry in maildir.glob("dovecot-*"):
            os.link(entry, copy / entry.name)
        for name in os.listdir(cur):
            os.link(cur / name, copy / "cur" / name)
        (copy / "cur" / "1800000000.M1P1.host:2,").write_bytes(MAIL)
        maildir.rename(tmp_path / "old")
        copy.rename(maildir)

    disk.meddle = put_back
    await _all(inbox)
    await inbox.refresh()
    assert len(inbox.messages()) == COUNT + 1
    await store.close()


async def test_where_nothing_changes_nothing_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(tmp_path)
    store = _store(tmp_path, Disk())
    inbox = await store.open("INBOX")
    masks: list[int] = []
    set_mask = Watcher._set_mask

    def noted(self: Watcher, number: int, directory: str, mask: int) -> bool:
        masks.append(mask)
        return set_mask(self, number, directory, mask)

    monkeypatch.setattr(Watcher, "_set_mask", noted)
    await _all(inbox)
    assert len(masks) == 2
    await _all(inbox)
    assert len(masks) == 2
    await store.close()
