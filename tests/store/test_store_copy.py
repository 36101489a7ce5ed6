"""COPY and MOVE: where a file cannot be linked or renamed, and where it fails."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from resel_lda.mailbox import AppendData, MailboxError
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

MAILS = [b"From: a@b.c\r\nSubject: %d\r\n\r\nbody\r\n" % number for number in range(3)]


class _NoLinks(Disk):
    """Links into cur/ fail with `error` from the second on; those into tmp/ as well."""

    def __init__(self, error: int) -> None:
        self._error = error
        self._links = 0

    def link(self, source: str | Path, target: str | Path) -> None:  # type: ignore[override]
        if Path(target).parent.name in ("cur", "tmp"):
            self._links += 1
            if self._links > 1:
                raise OSError(self._error, os.strerror(self._error), str(target))
        super().link(source, target)


def _store(path: Path, disk: Disk) -> MaildirStore:
    settings = Settings.build(mail_location=f"maildir:{path}/Maildir", myhostname="mx.example.org")
    return MaildirStore(User("u", home=str(path)), settings, disk, MailLog(StreamSink(2)))


def _files(path: Path, folder: str, part: str = "cur") -> list[str]:
    return sorted(os.listdir(path / "Maildir" / folder / part))


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EMLINK, errno.EPERM])
async def test_copies_the_octets_where_links_cannot_be(tmp_path: Path, error: int) -> None:
    store = _store(tmp_path, _NoLinks(error))
    await store.create("Sub")
    inbox = await store.open("INBOX")
    uids = await inbox.append([AppendData([mail], len(mail), ["\\Seen"]) for mail in MAILS])
    _, pairs = await inbox.copy(uids, "Sub")
    sub = await store.open("Sub")
    assert [new for _, new in pairs] == [info.uid for info in sub.messages()]
    assert [await sub.read(new) for _, new in pairs] == MAILS
    assert all(info.flags == {"\\Seen"} for info in sub.messages())
    assert len(_files(tmp_path, ".Sub")) == 3
    assert _files(tmp_path, ".Sub", "tmp") == []
    await store.close()


async def test_a_copy_that_fails_leaves_the_originals_and_nothing_else(tmp_path: Path) -> None:
    store = _store(tmp_path, _NoLinks(errno.ENOSPC))
    await store.create("Sub")
    inbox = await store.open("INBOX")
    uids = await inbox.append([AppendData([mail], len(mail), []) for mail in MAILS])
    before = _files(tmp_path, "")
    with pytest.raises(MailboxError, match="Not enough disk space"):
        await inbox.copy(uids, "Sub")
    assert _files(tmp_path, "") == before
    assert _files(tmp_path, ".Sub") == _files(tmp_path, ".Sub", "tmp") == []
    assert [await inbox.read(uid) for uid in uids] == MAILS
    await store.close()


async def test_copies_what_another_program_renames_meanwhile(tmp_path: Path) -> None:
    class Renaming(Disk):
        def link(self, source: str | Path, target: str | Path) -> None:  # type: ignore[override]
            if Path(target).parent.name == "cur" and Path(source).exists() and not self.done:
                self.done = True
                os.rename(source, f"{source}F")
            super().link(source, target)

        done = False

    store = _store(tmp_path, Renaming())
    await store.create("Sub")
    inbox = await store.open("INBOX")
    uids = await inbox.append([AppendData([mail], len(mail), []) for mail in MAILS])
    _, pairs = await inbox.copy(uids, "Sub")
    sub = await store.open("Sub")
    assert [await sub.read(new) for _, new in pairs] == MAILS
    assert len(_files(tmp_path, ".Sub")) == len(_files(tmp_path, "")) == 3
    await store.close()


class _NoMoves(Disk):
    """Renames into another folder's cur/ fail with `error` from the second on."""

    def __init__(self, error: int) -> None:
        self._error = error
        self.renames = 0

    def rename(self, source: str | Path, target: str | Path) -> None:  # type: ignore[override]
        source, target = Path(source), Path(target)
        if source.parent.name == target.parent.name == "cur" and ".Sub" in target.parts:
            self.renames += 1
            if self.renames > 1:
                raise OSError(self._error, os.strerror(self._error), str(target))
        super().rename(source, target)


