"""Internal dates and save dates of a folder that is seen for the first time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from test_store_mailbox import MAIL, make_store

from resel_lda.maildir import reading

NAMES = [f"{1_700_000_000 + n}.M{n}P1.other" for n in range(3)]


def given(path: Path) -> Path:
    """A Maildir that another program filled: its cur/."""
    for part in ("cur", "new", "tmp"):
        (path / "Maildir" / part).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        file = path / "Maildir" / "cur" / f"{name}:2,"
        file.write_bytes(MAIL)
        os.utime(file, (1e9 + number, 1e9 + number))
    return path / "Maildir" / "cur"


def until_later(then: int) -> None:
    """Files changed from now on have another second of change."""
    while int(time.time()) <= then:
        time.sleep(0.02)


async def test_dates_are_those_of_the_files(tmp_path: Path) -> None:
    cur = given(tmp_path)
    changed = {n: int((cur / f"{NAMES[n - 1]}:2,").stat().st_ctime) for n in (1, 2, 3)}
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert await folder.internal_dates([2, 3, 9]) == {2: 1e9 + 1, 3: 1e9 + 2}
    # They are known from now on.
    os.utime(cur / f"{NAMES[1]}:2,")
    (cur / f"{NAMES[0]}:2,").rename(cur / f"{NAMES[0]}:2,S")
    assert await folder.internal_dates([1, 2]) == {1: 1e9, 2: 1e9 + 1}
    await store.close()
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert await folder.internal_dates([1, 2, 3]) == {1: 1e9, 2: 1e9 + 1, 3: 1e9 + 2}
    assert (await folder.saved_dates([3])) == {3: changed[3]}
    await store.close()


@pytest.mark.parametrize("again", [False, True])
async def test_a_flag_does_not_make_the_save_date_later(tmp_path: Path, again: bool) -> None:
    cur = given(tmp_path)
    before = int((cur / f"{NAMES[2]}:2,").stat().st_ctime)
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    if again:
        await store.close()
        store = make_store(tmp_path)
        folder = await store.open("INBOX")
    until_later(before)
    await folder.store([1, 3], ["\\Flagged"], "add")
    await folder.store([3], ["\\Seen"], "add")
    assert int((cur / f"{NAMES[2]}:2,FS").stat().st_ctime) > before
    assert (await folder.saved_dates([1, 2, 3]))[3] == before
    await store.close()
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert (await folder.saved_dates([3])) == {3: before}
    assert await folder.internal_dates([3]) == {3: 1e9 + 2}
    await store.close()


async def test_dates_are_noted_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_FILL_DELAY", 0.0)
    cur = given(tmp_path)
    before = int((cur / f"{NAMES[0]}:2,").stat().st_ctime)
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    await folder._filler
    until_later(before)
    # Another program's flag, and a program that touches files.
    (cur / f"{NAMES[0]}:2,").rename(cur / f"{NAMES[0]}:2,S")
    os.utime(cur / f"{NAMES[0]}:2,S")
    await folder.refresh()
    assert folder.get(1).flags == {"\\Seen"}
    assert await folder.saved_dates([1]) == {1: before}
    assert await folder.internal_dates([1]) == {1: 1e9}
    await store.close()


async def test_a_copy_has_the_date_of_the_original(tmp_path: Path) -> None:
    cur = given(tmp_path)
    store = make_store(tmp_path)
    await store.create("Sub")
    folder, sub = await store.open("INBOX"), await store.open("Sub")
    await folder.internal_dates([1])
    os.utime(cur / f"{NAMES[0]}:2,")
    await folder.copy([1, 2], "Sub")
    await folder.move([3], "Sub")
    assert await sub.internal_dates([1, 2, 3]) == {1: 1e9, 2: 1e9 + 1, 3: 1e9 + 2}
    await store.close()


async def test_a_name_with_strange_letters(tmp_path: Path) -> None:
    cur = given(tmp_path)
    os.rename(cur / f"{NAMES[0]}:2,", os.fsencode(cur / f"{NAMES[0]}:2,") + b"S\xe9")
    modseqs = []
    for _ in range(2):
        store = make_store(tmp_path)
        folder = await store.open("INBOX")
        assert folder.get(1).flags == {"\\Seen"}
        modseqs.append(folder.get(1).modseq)
        await store.close()
    assert modseqs[0] == modseqs[1]
    store = make_store(tmp_path)
    folder = await store.open("INBOX")
    assert (await folder.store([1], ["\\Flagged"], "add")).done == [1]
    assert folder.get(1).flags == {"\\Seen", "\\Flagged"}
    assert await folder.read(1) == MAIL
    await store.close()
