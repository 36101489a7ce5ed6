"""Changes of many messages at once, of which another program has some in hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from test_store_mailbox import make_store

from resel_mta.disk import Disk, StrPath


class Meddled(Disk):
    """Another program does something just before the next rename."""

    def __init__(self) -> None:
        self.before: Callable[[], None] | None = None

    def rename(self, source: StrPath, target: StrPath) -> None:
        before, self.before = self.before, None
        if before is not None:
            before()
        super().rename(source, target)


def names(directory: Path) -> set[str]:
    return set(os.listdir(directory / "cur"))


def meddle(mail: Path) -> None:
    (mail / "cur" / "2.a.host:2,S").rename(mail / "cur" / "2.a.host:2,RS")
    (mail / "cur" / "3.a.host:2,").unlink()


def filled(path: Path) -> Path:
    """The Maildir."""
    mail = path / "Maildir"
    for part in ("cur", "new", "tmp"):
        (mail / part).mkdir(parents=True)
    for name in ("1.a.host:2,", "2.a.host:2,S", "3.a.host:2,", "4.a.host:2,S,x"):
        (mail / "cur" / name).write_bytes(b"Subject: hi\n\nbody\n")
    return mail


async def test_store_finds_what_was_renamed_meanwhile(tmp_path: Path) -> None:
    disk = Meddled()
    mail, store = filled(tmp_path), make_store(tmp_path, disk=disk)
    folder = await store.open("INBOX")
    before = folder.highestmodseq
    dates = [await folder.saved_dates([uid]) for uid in (1, 2, 4)]
    disk.before = lambda: meddle(mail)
    result = await folder.store([1, 2, 3, 4], ["\\Flagged"], "add")
    assert list(result.done) == [1, 2, 4]
    expected = {"1.a.host:2,F", "2.a.host:2,FRS", "4.a.host:2,FS,x"}
    assert names(mail) == expected
    assert [info.uid for info in folder.changed_since(before)] == [1, 2, 4]
    kept = [(info.uid, info.flags, info.modseq) for info in folder.messages()]
    await store.close()
    # As `state` has it.
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert [(info.uid, info.flags, info.modseq) for info in folder.messages()] == kept
    assert [await folder.saved_dates([uid]) for uid in (1, 2, 4)] == dates
    assert folder.vanished_since(before) == [(3, 3)]
    await store.close()


async def test_expunge_keeps_what_was_renamed_meanwhile(tmp_path: Path) -> None:
    disk = Meddled()
    mail, store = filled(tmp_path), make_store(tmp_path, disk=disk)
    folder = await store.open("INBOX")
    before = folder.highestmodseq
    disk.before = lambda: meddle(mail)
    assert list(await folder.expunge([1, 2, 3, 4])) == [1, 2, 3, 4]
    assert names(mail) == set()
    assert folder.vanished_since(before) == [(1, 4)]
    assert names(Path(store.bin.root)) == {"1.a.host:2,", "2.a.host:2,S", "4.a.host:2,S,x"}
    await store.close()
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert (folder.count(), folder.uidnext) == (0, 5)
    assert folder.vanished_since(before) == [(1, 4)]
    await store.close()
