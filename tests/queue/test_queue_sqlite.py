"""What only the queue on disk has: its lock, its ids, its reaction to a failing disk."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from queue_fakes import OK, make_log, make_message, read_all, until
from queue_faults import FaultDisk, Plan, fault_vfs

from resel_mta.config import Settings
from resel_mta.local_target import answer_mark
from resel_mta.mail import Delivered, Notify, Recipient, TempFail
from resel_mta.queue import schema, writer
from resel_mta.queue.door import AlreadyEntered, Result
from resel_mta.queue.lock import QueueLocked
from resel_mta.queue.schema import MINIMUM_SQLITE, UnknownVersion, UnusableLibrary, open_database
from resel_mta.queue.spool import OWN_SPACE, needed_space
from resel_mta.queue.sqlite import SQLiteStore

LARGE = b"0123456789abcde\r\n" * 12_000


async def names(store: SQLiteStore, queue: str | None = None) -> list[str]:
    return [entry.queue_id async for entry in store.walk(queue)]


async def test_one_process_holds_the_queue(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    with pytest.raises(QueueLocked, match=f"in use by process {os.getpid()}"):
        await SQLiteStore.open(tmp_path)
    await store.close()
    await (await SQLiteStore.open(tmp_path)).close()


async def test_what_is_under_way_at_the_close_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GROUP_LIMIT", 3)
    store = await SQLiteStore.open(tmp_path)
    entering = [store.enter(make_message(store)) for _ in range(10)]
    await asyncio.gather(store.close(), *entering)
    store = await SQLiteStore.open(tmp_path)
    assert len(await names(store)) == 10
    await store.close()


async def test_a_killed_process_leaves_an_openable_queue(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from queue_fakes import make_message\n"
        "from resel_mta.queue.sqlite import SQLiteStore\n"
        "async def main():\n"
        "    store = await SQLiteStore.open(sys.argv[1])\n"
        "    await store.enter(make_message(store), claim_for='dead')\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, str(tmp_path), here]
    done = await asyncio.to_thread(subprocess.run, command, timeout=30)
    assert done.returncode == -9
    store = await SQLiteStore.open(tmp_path)
    assert len(await store.claim("me", 60, 10)) == 1
    await store.close()


async def test_a_clock_set_back_gives_no_id_twice(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path, clock=lambda: 1_900_000_000.0)
    first = [int(store.new_id(), 16) for _ in range(100)]
    await store.close()
    store = await SQLiteStore.open(tmp_path, clock=lambda: 1_800_000_000.0)
    assert int(store.new_id(), 16) > max(first)
    await store.close()


async def test_a_failed_sync_is_answered_and_overcome(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "queue")
    log, lines = make_log()
    with fault_vfs(plan) as vfs:
        store = await SQLiteStore.open(plan.root, disk=FaultDisk(plan), vfs=vfs, log=log)
        kept = make_message(store)
        await store.enter(kept)
        plan.database_error = apsw.IOError
        refused = [make_message(store), make_message(store, body=LARGE)]
        answers = await asyncio.gather(
            *(store.enter(message) for message in refused), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [TempFail, TempFail]
        assert all(isinstance(a, TempFail) and a.reply.code == 451 for a in answers)
        with pytest.raises(TempFail):
            await store.enter(make_message(store))
        plan.database_error = None
        later = make_message(store)
        await store.enter(later)
        assert await names(store) == [kept.queue_id, later.queue_id]
        assert list((plan.root / "content").glob("*/*")) == []
        await store.close()
    assert any("queue database: IOError" in line for line in lines)


async def test_a_full_disk_is_452_and_the_queue_stays_readable(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "queue")
    with fault_vfs(plan) as vfs:
        store = await SQLiteStore.open(plan.root, vfs=vfs)
        kept = make_message(store)
        await store.enter(kept)
        plan.database_error = apsw.FullError
        with pytest.raises(TempFail) as caught:
            await store.enter(make_message(store))
        assert str(caught.value.reply) == "452 4.3.1 Insufficient system storage"
        assert await names(store) == [kept.queue_id]
        plan.database_error = None
        await store.enter(make_message(store))
        assert len(await names(store)) == 2
        await store.close()


async def test_a_bug_in_one_message_is_its_own(tmp_path: Path) -> None:
    log, lines = make_log()
    store = await SQLiteStore.open(tmp_path, log=log)
    good, bad = make_message(store), make_message(store)
    bad.recipients[0].address = "\udcff@example.net"
    answers = await asyncio.gather(store.enter(good), store.enter(bad), return_exceptions=True)
    assert answers[0] is None
    assert isinstance(answers[1], TempFail)
    assert answers[1].reply.code == 451
    assert await names(store) == [good.queue_id]
    assert any("UnicodeEncodeError" in line for line in lines)
    await store.close()


@pytest.mark.parametrize("damage", ["missing", "short"])
async def test_damaged_content_is_set_aside(tmp_path: Path, damage: str) -> None:
    log, lines = make_log()
    store = await SQLiteStore.open(tmp_path, log=log)
    message, other = make_message(store, body=LARGE), make_message(store)
    await store.enter(message)
    await store.enter(other)
    (path,) = (tmp_path / "content").glob("*/*")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(LARGE[:1000])
    claimed = {m.queue_id: m for m in await store.claim("me", 60, 10)}
    with pytest.raises(TempFail):
        await store.content(claimed[message.queue_id])
    assert await names(store, "corrupt") == [message.queue_id]
    assert (tmp_path / "corrupt" / f"{message.queue_id}.header").read_bytes()
    assert (tmp_path / "corrupt" / message.queue_id).exists() == (damage == "short")
    assert any(f"{message.queue_id}: warning: corrupt message set aside" in line for line in lines)
    assert read_all(await store.content(claimed[other.queue_id])).endswith(b"hello\r\n")
    await store.close()


async def test_a_damaged_database_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    messages = [make_message(store, body=b"x" * 3000 + b"\r\n") for _ in range(200)]
    await asyncio.gather(*(store.enter(message) for message in messages))
    await store.close()
    path = tmp_path / "queue.db"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 3 * 4096] = b"\xa5" * (3 * 4096)
    path.write_bytes(data)
    log, lines = make_log()
    store = await SQLiteStore.open(tmp_path, log=log)
    readable = 0
    for message in messages:
        try:
            readable += await store.load(message.queue_id) is not None
        except TempFail:
            pass
    late = make_message(store)
    await store.enter(late)
    assert read_all((await store.load(late.queue_id)).content).endswith(b"hello\r\n")  # type: ignore[union-attr, arg-type]
    assert readable >= 190
    await store.close()
    assert lines


async def test_a_database_that_is_none_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "queue.db").write_bytes(b"this is not a database at all\n" * 500)
    log, lines = make_log()
    store = await SQLiteStore.open(tmp_path, log=log)
    await store.enter(make_message(store))
    await store.close()
    assert list((tmp_path / "corrupt").glob("queue.db.*"))
    assert any("damaged database set aside" in line for line in lines)


async def test_stray_files_are_swept_at_start(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    message = make_message(store, body=LARGE)
    await store.enter(message)
    await store.close()
    for name in ("incoming/1.2.3", "content/AB/12345ABCDAB"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"left over")
        os.utime(tmp_path / name, (1, 1))
    os.utime(next((tmp_path / "content").glob(f"*/{message.queue_id}")), (1, 1))
    store = await SQLiteStore.open(tmp_path)
    assert list((tmp_path / "incoming").iterdir()) == []
    assert [p.name for p in (tmp_path / "content").glob("*/*")] == [message.queue_id]
    await store.close()


async def test_files_go_with_their_message(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    message = make_message(store, body=LARGE)
    await store.enter(message, claim_for="me")
    done = [(message.recipients[0], Delivered(OK))]
    await store.apply("me", [Result(message, done, release=True)])
    assert list((tmp_path / "content").glob("*/*")) == []
    await store.close()


async def test_the_wal_stays_small(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    for _ in range(40):
        batch = [make_message(store, body=b"x" * 60_000) for _ in range(20)]
        await asyncio.gather(*(store.enter(message) for message in batch))
    assert (tmp_path / "queue.db-wal").stat().st_size < 40 * 1024 * 1024
    await store.close()


def test_an_old_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "SQLITE_VERSION_NUMBER", MINIMUM_SQLITE - 1)
    with pytest.raises(UnusableLibrary):
        open_database(str(tmp_path / "queue.db"))


async def test_one_that_fails_in_a_group_fails_alone(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    first = make_message(store)
    first.token = "once"
    await store.enter(first, claim_for="me")
    plain, twice, bad = make_message(store), make_message(store), make_message(store)
    twice.token = "once"
    bad.envelope.reverse_path = "\udcff@example.org"
    done = Result(first, [(first.recipients[0], Delivered(OK))], release=True, complete=True)
    answers = await asyncio.gather(
        store.enter(plain),
        store.enter(twice),
        store.enter(bad),
        store.apply("me", [done]),
        return_exceptions=True,
    )
    assert answers[0] is None
    assert isinstance(answers[1], AlreadyEntered)
    assert isinstance(answers[2], TempFail)
    assert answers[3] == {first.queue_id}
    assert await names(store) == [plain.queue_id]
    await store.close()


async def test_a_message_of_many_in_one_group(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    messages = [make_message(store, body=b"%d\r\n" % n) for n in range(203)]
    await asyncio.gather(*(store.enter(message, claim_for="me") for message in messages))
    assert await names(store) == [message.queue_id for message in messages]
    for message in messages[::50]:
        loaded = await store.load(message.queue_id)
        assert loaded is not None
        assert loaded.content is not None
        assert message.content is not None
        assert read_all(loaded.content) == read_all(message.content)
    results = [
        Result(message, [(message.recipients[0], Delivered(OK))], release=True, complete=True)
        for message in messages[1:]
    ]
    assert len(await store.apply("me", results)) == 202
    assert await names(store) == [messages[0].queue_id]
    await store.close()
    left = apsw.Connection(str(tmp_path / "queue.db"))
    for table in ("message", "content"):
        assert left.execute(f"SELECT count(*) FROM {table}").get == 1
    assert left.execute("SELECT count(*) FROM recipient").get == 0
    left.close()


async def test_a_cancelled_client_does_not_stop_what_it_handed_in(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    message = make_message(store)
    task = asyncio.ensure_future(store.enter(message))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert await names(store) == [message.queue_id]
    await store.close()


async def test_another_format_is_refused(tmp_path: Path) -> None:
    db = apsw.Connection(str(tmp_path / "queue.db"))
    db.execute("CREATE TABLE message(id INTEGER PRIMARY KEY)")
    db.pragma("user_version", 1)
    db.close()
    with pytest.raises(UnknownVersion, match="format 1"):
        await SQLiteStore.open(tmp_path)


async def test_the_file_shrinks_after_a_backlog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "IDLE_AFTER", 0.05)
    monkeypatch.setattr(writer, "IDLE_STEP", 0.0)
    monkeypatch.setattr(schema, "FREE_PAGES", 50)
    monkeypatch.setattr(schema, "FREED_AT_ONCE", 100)
    store = await SQLiteStore.open(tmp_path)
    messages = [make_message(store, body=b"x" * 20_000) for _ in range(300)]
    await asyncio.gather(*(store.enter(message, claim_for="me") for message in messages))
    await store.delete([message.queue_id for message in messages[:-1]])
    path = tmp_path / "queue.db"
    await until(lambda: path.stat().st_size < 500_000 and not os.path.getsize(f"{path}-wal"))
    last = await store.load(messages[-1].queue_id)
    assert last is not None
    assert last.content is not None
    assert last.content.body.size == 20_000
    await store.close()


async def test_a_completely_full_disk_does_not_stop_the_start(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "queue")
    log, lines = make_log()
    with fault_vfs(plan) as vfs:
        await (await SQLiteStore.open(plan.root, vfs=vfs)).close()
        store = await SQLiteStore.open(plan.root, vfs=vfs)
        message = make_message(store)
        await store.enter(message, claim_for="dead")
        wal = (plan.root / "queue.db-wal").read_bytes()
        database = (plan.root / "queue.db").read_bytes()
        await store.close()
        # As the process left them that was killed.
        (plan.root / "queue.db").write_bytes(database)
        (plan.root / "queue.db-wal").write_bytes(wal)
        plan.database_error = apsw.FullError
        store = await SQLiteStore.open(plan.root, vfs=vfs, log=log)
        assert await names(store, "active") == [message.queue_id]
        assert await store.load(message.queue_id) is not None
        for refused in (store.enter(make_message(store)), store.claim("me", 60, 10)):
            with pytest.raises(TempFail) as caught:
                await refused
            assert caught.value.reply.code == 452
        plan.database_error = None
        claimed = await store.claim("me", 60, 10)
        assert [m.queue_id for m in claimed] == [message.queue_id]
        later = make_message(store)
        await store.enter(later)
        assert int(later.queue_id, 16) > int(message.queue_id, 16)
        await store.close()
    assert any("the disk is full" in line for line in lines)


def test_new_mail_leaves_room_for_a_message_and_for_the_queue_itself() -> None:
    small = Settings.build(message_size_limit="1000", queue_minfree="5000")
    large = Settings.build(message_size_limit="10000", queue_minfree="5000")
    assert needed_space(small) == OWN_SPACE + 5000
    assert needed_space(large) == OWN_SPACE + 15_000


async def test_what_a_full_disk_refused_does_not_come_back(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "queue")
    with fault_vfs(plan) as vfs:
        store = await SQLiteStore.open(plan.root, vfs=vfs)
        kept = make_message(store)
        await store.enter(kept)
        # The first leaves what it wrote in the WAL; the second, which fails before it has written
        # over that, has the database opened again.
        plan.database_error = apsw.FullError
        with pytest.raises(TempFail):
            await store.enter(make_message(store))
        plan.database_error, plan.stop_at = None, plan.count + 1
        with pytest.raises(TempFail):
            await store.enter(make_message(store))
        plan.stop_at = 0
        assert await names(store) == [kept.queue_id]
        await store.close()


async def test_what_waits_for_an_answer_only_is_not_listed(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path)
    message = make_message(store, "ann@example.org")
    alias = Recipient("team@example.org", notify=Notify.SUCCESS, via=(answer_mark("expanded"),))
    message.recipients.append(alias)
    message.hold = True
    await store.enter(message)
    (entry,) = [each async for each in store.walk()]
    assert [each.address for each in entry.recipients] == ["ann@example.org"]
    await store.release()
    (claimed,) = await store.claim("me", 60, 10)
    assert [each.answer for each in claimed.recipients] == ["", "expanded"]
    await store.close()
