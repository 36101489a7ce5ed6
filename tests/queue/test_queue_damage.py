"""Every page of a queue's database damaged in turn: the start goes on, what is on the other pages
is kept, and nothing that was delivered comes back."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import apsw
import pytest
from queue_fakes import (
    OK,
    FakeIntake,
    FakeRouter,
    FakeTransport,
    make_log,
    make_message,
    until,
)
from queue_faults import FaultDisk, Plan

from resel_mta.commands.queue import main
from resel_mta.config import Settings
from resel_mta.mail import Deferred, Delivered, TempFail
from resel_mta.queue.door import Result, Retry
from resel_mta.queue.pages import Pages
from resel_mta.queue.salvage import MAKING, READY
from resel_mta.queue.scheduler import Scheduler
from resel_mta.queue.spool import THRESHOLD
from resel_mta.queue.sqlite import SQLiteStore

PAGE = 4096
T = TypeVar("T")
LATER = 4e9
LARGE = b"z" * (THRESHOLD + 1000) + b"\r\n"


def zeros(page: bytes) -> bytes:
    return bytes(len(page))


def noise(page: bytes) -> bytes:
    return random.Random(page).randbytes(len(page))


def torn(page: bytes) -> bytes:
    """A sector in the middle was never written."""
    return page[:1024] + noise(page[:512]) + page[1536:]


def shifted(page: bytes) -> bytes:
    """The tail, where rows lie, is wrong; the head of the page is not."""
    return page[: PAGE // 2] + zeros(page[PAGE // 2 :])


@dataclass
class Sample:
    """A queue on the disk, with what it should hold."""

    root: Path
    waiting: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    large: str = ""

    @property
    def database(self) -> Path:
        return self.root / "queue.db"


async def make_sample(root: Path) -> Sample:
    """Fresh and deferred mail, one with a file, held, deleted; and free pages with delivered mail."""
    sample = Sample(root)
    store = await SQLiteStore.open(root)
    messages = [make_message(store, f"n{n}@x.example", body=b"%d " % n * 400) for n in range(90)]
    large = make_message(store, "large@x.example", body=LARGE)
    split = [make_message(store, *(f"r{n}@x.example" for n in range(3))) for _ in range(30)]
    everything = [*messages, large, *split]
    await asyncio.gather(*(store.enter(message, claim_for="me") for message in everything))
    done, kept = messages[:50], messages[50:]
    await store.apply(
        "me",
        [
            Result(message, [(message.recipients[0], Delivered(OK))], release=True, complete=True)
            for message in done
        ],
    )
    for message in split:
        first, *rest = message.recipients
        retries = [Retry(recipient, LATER, Deferred(OK)) for recipient in rest]
        await store.apply("me", [Result(message, [(first, Delivered(OK))], retries, release=True)])
    await store.unclaim("me", [message.queue_id for message in [*kept, large]])
    await store.hold([message.queue_id for message in kept[:3]])
    await store.close()
    sample.gone = {message.queue_id for message in done}
    sample.waiting = {message.queue_id: message.recipients[-1].address for message in everything}
    for queue_id in sample.gone:
        del sample.waiting[queue_id]
    sample.large = large.queue_id
    return sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return asyncio.run(make_sample(tmp_path_factory.mktemp("sample") / "queue"))


def damaged_copy(sample: Sample, root: Path, number: int, damage: Callable[[bytes], bytes]) -> Path:
    shutil.copytree(sample.root, root)
    data = bytearray((root / "queue.db").read_bytes())
    place = (number - 1) * PAGE
    data[place : place + PAGE] = damage(bytes(data[place : place + PAGE]))
    (root / "queue.db").write_bytes(data)
    for path in (root / "content").glob("*/*"):
        os.utime(path, (1, 1))
    return root


async def work(store: SQLiteStore) -> set[str]:
    """Whatever a daemon does with a queue; the ids of what could be read whole."""
    whole = set()
    entries = [entry async for entry in store.walk()]
    claimed = await again(lambda: store.claim("me", 60, 1000, octets=1 << 20))
    for message in claimed:
        try:
            message.content = message.content or await store.content(message)
        except TempFail:
            continue
        whole.add(message.queue_id)
    fresh = make_message(store, "late@x.example")
    await again(lambda: store.enter(fresh))
    assert (await store.load(fresh.queue_id)) is not None
    await store.audit(0)
    await again(lambda: store.delete([fresh.queue_id]))
    for entry in entries:
        if entry.queue in ("hold", "deferred") and await load(store, entry.queue_id):
            whole.add(entry.queue_id)
    return whole


async def again(action: Callable[[], Awaitable[T]]) -> T:
    """As a client or the scheduler does, should the damage come to light only at the commit."""
    try:
        return await action()
    except TempFail:
        return await action()


async def load(store: SQLiteStore, queue_id: str) -> bool:
    try:
        return await store.load(queue_id) is not None
    except TempFail:
        return False


def pages_of(sample: Sample) -> int:
    return sample.database.stat().st_size // PAGE


@pytest.mark.parametrize("damage", [zeros, noise, torn, shifted])
async def test_every_page(sample: Sample, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    for number in range(1, pages_of(sample) + 1):
        root = damaged_copy(sample, tmp_path / f"{number}", number, damage)
        log, lines = make_log()
        store = await SQLiteStore.open(root, log=log)
        whole = await work(store)
        left = {entry.queue_id async for entry in store.walk()}
        await store.close()
        # Files of messages that got lost while it ran are found at the next start.
        await (await SQLiteStore.open(root)).close()
        assert not left & sample.gone, f"page {number}: delivered mail is back"
        aside = list((root / "corrupt").glob("queue.db.*"))
        lost = set(sample.waiting) - whole
        # A page holds at most so many envelopes.
        assert len(lost) <= 45, f"page {number}: {len(lost)} lost"
        if lost:
            assert lines, f"page {number}: nobody was told"
        if set(sample.waiting) - left:
            assert aside, f"page {number}"
        if sample.large not in left:
            assert (root / "corrupt" / sample.large).stat().st_size == len(LARGE)
        shutil.rmtree(root)


@pytest.mark.parametrize("part", [0, 1, 511, PAGE, 3 * PAGE, 0.3, 0.5, 0.9])
async def test_a_truncated_file(sample: Sample, tmp_path: Path, part: float) -> None:
    root = damaged_copy(sample, tmp_path / "queue", 1, lambda page: page)
    size = sample.database.stat().st_size
    os.truncate(root / "queue.db", int(part * size) if 0 < part < 1 else int(part))
    log, lines = make_log()
    store = await SQLiteStore.open(root, log=log)
    await work(store)
    left = {entry.queue_id async for entry in store.walk()}
    await store.close()
    assert not left & sample.gone
    assert lines
    if sample.large not in left:
        assert (root / "corrupt" / sample.large).stat().st_size == len(LARGE)


async def test_no_message_is_lost_with_pages_that_hold_none(sample: Sample, tmp_path: Path) -> None:
    """Inner pages, roots, the schema, indexes, maps: everything that is not a leaf of a table."""
    plain = Pages(str(sample.database))
    inner = [n for n in range(1, plain.count + 1) if n == 1 or plain.page(n)[0] in (0, 1, 2, 5)]
    inner = [n for n in inner if n == 1 or plain.page(n)[0] != 0]
    plain.close()
    assert len(inner) >= 4
    for number in inner:
        root = damaged_copy(sample, tmp_path / f"{number}", number, noise)
        store = await SQLiteStore.open(root)
        await work(store)
        left = {entry.queue_id async for entry in store.walk()}
        await store.close()
        assert left == set(sample.waiting), f"page {number}"


async def test_the_log_of_changes_is_read_too(tmp_path: Path) -> None:
    root = tmp_path / "queue"
    store = await SQLiteStore.open(root)
    messages = [make_message(store) for _ in range(20)]
    await asyncio.gather(*(store.enter(message) for message in messages))
    database, log = (root / "queue.db").read_bytes(), (root / "queue.db-wal").read_bytes()
    await store.close()
    for name, kept in (("damaged", noise(database[:PAGE]) + database[PAGE:]), ("cut", b"")):
        shutil.copytree(root, tmp_path / name)
        (tmp_path / name / "queue.db").write_bytes(kept)
        (tmp_path / name / "queue.db-wal").write_bytes(log)
        store = await SQLiteStore.open(tmp_path / name)
        left = [entry.queue_id async for entry in store.walk()]
        await store.close()
        assert left == [message.queue_id for message in messages]


async def damage_while_it_runs(sample: Sample, root: Path, store: SQLiteStore) -> None:
    db = await store._writer.submit(lambda db: db, changes=False)
    await store._writer.submit(lambda db: db.pragma("wal_checkpoint", "TRUNCATE"), changes=False)
    await store._writer.submit(lambda db: db.pragma("shrink_memory"), changes=False)
    assert isinstance(db, apsw.Connection)
    with (root / "queue.db").open("r+b") as file:
        for number in range(3, pages_of(sample) + 1):
            if number in roots_of(sample):
                file.seek((number - 1) * PAGE)
                file.write(noise(b"%d" % number * PAGE)[:PAGE])


async def test_found_while_it_runs(sample: Sample, tmp_path: Path) -> None:
    """What was asked for meanwhile is done with what was saved."""
    root = damaged_copy(sample, tmp_path / "queue", 1, lambda page: page)
    log, lines = make_log()
    store = await SQLiteStore.open(root, log=log)
    await damage_while_it_runs(sample, root, store)
    fresh = make_message(store)
    await store.enter(fresh)
    left = {entry.queue_id async for entry in store.walk()}
    assert left == {*sample.waiting, fresh.queue_id}
    assert any("damaged database set aside" in line for line in lines)
    await store.close()


async def test_what_comes_back_as_claimed_is_delivered(sample: Sample, tmp_path: Path) -> None:
    """The end of its delivery was in the part that is lost."""
    root = damaged_copy(sample, tmp_path / "queue", 1, lambda page: page)
    log, lines = make_log()
    store = await SQLiteStore.open(root, log=log)
    settings, smtp = Settings.build(myhostname="mail.example.org"), FakeTransport()
    scheduler = Scheduler(settings, store, FakeRouter(), {"smtp": smtp}, FakeIntake(store), log)
    await store.hold()
    await scheduler.start()
    back, under_way = make_message(store), make_message(store)
    await store.enter(back, claim_for=scheduler.owner)
    smtp.gate.clear()
    await store.enter(under_way)
    await until(lambda: smtp.running == 1)
    await damage_while_it_runs(sample, root, store)
    await store.enter(make_message(store))
    assert any("damaged database set aside" in line for line in lines)
    await until(lambda: smtp.running == 3)
    smtp.gate.set()
    await until(lambda: not scheduler.active)
    delivered = [name for name, _ in smtp.deliveries]
    assert delivered.count(back.queue_id) == delivered.count(under_way.queue_id) == 1
    await scheduler.stop(5)
    await store.close()


def roots_of(sample: Sample) -> set[int]:
    db = apsw.Connection(str(sample.database))
    tables = "('message', 'content')"
    found = {n for (n,) in db.execute(f"SELECT rootpage FROM sqlite_schema WHERE name IN {tables}")}
    db.close()
    return found


async def test_a_crash_while_it_is_set_aside(sample: Sample, tmp_path: Path) -> None:
    for stop_at in range(1, 60):
        root = damaged_copy(sample, tmp_path / f"{stop_at}", 3, noise)
        plan = Plan(root, stop_at)
        try:
            store = await SQLiteStore.open(root, disk=FaultDisk(plan))
        except OSError:
            store = await SQLiteStore.open(root)
        left = {entry.queue_id async for entry in store.walk()}
        await store.close()
        assert left == set(sample.waiting), f"stopped at {stop_at}"
        assert not list(root.glob(f"*{READY}")) + list(root.glob(f"*{MAKING}"))
        assert list((root / "corrupt").glob("queue.db.*"))
        shutil.rmtree(root)
        if plan.count < stop_at:
            return
    pytest.fail("a salvage takes more steps than that")


def log_of(directory: Path) -> str:
    log = directory / "log"
    return log.read_text() if log.exists() else ""


def test_commands_on_a_damaged_queue(
    sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "main.cf").write_text(
        f"role = relay\nqueue_directory = {tmp_path}/spool\ndata_directory = {tmp_path}/data\n"
        f"relayhost = [127.0.0.1]\ninet_interfaces = 127.0.0.1\nmaillog_file = {tmp_path}/log\n"
    )
    found = 0
    for number in range(1, pages_of(sample) + 1, 3):
        root = damaged_copy(sample, tmp_path / "spool", number, noise)
        where = ["-c", str(tmp_path)]
        assert main(["-j", *where]) == 0
        told = capsys.readouterr().err
        # Not only the log: what the command has set aside, the next start does not find.
        aside = bool(list((tmp_path / "spool" / "corrupt").glob("queue.db.*")))
        assert ("resel-queue: warning: damaged database set aside as " in told) == aside
        assert ("damaged database set aside as " in log_of(tmp_path)) == aside
        assert main(["-r", "ALL", *where]) == 0
        assert main(["-d", "ALL", *where]) == 0
        assert "fatal" not in told + capsys.readouterr().err
        shutil.rmtree(root)
        (tmp_path / "log").unlink(missing_ok=True)
        found += aside
    assert found
