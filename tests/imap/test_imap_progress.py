"""INPROGRESS (RFC 9585): signs of life of a command that takes long."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence

import pytest
from imap_dialog import session_on
from imap_fake import FakeMailbox, FakeStore
from test_imap_dialog import PLAIN, fill


@pytest.fixture
def gate(fake: FakeStore, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Messages are read only once it is set, and from the second batch on."""
    event = asyncio.Event()
    whole = FakeMailbox.read_many
    reads = 0

    async def held(box: FakeMailbox, uids: Sequence[int]) -> Mapping[int, bytes]:
        nonlocal reads
        reads += 1
        if reads > 1:
            await event.wait()
        return await whole(box, uids)

    monkeypatch.setattr(FakeMailbox, "read_many", held)
    return event


async def test_progress_of_a_search(fake: FakeStore, gate: asyncio.Event) -> None:
    await fill(fake, *[PLAIN] * 40)
    async with session_on(fake, progress=0.02) as client:
        assert "INPROGRESS" in (await client.command("CAPABILITY"))[0].split()
        await client.command("SELECT INBOX")
        client.send(b"s1 SEARCH TEXT nowhere\r\n")
        told = await client.line()
        while told == '* OK [INPROGRESS ("s1" NIL NIL)] Still working':
            told = await client.line()
        for _ in range(2):
            assert told == '* OK [INPROGRESS ("s1" 16 40)] Looked at 16 of 40'
            told = await client.line()
        gate.set()
        while told.startswith('* OK [INPROGRESS ("s1" '):
            done = re.search(r'"s1" (\d+) 40', told)
            assert done is not None
            assert 16 <= int(done[1]) <= 40
            told = await client.line()
        assert told == "* SEARCH"
        assert await client.line() == "s1 OK Search completed."
        # It is over with the command, and the next one begins anew.
        assert await client.silent(0.1)


async def test_progress_not_told_in_idle(fake: FakeStore) -> None:
    async with session_on(fake, progress=0.01) as client:
        await client.command("SELECT INBOX")
        client.send(b"i IDLE\r\n")
        assert await client.line() == "+ idling"
        assert await client.silent(0.1)
        client.send(b"DONE\r\n")
        assert await client.line() == "i OK Idle completed."


async def test_progress_a_client_that_left(fake: FakeStore, gate: asyncio.Event) -> None:
    await fill(fake, *[PLAIN] * 40)
    async with session_on(fake, progress=0.01) as client:
        await client.command("SELECT INBOX")
        client.send(b"s1 SEARCH TEXT nowhere\r\n")
        assert (await client.line()).startswith('* OK [INPROGRESS ("s1" ')
        client.writer.transport.abort()
        assert client.server is not None
        assert client.result is not None
        gate.set()
        async with asyncio.timeout(5):
            assert await client.result == "Connection closed"
        # A sign of life that falls due now has nobody to go to.
        client.server.session.tell_progress(b"s1")
