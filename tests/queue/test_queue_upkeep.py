"""`resel-queue check` and `purge`: what is damaged is set aside and told, what a crash has left is
removed, and nothing else is touched."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from queue_fakes import make_message, read_all

from resel_mta.commands import queue
from resel_mta.mail import Message, TempFail
from resel_mta.queue.door import Checked, Swept
from resel_mta.queue.spool import THRESHOLD
from resel_mta.queue.sqlite import SQLiteStore
from resel_mta.queue.upkeep import LEFT_AFTER

BIG = b"x" * (THRESHOLD + 1)


@pytest.fixture
async def store(tmp_path: Path) -> SQLiteStore:
    return await SQLiteStore.open(tmp_path)


async def enter(store: SQLiteStore, body: bytes = b"x\r\n") -> Message:
    message = make_message(store, "a@example.org", body=body)
    await store.enter(message)
    return message


def file_of(directory: Path, message: Message) -> Path:
    [path] = directory.glob(f"content/*/{message.queue_id}")
    return path


async def queue_of(store: SQLiteStore, message: Message) -> str:
    entry = await store.get(message.queue_id)
    assert entry is not None
    return entry.queue


async def test_nothing_is_damaged(store: SQLiteStore) -> None:
    for number in range(250):
        await enter(store, BIG if number == 7 else b"x\r\n")
    found = await store.check()
    assert (found.messages, found.files, found.problems, found.left) == (250, 1, [], 0)
    assert found.octets > 0
    assert await store.sweep() == Swept()
    await store.close()


async def test_content_that_cannot_be_read_now_is_no_damage(
    store: SQLiteStore, tmp_path: Path
) -> None:
    message = await enter(store, BIG)
    folder = file_of(tmp_path, message).parent
    # As with a folder of another owner, which root would not notice.
    away = folder.rename(tmp_path / "away")
    folder.symlink_to(folder)
    found = await store.check()
    [problem] = found.problems
    assert problem.startswith(f"{message.queue_id}: content file: ")
    assert "marked as corrupt" not in problem
    with pytest.raises(TempFail, match="could not be read"):
        await store.load(message.queue_id)
    assert await queue_of(store, message) == "incoming"
    folder.unlink()
    away.rename(folder)
    loaded = await store.load(message.queue_id)
    assert loaded is not None
    assert loaded.content is not None
    assert read_all(loaded.content).endswith(BIG)
    assert (await store.check()).problems == []
    await store.close()


@pytest.mark.parametrize("damage", ["gone", "short"])
async def test_a_content_file_is_damaged(store: SQLiteStore, tmp_path: Path, damage: str) -> None:
    good, bad = await enter(store, BIG), await enter(store, BIG)
    path = file_of(tmp_path, bad)
    if damage == "gone":
        path.unlink()
    else:
        os.truncate(path, 100)
    found = await store.check()
    [problem] = found.problems
    assert problem.startswith(f"{bad.queue_id}: content file: ")
    assert problem.endswith(": marked as corrupt")
    assert await queue_of(store, bad) == "corrupt"
    assert (tmp_path / "corrupt" / f"{bad.queue_id}.header").exists()
    assert (tmp_path / "corrupt" / bad.queue_id).exists() is (damage == "short")
    loaded = await store.load(good.queue_id)
    assert loaded is not None
    assert loaded.content is not None
    assert read_all(loaded.content).endswith(BIG)
    again = await store.check()
    assert (again.problems, again.corrupt, again.messages) == ([], 1, 2)
    await store.close()


async def by_hand(store: SQLiteStore, directory: Path, statement: str) -> SQLiteStore:
    """The store, after somebody has changed its database."""
    await store.close()
    with closing(sqlite3.connect(directory / "queue.db")) as db, db:
        db.execute(statement)
    return await SQLiteStore.open(directory)


async def test_a_message_without_content(store: SQLiteStore, tmp_path: Path) -> None:
    bad, good = await enter(store), await enter(store)
    number = int(bad.queue_id, 16)
    store = await by_hand(store, tmp_path, f"DELETE FROM content WHERE id = {number}")
    found = await store.check()
    assert found.problems == [f"{bad.queue_id}: its content is missing: marked as corrupt"]
    assert await queue_of(store, bad) == "corrupt"
    assert await queue_of(store, good) == "incoming"
    await store.close()


async def test_a_content_without_message(store: SQLiteStore, tmp_path: Path) -> None:
    bad, good = await enter(store, b"words\r\n"), await enter(store)
    number = int(bad.queue_id, 16)
    store = await by_hand(store, tmp_path, f"DELETE FROM message WHERE id = {number}")
    found = await store.check()
    path = tmp_path / "corrupt" / f"{bad.queue_id}.eml"
    assert found.problems == [f"{bad.queue_id}: its envelope is missing: its content is now {path}"]
    assert path.read_bytes().endswith(b"words\r\n")
    assert await queue_of(store, good) == "incoming"
    assert (await store.check()).problems == []
    await store.close()


async def test_a_damaged_database_is_told(store: SQLiteStore, tmp_path: Path) -> None:
    kept = [await enter(store) for _ in range(50)]
    await store.close()
    path = tmp_path / "queue.db"
    data = bytearray(path.read_bytes())
    data[:16] = b"no database here"
    path.write_bytes(data)
    store = await SQLiteStore.open(tmp_path)
    found = await store.check()
    assert found.messages == len(kept)
    [problem] = found.problems
    assert problem.startswith("damaged database set aside as ")
    assert (await store.check()).problems == []
    await store.close()


async def leave(directory: Path, aged: Callable[[Path], None]) -> list[Path]:
    """What a crash leaves: a body that was coming, and one whose message was never committed."""
    temporary = directory / "incoming" / "4711.abc.1"
    lost = directory / "content" / "FF" / "ABCDEF00FF"
    lost.parent.mkdir(exist_ok=True)
    for path in (temporary, lost):
        path.write_bytes(b"x" * 1000)
        aged(path)
    return [temporary, lost]


async def test_what_a_crash_left_is_removed_at_the_start_and_counted(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    await store.close()
    left = await leave(tmp_path, lambda path: os.utime(path, (1e9, 1e9)))
    store = await SQLiteStore.open(tmp_path)
    assert not any(path.exists() for path in left)
    assert await store.sweep() == Swept(2, 2000)
    assert await store.sweep() == Swept()
    await store.close()


async def test_a_running_daemon_removes_only_what_is_nobodys(
    store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, young = await leave(tmp_path, lambda path: None)
    message = await enter(store, BIG)
    sink = store.sink()
    for _ in range(3):
        await sink.write(BIG)
    assert len(list((tmp_path / "incoming").iterdir())) == 2
    assert (await store.check()).left == 1
    assert await store.sweep() == Swept(1, 1000)
    assert not temporary.exists()
    # It may have been on its way to its row just then.
    assert young.exists()
    now = time.time() + LEFT_AFTER + 1
    monkeypatch.setattr(time, "time", lambda: now)
    assert await store.sweep() == Swept(1, 1000)
    assert not young.exists()
    assert file_of(tmp_path, message).exists()
    body = await sink.finish()
    assert body.size == 3 * len(BIG)
    assert body.read(0, 10) == b"x" * 10
    await store.close()


async def test_one_that_goes_meanwhile_is_no_damage(store: SQLiteStore) -> None:
    messages = [await enter(store, BIG) for _ in range(20)]

    async def delete_all() -> None:
        for message in messages:
            await store.delete([message.queue_id])

    found, _ = await asyncio.gather(store.check(), delete_all())
    assert found.problems == []
    await store.close()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    (tmp_path / "data").mkdir()
    (tmp_path / "main.cf").write_text(
        f"queue_directory = {tmp_path}/queue\ndata_directory = {tmp_path}/data\nmydestination =\n"
        "role = relay\nrelayhost = [mx.example.net]\ninet_interfaces = loopback-only\n"
        f"maillog_file = {tmp_path}/data/mail.log\n"
    )

    def call(*words: str) -> tuple[int, str, str]:
        status = queue.main(["-c", str(tmp_path), *words])
        out, err = capfd.readouterr()
        return status, out, err

    return call


def filled(directory: Path, work: Callable[[SQLiteStore], Awaitable[Message]]) -> Message:
    async def fill() -> Message:
        store = await SQLiteStore.open(directory)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(fill())


def test_the_commands_while_no_daemon_runs(run: Run, tmp_path: Path) -> None:
    message = filled(tmp_path / "queue", lambda store: enter(store, BIG))
    status, out, err = run("check")
    assert (status, err) == (0, "")
    first, *rest = out.splitlines()
    assert first.startswith("Checked: 1 message, 1 of them with a content file; database ")
    assert rest == ["Nothing is damaged."]
    os.truncate(file_of(tmp_path / "queue", message), 5)
    status, out, err = run("check")
    assert (status, err) == (65, "")
    assert out.splitlines()[1:] == [
        "1 problem:",
        f"  {message.queue_id}: content file: 5 octets, not {len(BIG)}: marked as corrupt",
    ]
    status, out, err = run("check")
    assert status == 0
    assert f"1 of them had been set aside before (resel-queue -c {tmp_path} -p corrupt)." in out
    status, out, _ = run("check", "-j")
    assert Checked(**json.loads(out)).corrupt == 1
    (tmp_path / "queue/incoming/1.2.3").write_bytes(b"xyz")
    os.utime(tmp_path / "queue/incoming/1.2.3", (1e9, 1e9))
    assert run("purge") == (0, "", "resel-queue: Removed: 1 temporary file, 3 octets\n")
    assert run("purge", "-j") == (0, '{"files": 0, "octets": 0}\n', "")


@pytest.mark.parametrize("words", [["check", "X"], ["purge", "-d", "ALL"], ["check", "-f"]])
def test_what_makes_no_sense(run: Run, words: list[str]) -> None:
    status, _, err = run(*words)
    assert status == 64
    assert f"{words[0]} takes no other word than -j" in err


async def test_a_store_that_fails_says_so(store: SQLiteStore) -> None:
    await store.close()
    with pytest.raises(TempFail):
        await store.check()
