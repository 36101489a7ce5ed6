"""The Mailbox door on Maildir."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from resel_lda.imap.view import View
from resel_lda.mailbox import AppendData, MailboxError
from resel_lda.maildir import store as store_module
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog
from resel_mta.users import User

MAIL = b"From: a@b.c\r\nSubject: hi\r\n\r\nbody\r\n"


class ListSink:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, lines: list[str]) -> None:
        self.lines += lines

    def reopen(self) -> None: ...


def make_store(path: Path, location: str = "", disk: Disk | None = None) -> MaildirStore:
    location = location or f"maildir:{path}/Maildir"
    settings = Settings.build(mail_location=location, myhostname="mx.example.org")
    user = User("lcarr", home=str(path))
    return MaildirStore(user, settings, disk or Disk(), MailLog(ListSink()))


def drop(path: Path, name: str, data: bytes = MAIL, folder: str = "") -> None:
    """Deliver as another program does."""
    root = path / "Maildir" / folder
    (root / "tmp" / name).write_bytes(data.replace(b"\r\n", b"\n"))
    os.rename(root / "tmp" / name, root / "new" / name)


async def append(folder, *mails: bytes, flags=()) -> list[int]:
    return list(await folder.append([AppendData([mail], len(mail), flags) for mail in mails]))


async def test_append_read_store_expunge(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open("inbox")
    assert folder.name == "INBOX"
    assert await append(folder, MAIL, MAIL + b"x", flags=("\\seen", "Work")) == [1, 2]
    assert await folder.read(1) == MAIL
    assert folder.get(2).flags == {"\\Seen", "Work"}
    assert folder.uidnext == 3
    assert await folder.sizes([1, 2]) == {1: len(MAIL), 2: len(MAIL) + 1}
    before = folder.highestmodseq
    result = await folder.store([1], ["\\Deleted"], "add")
    assert result.done == [1]
    assert folder.get(1).flags == {"\\Seen", "Work", "\\Deleted"}
    assert folder.get(1).modseq > before
    assert [info.uid for info in folder.changed_since(before)] == [1]
    result = await folder.store([1, 2], ["\\Flagged"], "set", unchanged_since=before)
    assert result.conflicts == [1]
    assert result.done == [2]
    before = folder.highestmodseq
    assert list(await folder.expunge([1, 99])) == [1]
    assert folder.vanished_since(before) == [(1, 1)]
    assert [info.uid for info in folder.messages()] == [2]
    with pytest.raises(MailboxError) as caught:
        await folder.read(1)
    assert caught.value.code == "EXPUNGEISSUED"
    folder.release()
    await store.close()


async def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    await append(folder, MAIL, MAIL, MAIL)
    await folder.store([2], ["\\Seen", "$Forwarded"], "add")
    await folder.expunge([3])
    old = (folder.uidvalidity, folder.uidnext, list(folder.messages()))
    modseq = folder.highestmodseq
    await store.close()
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert (folder.uidvalidity, folder.uidnext, list(folder.messages())) == old
    assert folder.highestmodseq >= modseq
    assert folder.vanished_since(0)[-1][1] == 3
    await store.close()


async def test_delivery_by_another_program_wakes_watchers_soon(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert folder.claim_recent() == frozenset()
    woken = asyncio.Event()
    stop = folder.watch(woken.set)
    loop = asyncio.get_running_loop()
    start = loop.time()
    drop(tmp_path, "1700000000.M1P1.host")
    await asyncio.wait_for(woken.wait(), 2)
    assert loop.time() - start < 0.5
    assert [info.uid for info in folder.messages()] == [1]
    assert folder.claim_recent() == {1}
    assert folder.claim_recent() == frozenset()
    assert await folder.read(1) == MAIL
    stop()
    await store.close()


async def test_a_look_misses_nothing_that_came_before_it(tmp_path: Path) -> None:
    """Though the loop had no time for the kernel's events since."""
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    for number in range(1, 4):
        drop(tmp_path, f"{1700000000 + number}.M{number}P1.other")
        await folder.refresh()
        assert len(folder.messages()) == number
    drop(tmp_path, "1700000004.M4P1.other")
    again = await store.open("INBOX")
    assert len(again.messages()) == 4
    folder.release()
    again.release()
    await store.close()


