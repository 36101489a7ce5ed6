"""Ten clients send 20 MB each at once: memory stays small and others are answered at once."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

SIZE = 20_000_000
CLIENTS = 10
LINE = b"." + b"x" * 74 + b"\r\n"


@contextlib.asynccontextmanager
async def big_server() -> AsyncIterator[tuple[int, int]]:
    """(pid, port) of `big_server.py`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("big_server.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process.pid, int(await asyncio.wait_for(process.stdout.readline(), 30))
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 30)


async def send_big(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    writer.write(b"HELO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@relay.example>\r\nDATA\r\n")
    for _ in range(4):
        await reader.readline()
    writer.write(b"Subject: x\r\n\r\n")
    block = b"." + (LINE * 800)
    for _ in range(SIZE // len(block)):
        writer.write(block)
        await writer.drain()
    writer.write(b"\r\n.\r\n")
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer


async def slowest_noop(port: int, stop: asyncio.Event) -> float:
    """Seconds of the slowest reply to NOOP until `stop`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    slowest = 0.0
    while not stop.is_set():
        began = time.perf_counter()
        writer.write(b"NOOP\r\n")
        await reader.readline()
        slowest = max(slowest, time.perf_counter() - began)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.02)
    writer.close()
    await writer.wait_closed()
    return slowest


def peak_memory(pid: int) -> int:
    """Octets of the process's high-water mark."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
async def test_ten_big_messages_at_once() -> None:
    async with big_server() as (pid, port):
        stop = asyncio.Event()
        watching = asyncio.ensure_future(slowest_noop(port, stop))
        answers = await asyncio.gather(*(send_big(port) for _ in range(CLIENTS)))
        stop.set()
        slowest = await watching
        assert all(answer.startswith(b"250 2.0.0 Ok: queued as ") for answer in answers)
        assert peak_memory(pid) < 150_000_000
        # The clients share this test's one event loop, which is part of what is measured.
        assert slowest < 0.5
        print(f"peak {peak_memory(pid) / 1e6:.0f} MB, slowest NOOP {slowest * 1000:.0f} ms")
