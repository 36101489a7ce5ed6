"""Mail that comes into a folder that is open: seen at once where a session waits for it, else by whoever
asks, so that deliveries that come together are taken in together."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from test_store_mailbox import drop, make_store

from resel_lda.maildir import folder as folders


async def test_it_stays_in_new_until_somebody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_UNWATCHED", 3600.0)
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    for number in range(3):
        drop(tmp_path, f"{1_700_000_000 + number}.M1P1.host")
    # The kernel's word for it is read here.
    assert not folder.is_quiet()
    await asyncio.sleep(0.05)
    assert len(os.listdir(tmp_path / "Maildir" / "new")) == 3
    await folder.refresh()
    assert folder.uids() == [1, 2, 3]
    folder.release()
    await store.close()


async def test_whoever_begins_to_watch_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_UNWATCHED", 3600.0)
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    drop(tmp_path, "1700000000.M1P1.host")
    assert not folder.is_quiet()
    changed = asyncio.Event()
    stop = folder.watch(changed.set)
    await asyncio.wait_for(changed.wait(), 20)
    assert folder.uids() == [1]
    changed.clear()
    drop(tmp_path, "1700000001.M1P1.host")
    await asyncio.wait_for(changed.wait(), 20)
    assert folder.uids() == [1, 2]
    stop()
    folder.release()
    await store.close()
