"""Peers that do not read what is sent to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from imap_dialog import session_on
from imap_fake import FakeMailbox, FakeStore
from test_imap_dialog import PLAIN, fill

from resel_lda.imap.stall import waiting
from resel_lda.imap.stream import ConnectionLost, Stream

MEGABYTE = 1 << 20


@contextlib.asynccontextmanager
async def stream_to(stall_limit: float) -> AsyncIterator[tuple[Stream, socket.socket]]:
    """A stream, and the other end of it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    stream = Stream(stall_limit=stall_limit)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: stream, ours)
    with theirs:
        try:
            yield stream, theirs
        finally:
            stream.abort()
            await asyncio.sleep(0)


async def until(reached: Callable[[], bool]) -> None:
    while True:
        if reached():
            return
        await asyncio.sleep(0)


async def test_stall_peer_that_takes_nothing_is_cut_off() -> None:
    async with asyncio.timeout(20), stream_to(0.05) as (stream, _):
        with pytest.raises(ConnectionLost):
            await stream.send(bytes(MEGABYTE))
        assert stream.why_lost == "Client does not take what is sent to it"


async def test_stall_peer_that_takes_little_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than the limit only what the kernel holds moves."""
    loop = asyncio.get_running_loop()
    clock = [loop.time()]
    monkeypatch.setattr(loop, "time", lambda: clock[0])

    async def pass_by(seconds: int) -> None:
        for _ in range(seconds // 10):
            clock[0] += 10
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async with stream_to(300) as (stream, peer):
        sending = asyncio.ensure_future(stream.send(bytes(MEGABYTE)))
        await until(lambda: waiting(stream.transport)[0] > 0)
        buffered, queued = waiting(stream.transport)
        for _ in range(3):
            await loop.sock_recv(peer, 40 * 1024)
            assert waiting(stream.transport)[0] == buffered
            assert queued > (queued := waiting(stream.transport)[1])
            await pass_by(250)
        assert not stream.lost
        await pass_by(100)
        with pytest.raises(ConnectionLost):
            await sending


async def test_stall_while_closing() -> None:
    """What is still to be sent does not keep the connection for ever."""
    async with asyncio.timeout(20), stream_to(0.05) as (stream, _):
        stream.write(bytes(MEGABYTE))
        stream.close()
        await until(lambda: stream.lost)


async def test_stall_commands_wait_until_the_peer_reads(
    fake: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FETCH after FETCH at once, of which nothing is read: they are not done ahead."""
    await fill(fake, PLAIN + b"x" * 70 * 1024)
    box = fake.boxes["INBOX"]
    assert isinstance(box, FakeMailbox)
    async with session_on(fake) as client:
        await client.command("SELECT INBOX")
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        client.send(b"".join(b"f%d FETCH 1 BODY.PEEK[]\r\n" % n for n in range(500)))
        assert client.server is not None
        stream = client.server.session.stream
        await until(lambda: stream._write_paused)
        before = box.reads
        for _ in range(1000):
            await asyncio.sleep(0)
        assert box.reads == before < 20
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        while not (await client.line()).startswith("f499 OK"):
            pass
        assert box.reads == 500
