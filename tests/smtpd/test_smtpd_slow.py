"""Two thousand clients that say an octet a second, from many addresses, with the limits that a relay
has by default: a good client is greeted and served within a second."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

CLIENTS = 2000
#: Files that a process has open beside its connections.
OTHERS = 200
#: Slow clients that connect at a time: the kernel holds no more for a server that is busy.
AT_ONCE = 100
GOOD = 16
SAID = b"EHLO slow.example\r\nMAIL FROM:<a@slow.example>\r\n" * 20


@pytest.fixture
def clients() -> Iterator[int]:
    """How many there can be; where the limit of open files allows it, `CLIENTS`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = CLIENTS + OTHERS if hard == resource.RLIM_INFINITY else min(hard, CLIENTS + OTHERS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    yield most - OTHERS
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.asynccontextmanager
async def relay(directory: Path) -> AsyncIterator[int]:
    """The port of `relay_server.py`."""
    root = str(Path(__file__).parents[2])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("relay_server.py")),
        str(directory),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield int(await asyncio.wait_for(process.stdout.readline(), 60))
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 60)


async def slow_client(number: int, port: int, room: asyncio.Semaphore, greeted: list[int]) -> None:
    """Goes on until it is cancelled."""
    source = f"127.1.{number // 200}.{number % 200 + 1}"
    async with room:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        greeting = await reader.readline()
    assert greeting.startswith(b"220 ")
    greeted.append(number)
    try:
        for octet in SAID:
            writer.write(bytes([octet]))
            await asyncio.sleep(1)
            assert not reader.at_eof()
    finally:
        writer.close()


async def good_client(port: int) -> tuple[float, float]:
    """Seconds from the connection to the greeting, and to the reply to the message."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    greeted = time.perf_counter() - began
    for said in (
        b"HELO good.example\r\n",
        b"MAIL FROM:<a@b.example>\r\n",
        b"RCPT TO:<x@relay.example>\r\n",
        b"DATA\r\n",
        b"Subject: x\r\n\r\nbody\r\n.\r\n",
    ):
        writer.write(said)
        answer = await reader.readline()
    assert answer.startswith(b"250 2.0.0 Ok: queued as ")
    writer.close()
    return greeted, time.perf_counter() - began


async def until_greeted(slow: list[asyncio.Task[None]], greeted: list[int]) -> None:
    async with asyncio.timeout(120):
        while len(greeted) < len(slow):
            done = [task for task in slow if task.done()]
            assert not done, done[0].exception()
            await asyncio.sleep(0.05)


async def test_slow_clients_keep_nobody_waiting(tmp_path: Path, clients: int) -> None:
    async with relay(tmp_path) as port:
        room, greeted = asyncio.Semaphore(AT_ONCE), list[int]()
        slow = [
            asyncio.create_task(slow_client(number, port, room, greeted))
            for number in range(clients)
        ]
        await until_greeted(slow, greeted)
        times = []
        for _ in range(GOOD):
            times.append(await good_client(port))
            await asyncio.sleep(0.2)
        # All of them are still there, and still talking.
        assert not [task for task in slow if task.done()]
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)
    served = sorted(served for _, served in times)
    print(f"{clients} slow clients: served in {served[0]:.3f} … {served[-1]:.3f} s")
    # Beside other work of the machine; the slowest are its, and not the slow clients'.
    assert served[GOOD // 2] < 1.0
