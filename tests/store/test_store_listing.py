"""A listing may miss a file that is renamed during it: Dovecot's of our renames, ours of others'."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "mime"))
from dovecot_imap import IMAP, DovecotImap, give, reachable_mailbox
from test_store_mailbox import MAIL, make_store
from test_store_races import Unsynced, deliver, dovecot_view, open_store

from resel_lda.mailbox import AppendData
from resel_lda.maildir.dotlock import dotlock
from resel_lda.maildir.files import MaildirFiles
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.maildir.store import MaildirStore
from resel_lda.maildir.uidlist import append_entries, read_uidlist
from resel_lda.maildir.watch import Watcher
from resel_mta.disk import Disk

OTHERS = "1700000000.M1P1.other"


@pytest.fixture
def root() -> Iterator[Path]:
    with reachable_mailbox() as path:
        yield path


@pytest.mark.needs(str(IMAP))
async def test_dovecot_misses_nothing_while_we_change_flags(root: Path) -> None:
    """More files than it reads from the directory at a time."""
    rng = random.Random(5)
    for number in range(1, 2001):
        name = f"{1700000000 + number}.M{number}P1.a-name-as-long-as-those-of-servers:2,"
        (root / "Maildir" / "cur" / name).write_bytes(b"Subject: %d\n\nx\n" % number)
    give(root, "nobody")
    with DovecotImap(root) as session:
        before = dovecot_view(session)
        assert len(before) == 2000
        store = open_store(root, Unsynced())
        folder = await store.open_folder("INBOX")
        uids = folder.uids()

        async def change() -> None:
            for _ in range(200):
                mode = rng.choice(("add", "remove"))
                await folder.store([rng.choice(uids)], [rng.choice(("\\Seen", "\\Flagged"))], mode)

        changing = asyncio.create_task(change())
        said: list[bytes] = []
        while not changing.done():
            said += await asyncio.to_thread(session.command, "noop")
        await changing
        await store.close()
        assert not [line for line in said if b"EXPUNGE" in line]
        assert dovecot_view(session) == before


class Watching(Disk):
    """Notes whether the lock was held at each rename of a message."""

    def __init__(self) -> None:
        self.held: list[bool] = []

    def rename(self, source, target) -> None:
        if os.path.basename(os.path.dirname(source)) in ("new", "cur"):
            lock = Path(source).parents[1] / "dovecot-uidlist.lock"
            self.held.append(lock.read_text().startswith(f"{os.getpid()}:"))
        super().rename(source, target)


@pytest.mark.parametrize("watched", [True, False])
async def test_what_is_new_is_moved_under_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    if not watched:
        monkeypatch.setattr(Watcher, "add", lambda *_: None)
    disk = Watching()
    store = open_store(tmp_path, disk)
    folder = await store.open_folder("INBOX")
    deliver(tmp_path / "Maildir", 1)
    await folder.refresh()
    assert folder.uids() == [1]
    assert disk.held == [True]
    await store.close()


async def test_flags_are_changed_under_the_lock(tmp_path: Path) -> None:
    disk = Watching()
    store = open_store(tmp_path, disk)
    folder = await store.open_folder("INBOX")
    await folder.append([AppendData([MAIL], 0)] * 3)
    await folder.store([1, 2, 3], ["\\Seen"], "add")
    assert disk.held == [True] * 3
    with dotlock(disk, str(tmp_path / "Maildir" / "dovecot-uidlist")):
        # Nothing to change: nobody is waited for.
        async with asyncio.timeout(30):
            assert (await folder.store([1, 2, 3], ["\\Seen"], "add")).done
    assert disk.held == [True] * 3
    await store.close()


class Full(Disk):
    def create(self, path, mode=0o600) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_on_a_full_disk_mail_can_be_marked_and_expunged(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await (await store.open("INBOX")).append([AppendData([MAIL], 0)] * 2)
    await store.close()
    store = open_store(tmp_path, Full())
    folder = await store.open_folder("INBOX")
    assert (await folder.store([1], ["\\Deleted"], "add")).done
    assert list(await folder.expunge([1], keep=False)) == [1]
    (tmp_path / "Maildir" / "cur" / os.path.basename(folder.index.name(2))).unlink()
    folder.index.scan()
    assert folder.index.uids == {}
    await store.close()


async def other_delivers(tmp_path: Path) -> tuple[MaildirStore, MaildirFolder]:
    """Another program gives UID 3 to a file of its own; we have not looked yet."""
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await folder.append([AppendData([MAIL], 0)] * 2)
    maildir = tmp_path / "Maildir"
    path = str(maildir / "dovecot-uidlist")
    with dotlock(Disk(), path):
        (maildir / "cur" / f"{OTHERS}:2,").write_bytes(b"Subject: other\n\nx\n")
        uidlist = read_uidlist(path)
        uidlist.add(OTHERS)
        append_entries(Disk(), path, uidlist, [OTHERS])
    return store, folder


def miss(monkeypatch: pytest.MonkeyPatch, base: str, times: int = 1) -> None:
    """So many listings miss it."""
    whole = MaildirFiles.list_cur
    left = [times]

    def list_cur(files: MaildirFiles) -> dict[str, str]:
        found = whole(files)
        left[0] -= 1
        if left[0] >= 0:
            del found[base]
        return found

    monkeypatch.setattr(MaildirFiles, "list_cur", list_cur)


async def test_a_message_that_one_listing_misses_comes_before_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not told by the kernel, as on a file system of another machine.
    monkeypatch.setattr(Watcher, "add", lambda *_: None)
    store, folder = await other_delivers(tmp_path)
    miss(monkeypatch, OTHERS)
    assert list(await folder.append([AppendData([MAIL], 0)])) == [4]
    assert folder.uids() == [1, 2, 3, 4]
    assert folder.index.uids[OTHERS] == 3
    await store.close()


async def test_a_message_that_the_first_listing_misses_keeps_its_uid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = await other_delivers(tmp_path)
    await store.close()
    path = str(tmp_path / "Maildir" / "dovecot-uidlist")
    with dotlock(Disk(), path):
        (tmp_path / "Maildir" / "cur" / "1700000001.M2P1.other:2,").write_bytes(b"\nx\n")
        uidlist = read_uidlist(path)
        uidlist.add("1700000001.M2P1.other")
        append_entries(Disk(), path, uidlist, ["1700000001.M2P1.other"])
    miss(monkeypatch, OTHERS)
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await folder.refresh()
    folder.index.scan()
    assert folder.uids() == [1, 2, 3, 4]
    assert folder.index.uids[OTHERS] == 3
    await store.close()


async def test_dropping_old_lines_keeps_that_of_a_message_that_a_listing_misses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await folder.append([AppendData([MAIL], 0)] * 260)
    await folder.expunge(list(range(2, 261)), keep=False)
    kept = folder.index.uids
    [base] = kept
    miss(monkeypatch, base)
    assert list(await folder.append([AppendData([MAIL], 0)])) == [261]
    uidlist = read_uidlist(str(tmp_path / "Maildir" / "dovecot-uidlist"))
    assert list(uidlist.entries.values()) == [1, 261]
    await store.close()
