"""Flags between their acknowledgement and the sync that makes them survive a power cut."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from resel_lda.mailbox import AppendData
from resel_lda.maildir import settling
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

MAIL = b"From: a@b.c\r\n\r\nbody\r\n"


class Watched(Disk):
    """Tells of each directory that was synced."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.told: Callable[[], None] = lambda: None

    def sync_directory(self, path: str | os.PathLike[str]) -> None:
        super().sync_directory(path)
        self.synced.append(os.path.basename(path))
        self.told()


def store_at(root: Path, disk: Disk | None = None) -> MaildirStore:
    settings = Settings.build(mail_location=f"maildir:{root}", myhostname="mx.example.org")
    return MaildirStore(User("u", home=str(root)), settings, disk or Disk(), MailLog(StreamSink(2)))


async def filled(store: MaildirStore, count: int = 3):
    folder = await store.open("INBOX")
    await folder.append([AppendData([MAIL], len(MAIL)) for _ in range(count)])
    return folder


async def test_flags_are_synced_soon_and_only_once_for_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "_DELAY", 0.2)
    disk = Watched()
    store = store_at(tmp_path, disk)
    folder = await filled(store)
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    disk.synced.clear()
    disk.told = lambda: loop.call_soon_threadsafe(done.set)
    for uid in (1, 2, 3):
        await folder.store([uid], ["\\Flagged"], "add")
    await asyncio.wait_for(done.wait(), 30)
    await store.close()
    assert 1 <= disk.synced.count("cur") <= 3


async def test_flags_that_do_not_change_are_not_synced(tmp_path: Path) -> None:
    disk = Watched()
    store = store_at(tmp_path, disk)
    folder = await filled(store)
    disk.synced.clear()
    await folder.store([1, 2, 3], ["\\Flagged"], "remove")
    await store.close()
    assert disk.synced == []


async def test_what_is_closed_is_durable(tmp_path: Path) -> None:
    disk = Watched()
    store = store_at(tmp_path, disk)
    folder = await filled(store)
    disk.synced.clear()
    await folder.store([2], ["\\Seen"], "add")
    await store.close()
    assert disk.synced == ["cur"]
    # Nobody is told anything that is known already.
    store = store_at(tmp_path)
    again = await store.open("INBOX")
    assert [info.uid for info in again.changed_since(folder.get(2).modseq)] == []
    await store.close()


@pytest.mark.parametrize("lost", [True, False])
async def test_after_a_power_cut_clients_are_told_the_flags_that_are_left(
    tmp_path: Path, lost: bool
) -> None:
    """lost: whether the cut took the flag back, and what `state` had noted of it."""
    store = store_at(tmp_path / "mail")
    folder = await filled(store)
    await store.close()
    before = tmp_path / "before"
    shutil.copytree(tmp_path / "mail", before)
    store = store_at(tmp_path / "mail")
    folder = await store.open_folder("INBOX")
    result = await folder.store([2], ["\\Seen"], "add")
    known = folder.get(result.done[0]).modseq
    # What is on disk when the power goes: the note that was synced, at the least.
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "mail", cut)
    await store.close()
    if lost:
        shutil.rmtree(cut / "cur")
        shutil.copytree(before / "cur", cut / "cur")
    store = store_at(cut)
    folder = await store.open("INBOX")
    assert folder.highestmodseq > known
    told = {info.uid: "\\Seen" in info.flags for info in folder.changed_since(known)}
    assert told == {1: False, 2: not lost, 3: False}
    now = folder.highestmodseq
    await store.close()
    # Once is enough.
    store = store_at(cut)
    folder = await store.open("INBOX")
    assert [info.uid for info in folder.changed_since(now)] == []
    await store.close()


async def test_a_kill_leaves_no_lock_files_for_long(tmp_path: Path) -> None:
    """What all locks are made of is removed when the store is closed, or by the next one."""

    def left(root: Path) -> list[str]:
        return [name for name in os.listdir(root) if ".lock" in name]

    store = store_at(tmp_path / "mail")
    folder = await filled(store)
    await folder.store([2], ["\\Seen"], "add")
    (one,) = left(tmp_path / "mail")
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "mail", cut)
    await store.close()
    assert left(tmp_path / "mail") == []
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    host = socket.gethostname()
    name = f"dovecot-uidlist.lock.{host}"
    others = [f"{name}.{os.getppid()}.abc", f"{name}-2.{ended.pid}.abc"]
    for other in (*others, f"{name}.{ended.pid}.abc", f"{name}.{os.getpid()}.abc"):
        (cut / other).touch()
    (cut / one).unlink()
    store = store_at(cut)
    await store.folders()
    assert sorted(left(cut)) == sorted(others)
    await store.close()


async def test_what_is_being_changed_is_not_settled(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    index = (await store.open_folder("INBOX")).index

    async def never(work: Callable[[], bool]) -> bool:
        raise AssertionError

    some = settling.Settling(index, never)
    assert some.settle()
    some.begin()
    assert not some.settle()
    some.end()
    some.begin()
    some.end()
    assert some.settle()
    await store.close()


async def test_a_deleted_folder_leaves_nothing_to_settle(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    await store.create("Old")
    folder = await store.open("Old")
    await folder.append([AppendData([MAIL], len(MAIL))])
    await folder.store([1], ["\\Seen"], "add")
    folder.release()
    await store.delete("Old")
    await store.close()
