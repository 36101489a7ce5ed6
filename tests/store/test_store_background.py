"""Work that nobody waits for: after sessions, but not never."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from resel_lda.maildir import background
from resel_lda.maildir.background import Background
from resel_lda.maildir.index import FolderIndex
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User


async def test_a_piece_waits_until_sessions_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_QUIET", 0.05)
    monkeypatch.setattr(background, "_PATIENCE", 60.0)
    turns, loop = Background(pause=0.0), asyncio.get_running_loop()
    last = 0.0

    async def session() -> None:
        nonlocal last
        with turns.waits():
            await asyncio.sleep(0.1)
        for _ in range(5):
            await asyncio.sleep(0.01)
            with turns.waits():
                last = loop.time()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(session())
        await asyncio.sleep(0)
        async with turns.turn():
            waited = loop.time() - last
    assert waited >= 0.05


async def test_sessions_that_never_rest_hold_it_up_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "_QUIET", 60.0)
    monkeypatch.setattr(background, "_PATIENCE", 0.02)
    turns = Background(pause=0.0)
    with turns.waits():
        for _ in range(3):
            async with asyncio.timeout(20), turns.turn():
                pass


class Noting(Background):
    """waiting: sessions that are waited for now."""

    waiting = 0

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        with super().waits():
            self.waiting += 1
            yield
            self.waiting -= 1


async def test_while_a_folder_is_loaded_nothing_is_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    turns, during, load = Noting(), list[int](), FolderIndex.load

    def noting(index: FolderIndex) -> None:
        during.append(turns.waiting)
        load(index)

    monkeypatch.setattr(FolderIndex, "load", noting)
    settings = Settings.build("server", mail_location=f"maildir:{tmp_path}/Maildir")
    log = MailLog(StreamSink(2))
    store = MaildirStore(User("u", home=str(tmp_path)), settings, Disk(), log, background=turns)
    (await store.open("INBOX")).release()
    await store.close()
    assert (during, turns.waiting) == ([1], 0)
