"""Hundreds of clients that say an octet at a time, from many addresses, with default limits: a
good client is greeted and served within a second."""

from __future__ import annotations

import asyncio
import contextlib
import time

from test_smtpd_big import big_server

CLIENTS = 400
OCTETS = 30
BETWEEN = 0.1
SAID = b"EHLO slow.example\r\nMAIL FROM:<a@slow.example>\r\n"


async def slow_client(number: int, port: int, greeted: list[bytes]) -> None:
    source = f"127.1.{number // 200}.{number % 200 + 1}"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    greeted.append(await reader.readline())
    for position in range(OCTETS):
        writer.write(SAID[position : position + 1])
        await asyncio.sleep(BETWEEN)
    writer.close()


async def good_client(port: int) -> float:
    """Seconds from the connection to the reply to the message."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
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
    return time.perf_counter() - began


async def test_slow_clients_keep_nobody_waiting() -> None:
    async with big_server() as (_, port):
        greeted: list[bytes] = []
        slow = asyncio.gather(*(slow_client(n, port, greeted) for n in range(CLIENTS)))
        times = []
        while not slow.done():
            times.append(await good_client(port))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(slow), 0.2)
        await slow
        assert len(greeted) == CLIENTS
        assert all(line.startswith(b"220 ") for line in greeted)
        assert len(times) >= 5
        assert max(times) < 1.0
