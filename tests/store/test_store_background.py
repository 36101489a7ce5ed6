"""Work that nobody waits for: after sessions, but not never."""

from __future__ import annotations

import asyncio

import pytest

from resel_lda.maildir import background
from resel_lda.maildir.background import Background


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
