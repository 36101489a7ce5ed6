"""The cache: made when asked or in the background, never the truth, never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from test_store_mailbox import append, drop, make_store

from resel_lda.maildir import reading
from resel_lda.maildir.cache import LAYERS, CacheFile
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.maildir.state import _STATE_STEPS, StateFile
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink

MAIL = (
    b"From: Ada <ada@x.org>\r\nTo: b@x.org\r\nSubject: number %d\r\nDate: Mon, 7 Feb 2000 10:00:00 +0000\r\n"
    b"Message-ID: <%d@x>\r\n\r\nbody\r\n"
)


def kept(folder: MaildirFolder) -> dict[str, set[int]]:
    return {layer: folder.reader.cache.known(folder.reader.guid, layer) for layer in LAYERS}


async def until(done: Callable[[], bool]) -> None:
    for _ in range(6000):
        if done():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


async def test_filled_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_FILL_DELAY", 0.0)
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await append(folder, *[MAIL % (n, n) for n in range(30)])
    drop(tmp_path, "1700000000.M1P1.other", MAIL % (99, 99))
    await until(lambda: all(uids == set(range(1, 32)) for uids in kept(folder).values()))
    # What is asked for now comes from there.
    monkeypatch.setattr(folder.reader, "read", None)
    monkeypatch.setattr(folder.reader, "_read_headers", None)
    assert len(await folder.envelopes(folder.uids())) == 31
    assert b'"number 99"' in (await folder.envelopes([31]))[31]
    assert len(await folder.structures(folder.uids())) == 31
    assert await folder.find("subject", "number 9") == {10, 31}
    assert (await folder.sort_keys([5], ["message_id", "base"]))[5] == ("4@x", "NUMBER 4")
    await store.close()


async def test_nothing_stays_of_what_others_expunged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or of what was expunged just before a kill, which is the same at the next start."""
    monkeypatch.setattr(reading, "_FILL_DELAY", 0.0)
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await append(folder, *[MAIL % (n, n) for n in range(3)])
    await until(lambda: all(uids == {1, 2, 3} for uids in kept(folder).values()))
    await store.close()
    for path in (tmp_path / "Maildir/cur").iterdir():
        if b"number 1" in path.read_bytes():
            path.unlink()
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await until(lambda: all(uids == {1, 3} for uids in kept(folder).values()))
    assert await folder.find("subject", "number") == {1, 3}
    await store.close()


async def test_copies_have_it_and_expunged_ones_lose_it(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await store.create("Sub")
    target = await store.open_folder("Sub")
    await append(folder, *[MAIL % (n, n) for n in range(4)])
    folder.reader.fill(folder.uids())
    names = [b"SUBJECT"]
    assert (await folder.selected_fields([1], names, False))[1] == b"Subject: number 0\r\n\r\n"
    await folder.copy([2, 3], "Sub")
    await folder.expunge([1])
    await until(lambda: 1 not in kept(folder)["sort"] and kept(target)["sort"] == {1, 2})
    assert all(uids == {2, 3, 4} for uids in kept(folder).values())
    assert all(uids == {1, 2} for uids in kept(target).values())
    assert b'"number 2"' in (await target.envelopes([2]))[2]
    target.release()
    await store.delete("Sub")
    assert kept(target)["sort"] == set()
    assert kept(folder)["sort"] == {2, 3, 4}
    await store.close()


async def test_another_uidvalidity_is_another_folder(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await append(folder, MAIL % (1, 1))
    await folder.envelopes([1])
    await store.close()
    uidlist = tmp_path / "Maildir" / "dovecot-uidlist"
    head, _, _ = uidlist.read_text().partition("\n")
    words = head.split()
    words[1] = "V12345"
    drop(tmp_path, "1000000000.M1P1.other", MAIL % (7, 7))
    next((tmp_path / "Maildir" / "cur").iterdir()).unlink()
    uidlist.write_text(" ".join(words).replace("N2", "N1") + "\n")
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    assert folder.uidvalidity == 12345
    assert b'"number 7"' in (await folder.envelopes([1]))[1]
    await store.close()


@pytest.mark.parametrize("failing", ["add", "find", "known", "rows", "single", "field_set"])
async def test_a_cache_that_fails_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """A full disk, a locked file: everything is read from the messages."""

    def full(*_: object) -> None:
        raise apsw.FullError("database or disk is full")

    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await append(folder, *[MAIL % (n, n) for n in range(3)])
    monkeypatch.setattr(CacheFile, failing, full)
    assert len(await folder.envelopes([1, 2, 3])) == 3
    assert len(await folder.structures([1, 2, 3])) == 3
    assert len(await folder.selected_fields([1, 2, 3], [b"TO"], False)) == 3
    assert len(await folder.sort_keys([1, 2, 3], ["base"])) == 3
    # None: the caller looks at the headers.
    assert await folder.find("subject", "number 1") in (None, {2})
    await store.close()


async def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    await append(folder, *[MAIL % (n, n) for n in range(3)])
    assert await folder.find("subject", "number 1") == {2}
    await store.close()
    (tmp_path / "Maildir" / "cache").write_bytes(b"SQLite format 3\0" + b"\xff" * 20000)
    store = make_store(tmp_path)
    folder = await store.open_folder("INBOX")
    assert await folder.find("subject", "number 1") == {2}
    assert len(await folder.envelopes([1, 2, 3])) == 3
    await store.close()


def test_a_state_of_an_earlier_version_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "state"
    old = apsw.Connection(str(path))
    old.execute(_STATE_STEPS[0])
    old.execute("PRAGMA user_version = 1")
    old.execute("INSERT INTO folder VALUES (1, 'g', 7, 500, 3, 100)")
    old.execute("INSERT INTO message VALUES (1, 2, 450, 1.5, 'S')")
    old.close()
    state = StateFile(str(path), Disk(), MailLog(StreamSink(2)))
    found = state.load("g", 7, 4)
    assert (found.floor, found.is_new, found.next_uid) == (500, False, 0)
    assert found.rows == {2: (450, "S")}
    assert (state.dates(found.id, 1, 9), found.dated_from) == ({2: (1.5, None)}, 3)
    state.database.close()
    # One of a program to come is not understood: it is set aside, not overwritten.
    newer = apsw.Connection(str(path))
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    assert state.load("g", 7, 4).is_new
    assert list(tmp_path.glob("state.damaged.*"))
    state.database.close()
