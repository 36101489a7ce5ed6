"""Run by `test_queue_full_disk` in a mount namespace of its own: a queue on a disk that fills up.

The folder given is empty, and a small file system of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
from pathlib import Path

from queue_fakes import OK, make_message, until

from resel_mta.commands import queue as command
from resel_mta.mail import Relayed, TempFail
from resel_mta.queue import reserve, writer
from resel_mta.queue.audit import report
from resel_mta.queue.door import Result
from resel_mta.queue.sqlite import SQLiteStore

TAKEN = Relayed(OK, "mx.example.net", "mx.example.net[192.0.2.1]:25")


def free(root: Path) -> int:
    info = os.statvfs(root)
    return info.f_bavail * info.f_frsize


def fill(root: Path) -> None:
    """Somebody else, a log for instance, takes all that is left."""
    fd = os.open(root / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (65536, 4096, 1):
        try:
            while True:
                os.write(fd, b"x" * size)
        except OSError:
            continue
    os.close(fd)
    assert free(root) == 0


async def refused(store: SQLiteStore) -> bool:
    try:
        await store.enter(make_message(store, body=b"x" * 20_000))
    except TempFail as failure:
        return failure.reply.code == 452
    return False


async def balanced(store: SQLiteStore) -> None:
    audit = await store.audit(0)
    assert audit.is_balanced, "\n".join(report(audit))


async def one_full_disk(root: Path, store: SQLiteStore, ids: list[str]) -> None:
    """Holding, deleting and delivering work; new mail is refused."""
    fill(root)
    assert await refused(store)
    assert len(await store.hold(ids)) == len(ids)
    fill(root)
    assert len(await store.release(ids)) == len(ids)
    for message in await store.claim("me", 60.0, 10):
        fill(root)
        done = [(recipient, TAKEN) for recipient in message.recipients]
        await store.apply("me", [Result(message, done, release=True, complete=True)])
        ids.remove(message.queue_id)
    fill(root)
    assert await store.delete(ids[:5], keep=True) == ids[:5]
    fill(root)
    assert await store.undelete() == ids[:5]
    assert await refused(store)
    fill(root)
    assert await store.delete(ids[:10]) == ids[:10]
    del ids[:10]
    await balanced(store)


async def main(root: Path) -> None:
    writer.IDLE_AFTER = 0.01
    queue = root / "queue"
    store = await SQLiteStore.open(queue)
    ids = []
    for _ in range(300):
        message = make_message(store, body=b"x" * 4_000)
        await store.enter(message)
        ids.append(message.queue_id)
    await until((queue / "reserve").exists, 30)
    await one_full_disk(root, store, ids)
    await store.close()
    # A command while there is no daemon, or the next start.
    store = await SQLiteStore.open(queue)
    await one_full_disk(root, store, ids)
    assert await store.delete(ids) == ids
    await balanced(store)
    (root / "filler").unlink()
    assert not await refused(store)
    await until(lambda: (queue / "reserve").stat().st_size == reserve.SIZE, 30)
    await store.enter(make_message(store))
    await store.close()


def a_command_without_reserve(root: Path) -> None:
    """It says where there has to be room."""
    (root / "main.cf").write_text(
        f"role = relay\nqueue_directory = {root}/queue\ndata_directory = {root}\n"
        "relayhost = [127.0.0.1]\ninet_interfaces = 127.0.0.1\nmaillog_file = /dev/null\n"
    )
    (root / "queue" / "reserve").unlink()
    fill(root)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = command.main(["-c", str(root), "-d", "ALL"])
    assert status == 75, said.getvalue()
    assert f"no space is left on the file system {root};" in said.getvalue()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
    a_command_without_reserve(Path(sys.argv[1]))