async def test_a_look_that_is_under_way_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    begun, gate = threading.Event(), threading.Event()
    take_events = folder.index.take_events

    def slowly(*events) -> None:
        begun.set()
        gate.wait(30)
        take_events(*events)

    monkeypatch.setattr(folder.index, "take_events", slowly)
    drop(tmp_path, "1700000001.M1P1.other")
    first = asyncio.create_task(folder.refresh())
    await asyncio.to_thread(begun.wait)
    second = asyncio.create_task(folder.refresh())
    await asyncio.sleep(0.05)
    gate.set()
    await second
    assert len(folder.messages()) == 1
    await first
    await store.close()


async def test_flags_and_removal_by_another_program(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    await append(folder, MAIL, MAIL)
    cur = tmp_path / "Maildir" / "cur"
    first, second = sorted(os.listdir(cur))
    os.rename(cur / first, cur / f"{first}FS")
    os.unlink(cur / second)
    # read finds the renamed file before any scan.
    assert await folder.read(1) == MAIL
    for _ in range(100):
        await folder.refresh()
        if len(folder.messages()) == 1:
            break
        await asyncio.sleep(0.01)
    assert [info.uid for info in folder.messages()] == [1]
    assert folder.get(1).flags == {"\\Flagged", "\\Seen"}
    await store.close()


async def test_copy_and_move(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.create("Sub/Été")
    folder = await store.open("INBOX")
    await append(folder, MAIL, MAIL, flags=("\\Seen", "Kw"))
    validity, pairs = await folder.copy([1, 2], "Sub/Été")
    assert pairs == [(1, 1), (2, 2)]
    _, pairs = await folder.move([2], "Sub/Été")
    assert pairs == [(2, 3)]
    target = await store.open("Sub/Été")
    assert target.uidvalidity == validity
    assert [info.flags for info in target.messages()] == [frozenset({"\\Seen", "Kw"})] * 3
    assert await target.read(3) == MAIL
    assert [info.uid for info in folder.messages()] == [1]
    with pytest.raises(MailboxError) as caught:
        await folder.copy([1], "Nowhere")
    assert caught.value.code == "TRYCREATE"
    assert (tmp_path / "Maildir" / ".Sub.&AMk-t&AOk-" / "maildirfolder").exists()
    await store.close()


async def test_folder_tree(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for name in ("Sent", "A/B/C", "Trash"):
        await store.create(name)
    await store.create("Mine", "\\Drafts")
    await store.subscribe("A/B/C")
    await store.subscribe("Gone")
    found = {info.name: info for info in await store.folders()}
    assert next(iter(found)) == "INBOX"
    assert found["A"].attributes == {"\\NonExistent", "\\HasChildren"}
    assert found["A/B/C"].subscribed
    assert found["Sent"].attributes == {"\\HasNoChildren", "\\Sent"}
    assert found["Mine"].attributes == {"\\HasNoChildren", "\\Drafts"}
    assert found["Gone"].attributes == {"\\NonExistent"}
    c = await store.open("A/B/C")
    await append(c, MAIL)
    uidvalidity = c.uidvalidity
    c.release()
    await store.rename("A", "X/Y")
    c = await store.open("X/Y/B/C")
    assert c.uidvalidity == uidvalidity
    assert await c.read(1) == MAIL
    c.release()
    await store.delete("X/Y/B/C")
    with pytest.raises(MailboxError) as caught:
        await store.open("X/Y/B/C")
    assert caught.value.code == "NONEXISTENT"
    with pytest.raises(MailboxError, match="Invalid mailbox name"):
        await store.create("a.b")
    with pytest.raises(MailboxError, match="Invalid mailbox name"):
        await store.create("../../etc")
    await store.close()


async def test_rename_inbox_moves_its_messages(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    await append(folder, MAIL)
    await store.rename("INBOX", "Old")
    assert (await store.status("INBOX")).messages == 0
    assert (await store.status("Old")).messages == 1
    await store.close()


async def test_parts_are_cached_and_the_cache_can_be_deleted(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    await append(folder, MAIL)
    part = (await folder.parts([1, 7]))[1]
    assert part.envelope.startswith(b'(NIL "hi" ((NIL NIL "a" "b.c"))')
    assert part.size == len(MAIL)
    assert await folder.parts([1]) == {1: part}
    assert await folder.header_fields([1]) == {1: MAIL[:-6]}
    await store.close()
    (tmp_path / "Maildir" / "cache").write_bytes(b"rubbish" * 1000)
    (tmp_path / "Maildir" / "state").write_bytes(b"rubbish" * 1000)
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert await folder.parts([1]) == {1: part}
    assert [info.uid for info in folder.messages()] == [1]
    assert list((tmp_path / "Maildir").glob("state.damaged.*"))
    await store.close()


async def test_status(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    await append(folder, MAIL, MAIL)
    await folder.store([1], ["\\Seen", "\\Deleted"], "add")
    status = await store.status("INBOX")
    assert (status.messages, status.unseen, status.deleted, status.recent) == (2, 1, 1, 2)
    assert status.size == 2 * len(MAIL)
    assert status.uidnext == 3
    await store.close()


async def test_async_blocks_and_line_ends(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open("INBOX")

    async def blocks():
        for index in range(0, len(MAIL), 3):
            yield MAIL[index : index + 3]

    await folder.append([AppendData(blocks(), len(MAIL), internal_date=1_000_000_000.0)])
    assert await folder.read(1) == MAIL
    assert await folder.internal_dates([1]) == {1: 1_000_000_000.0}
    name = os.listdir(tmp_path / "Maildir" / "cur")[0]
    stored = (tmp_path / "Maildir" / "cur" / name).read_bytes()
    assert stored == MAIL.replace(b"\r\n", b"\n")
    assert f",S={len(stored)},W={len(MAIL)}:2," in name
    await store.close()


@pytest.mark.parametrize(("folders", "messages"), [(16, 1000), (100, 20)])
async def test_more_folders_than_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: int, messages: int
) -> None:
    """Those used longest ago are closed behind the others' back, and can be opened again at once."""
    monkeypatch.setattr(store_module, "_KEEP_OPEN", folders)
    monkeypatch.setattr(store_module, "_KEEP_MESSAGES", messages)
    store = make_store(tmp_path)
    names = [f"F{number}" for number in range(40)]
    for name in names:
        await store.create(name)
    for turn in range(3):
        for name in names:
            folder = await store.open(name)
            await append(folder, MAIL)
            assert folder.uidnext == turn + 2
            folder.release()
    assert (await store.status("F1")).messages == 3
    # What is remembered of a status is void when anything changes.
    folder = await store.open("F1")
    await folder.store([1], ["\\Seen", "\\Deleted"], "set")
    found = await store.status("F1")
    assert (found.unseen, found.deleted, found.deleted_size) == (2, 1, len(MAIL))
    folder.claim_recent()
    assert (await store.status("F1")).recent == 0
    folder.release()
    async with asyncio.timeout(10):
        await store.close()


async def test_what_comes_while_a_session_selects_is_recent_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread has taken the message in, but no session can see it yet."""
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    first = View(folder, "INBOX", read_only=False)
    reached, go_on = threading.Event(), threading.Event()
    save = folder.index.save

    def save_late() -> None:
        reached.set()
        assert go_on.wait(30)
        save()

    monkeypatch.setattr(folder.index, "save", save_late)
    drop(tmp_path, "1.a.host")
    looking = asyncio.ensure_future(folder.refresh())
    assert await asyncio.to_thread(reached.wait, 30)
    second = View(folder, "INBOX", read_only=False)
    go_on.set()
    await looking
    assert first.updates(True) == [b"* 1 EXISTS\r\n", b"* 1 RECENT\r\n"]
    assert second.updates(True) == [b"* 1 EXISTS\r\n", b"* 0 RECENT\r\n"]
    third = View(folder, "INBOX", read_only=False)
    views = (first, second, third)
    assert [1 in view.recent for view in views] == [True, False, False]
    assert [view.count_recent() for view in views] == [1, 0, 0]
    await store.close()