async def test_a_move_that_fails_halfway_leaves_all_where_it_was(tmp_path: Path) -> None:
    disk = _NoMoves(errno.ENOSPC)
    store = _store(tmp_path, disk)
    await store.create("Sub")
    inbox = await store.open("INBOX")
    uids = await inbox.append([AppendData([mail], len(mail), []) for mail in MAILS])
    before = _files(tmp_path, "")
    with pytest.raises(MailboxError, match="Not enough disk space"):
        await inbox.move(uids, "Sub")
    assert disk.renames == 2
    assert _files(tmp_path, "") == before
    assert _files(tmp_path, ".Sub") == []
    await inbox.refresh()
    assert [await inbox.read(uid) for uid in inbox.uids()] == MAILS
    assert inbox.uids() == list(uids)
    await store.close()


async def test_moves_to_another_file_system(tmp_path: Path) -> None:
    store = _store(tmp_path, _NoMoves(errno.EXDEV))
    await store.create("Sub")
    inbox = await store.open("INBOX")
    uids = await inbox.append([AppendData([mail], len(mail), ["\\Seen"]) for mail in MAILS])
    _, pairs = await inbox.move(uids, "Sub")
    sub = await store.open("Sub")
    assert [old for old, _ in pairs] == list(uids)
    assert [await sub.read(new) for _, new in pairs] == MAILS
    assert all(info.flags == {"\\Seen"} for info in sub.messages())
    assert (_files(tmp_path, ""), len(_files(tmp_path, ".Sub"))) == ([], 3)
    assert inbox.uids() == []
    await store.close()


async def test_moves_keep_dates_and_flags_and_are_durable_where_they_go(tmp_path: Path) -> None:
    class Synced(Disk):
        done: list[str] = []

        def rename(self, source: str | Path, target: str | Path) -> None:  # type: ignore[override]
            super().rename(source, target)
            self.done.append("rename")

        def sync_directory(self, path: str | Path) -> None:  # type: ignore[override]
            super().sync_directory(path)
            self.done.append("/".join(Path(path).parts[-2:]))

    disk = Synced()
    store = _store(tmp_path, disk)
    await store.create("Sub")
    inbox = await store.open("INBOX")
    uids = await inbox.append(
        [AppendData([mail], len(mail), ["Work"], internal_date=1e9 + n) for n, mail in enumerate(MAILS)]
    )  # fmt: skip
    disk.done.clear()
    _, pairs = await inbox.move(uids, "Sub")
    places = [name for name in disk.done if name.endswith("cur")]
    assert places[:2] == [".Sub/cur", "Maildir/cur"]
    assert disk.done.index(".Sub/cur") > disk.done.index("rename")
    sub = await store.open("Sub")
    dates = await sub.internal_dates(sub.uids())
    assert [(dates[info.uid], info.flags) for info in sub.messages()] == [
        (1e9 + n, {"Work"}) for n in range(3)
    ]
    await store.close()
    store = _store(tmp_path, Disk())
    sub, inbox = await store.open("Sub"), await store.open("INBOX")
    dates = await sub.internal_dates(sub.uids())
    assert list(dates.values()) == [1e9, 1e9 + 1, 1e9 + 2]
    assert [info.uid for info in sub.messages()] == [new for _, new in pairs]
    assert inbox.uids() == []
    await store.close()


async def test_moves_within_a_folder(tmp_path: Path) -> None:
    store = _store(tmp_path, Disk())
    inbox = await store.open("INBOX")
    uids = await inbox.append([AppendData([mail], len(mail), []) for mail in MAILS])
    _, pairs = await inbox.move(uids[:2], "INBOX")
    assert inbox.uids() == [3, 4, 5]
    assert [await inbox.read(new) for _, new in pairs] == MAILS[:2]
    assert len(_files(tmp_path, "")) == 3
    await store.close()


async def test_moves_both_ways_at_once(tmp_path: Path) -> None:
    store = _store(tmp_path, Disk())
    await store.create("Sub")
    inbox, sub = await store.open("INBOX"), await store.open("Sub")
    for folder in (inbox, sub):
        await folder.append([AppendData([mail], len(mail), []) for mail in MAILS])
    for _ in range(5):
        there, back = inbox.uids(), sub.uids()
        async with asyncio.timeout(60):
            await asyncio.gather(inbox.move(there, "Sub"), sub.move(back, "INBOX"))
    assert len(inbox.uids()) == len(sub.uids()) == 3
    assert sorted([await inbox.read(uid) for uid in inbox.uids()]) == sorted(MAILS)
    await store.close()
