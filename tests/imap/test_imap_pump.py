"""Between a client under TLS and the worker: nothing is lost at the end, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import socket

from resel_lda.imap.stall import LIMIT
from resel_lda.pump import pump


async def joined(
    stall_limit: float = LIMIT,
) -> tuple[socket.socket, socket.socket, asyncio.Transport]:
    """(the client's socket, the worker's, our side of the client's)."""
    ours, client = socket.socketpair()
    ours.setblocking(False)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    worker = await pump(transport, b"unread", stall_limit)
    worker.setblocking(False)
    assert await loop.sock_recv(worker, 100) == b"unread"
    return client, worker, transport


async def read_all(client: socket.socket) -> int:
    loop, count = asyncio.get_running_loop(), 0
    while octets := await loop.sock_recv(client, 4096):
        count += len(octets)
    return count


async def test_a_worker_that_is_done_leaves_before_its_client_has_it_all() -> None:
    client, worker, _ = await joined()
    with client, worker:
        sent = 0
        # As much as the way holds.
        while True:
            try:
                sent += worker.send(bytes(65536))
            except BlockingIOError:
                await asyncio.sleep(0)
                try:
                    sent += worker.send(bytes(65536))
                except BlockingIOError:
                    break
        worker.close()
        async with asyncio.timeout(10):
            assert await read_all(client) == sent
        assert sent > 65536


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    client, worker, _ = await joined(stall_limit=0.05)
    loop = asyncio.get_running_loop()
    with client, worker:
        async with asyncio.timeout(10):
            try:
                while True:
                    await loop.sock_sendall(worker, bytes(65536))
            except OSError:
                return


async def test_a_client_that_takes_nothing_of_the_end_is_cut_off() -> None:
    client, worker, transport = await joined(stall_limit=0.05)
    with client:
        sent = 0
        for _ in range(40):
            try:
                sent += worker.send(bytes(65536))
            except BlockingIOError:
                await asyncio.sleep(0)
        worker.close()
        # What the kernel has by then still comes, and the end; not what had to wait.
        async with asyncio.timeout(10):
            for _ in range(900):
                if not transport.get_write_buffer_size():
                    break
                await asyncio.sleep(0.01)
            assert 0 < await read_all(client) < sent
