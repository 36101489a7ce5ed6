"""Expunged mail comes back: from a client's EXPUNGE, POP3, an administrator, a deleted folder."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from resel_lda.mailbox import AppendData
from resel_lda.maildir.store import MaildirStore
from resel_mta.commands.adm import main
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

MAIL = b"From: a@b.c\r\nSubject: %d\r\n\r\nbody\r\n"


class Place:
    """A user's store, and resel-adm on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.maildir = root / "mail" / "lcarr"
        (root / "users").write_text("lcarr:{PLAIN}x::::::\n")
        self.values = {
            "mail_location": f"maildir:{root}/mail/%u",
            "passdb": f"passwd-file:{root}/users",
            "namespace_separator": "/",
            "data_directory": f"{root}/data",
            "mail_owner": "nobody",
            "expunge_minfree": "0",
        }

    def open(self, **more: str) -> MaildirStore:
        settings = Settings.build("server", **{**self.values, **more})
        return MaildirStore(User("lcarr"), settings, Disk(), MailLog(StreamSink(2)))

    def adm(self, *words: str) -> int:
        config = self.root / "main.cf"
        config.write_text("".join(f"{name} = {text}\n" for name, text in self.values.items()))
        return main(["-c", str(config), *words])

    def kept(self) -> list[str]:
        return sorted(str(p.name) for p in (self.maildir / "resel-bin").rglob("cur/*"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    # What root does as another user is tested beside doveadm.
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    return Place(tmp_path)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[MaildirStore]:
    store = place.open()
    yield store
    await store.close()


async def fill(store: MaildirStore, name: str, count: int = 3) -> None:
    folder = await store.open_folder(name)
    try:
        for number in range(1, count + 1):
            flags = ("\\Seen", "Work") if number == 2 else ()
            await folder.append([AppendData([MAIL % number], 0, flags, 1780000000.0 + number)])
    finally:
        folder.release()


async def contents(
    store: MaildirStore, name: str
) -> list[tuple[int, bytes, frozenset[str], float]]:
    folder = await store.open_folder(name)
    try:
        dates = await folder.internal_dates(folder.uids())
        return [
            (info.uid, await folder.read(info.uid), info.flags, dates[info.uid])
            for info in folder.messages()
        ]
    finally:
        folder.release()


async def expunge(store: MaildirStore, name: str, *uids: int) -> None:
    folder = await store.open_folder(name)
    await folder.expunge(uids)
    folder.release()


async def test_undo_brings_back_folder_flags_and_date(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    store = place.open()
    await store.create("Work/Deep")
    await fill(store, "Work/Deep")
    before = await contents(store, "Work/Deep")
    await expunge(store, "Work/Deep", 1, 2)
    assert [uid for uid, *_ in await contents(store, "Work/Deep")] == [3]
    assert "Work/Deep" in {info.name for info in await store.folders()}
    assert not [info for info in await store.folders() if "bin" in info.name]
    await store.delete("Work/Deep")
    await store.close()
    assert await asyncio.to_thread(place.adm, "undelete", "-u", "lcarr", "mailbox", "Work/*") == 0
    assert "back in Work/Deep" in capsys.readouterr().err
    store = place.open()
    after = await contents(store, "Work/Deep")
    assert [row[1:] for row in after] == [row[1:] for row in before]
    assert place.kept() == []
    await store.close()


async def test_undo_move_keeps_nothing(place: Place, store: MaildirStore) -> None:
    await store.create("Target")
    await fill(store, "INBOX")
    inbox = await store.open_folder("INBOX")
    await inbox.move([1, 2], "Target")
    inbox.release()
    assert place.kept() == []
    await expunge(store, "Target", 1)
    assert len(place.kept()) == 1


async def test_undo_kept_for_a_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place.open()
    await fill(store, "INBOX")
    await expunge(store, "INBOX", 1, 2)
    await store.close()
    assert len(place.kept()) == 2
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7 * 86400 - 60)
    store = place.open()
    await store.folders()
    await store.close()
    assert len(place.kept()) == 2
    monkeypatch.setattr(time, "time", lambda: now + 7 * 86400 + 60)
    store = place.open()
    await store.folders()
    await store.close()
    assert place.kept() == []


async def test_undo_turned_off(place: Place) -> None:
    store = place.open(expunge_keep_time="0")
    await fill(store, "INBOX")
    await expunge(store, "INBOX", 1, 2)
    await store.close()
    assert not (place.maildir / "resel-bin").exists()


async def test_undo_a_full_disk_keeps_nothing(place: Place) -> None:
    store = place.open()
    await fill(store, "INBOX")
    await expunge(store, "INBOX", 1)
    await store.close()
    assert len(place.kept()) == 1
    # More than any disk has: the older ones go, and nothing is kept.
    store = place.open(expunge_minfree="1000000T")
    await expunge(store, "INBOX", 2)
    assert [uid for uid, *_ in await contents(store, "INBOX")] == [3]
    await store.close()
    assert place.kept() == []


def test_undo_commands(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    message = place.root / "message"
    for number in range(1, 5):
        message.write_bytes(MAIL % number)
        assert place.adm("save", "-u", "lcarr", str(message)) == 0
    folders = ("(", "mailbox", "INBOX", "or", "mailbox", "x*", ")")
    assert place.adm("expunge", "-u", "lcarr", *folders, "all") == 0
    out, error = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"resel-adm\(lcarr\): Info: 4 messages \(\d+ B\) kept until "
        r"\d{4}-\d\d-\d\d \d\d:\d\d; undelete brings back, purge frees\n",
        error,
    )
    fields = "messages kept keptsize"
    assert place.adm("-f", "tab", "mailbox", "status", "-u", "lcarr", fields, "INBOX") == 0
    size = 4 * len(MAIL.replace(b"\r\n", b"\n") % 1)
    assert capsys.readouterr().out == f"mailbox\tmessages\tkept\tkeptsize\nINBOX\t0\t4\t{size}\n"
    assert place.adm("-f", "tab", "undelete", "-u", "lcarr", "-l", "subject", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mailbox\tuid\texpunged\tfrom\tsubject"
    assert re.fullmatch(r"INBOX\t\d\t\S+ \S+\ta@b.c\t2", lines[1])
    assert len(lines) == 2
    assert place.adm("undelete", "-u", "lcarr", "subject", "2", "savedsince", "1h") == 0
    assert "1 message back in INBOX" in capsys.readouterr().err
    assert place.adm("undelete", "-u", "lcarr", "subject", "nothing") == 68
    assert place.adm("mailbox", "create", "-u", "lcarr", "Old") == 0
    assert place.adm("save", "-u", "lcarr", "-m", "Old", str(message)) == 0
    capsys.readouterr()
    assert place.adm("mailbox", "delete", "-u", "lcarr", "Old") == 0
    assert "Info: 1 message (" in capsys.readouterr().err
    assert place.adm("purge", "-u", "lcarr") == 0
    assert "4 messages (" in capsys.readouterr().err
    assert place.kept() == []
    assert place.adm("expunge", "--purge", "-u", "lcarr", "mailbox", "INBOX", "all") == 0
    assert capsys.readouterr() == ("", "")
    assert place.kept() == []


async def test_undo_over_quota_says_only_that(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not come back stays in the bin; it did match."""
    store = place.open()
    await fill(store, "INBOX")
    await expunge(store, "INBOX", 1, 2, 3)
    await store.close()
    place.values["quota_storage_size"] = "1"
    assert await asyncio.to_thread(place.adm, "undelete", "-u", "lcarr", "all") == 73
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "Quota exceeded" in line] == said != []
    assert len(place.kept()) == 3
