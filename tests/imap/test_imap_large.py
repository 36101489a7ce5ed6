"""Large messages, which go out in pieces as they are read."""

from __future__ import annotations

import asyncio
import os
import random
import re
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from imap_dialog import Client, session_on

from resel_lda.imap.deflate import Deflate
from resel_lda.maildir import large
from resel_lda.maildir.files import with_crlf
from resel_lda.maildir.folder import MaildirFolder
from resel_lda.maildir.store import MaildirStore
from resel_mta.config import Settings
from resel_mta.disk import Disk
from resel_mta.maillog import MailLog, StreamSink
from resel_mta.users import User

HEADER = b"Subject: large\nMIME-Version: 1.0\n"
PLAIN = HEADER + b"\n"
PARTS = (
    HEADER + b'Content-Type: multipart/mixed; boundary="b"\n\n--b\n\nhello\n--b\n'
    b"Content-Type: text/plain\n\n%b\n--b--\n"
)
# What comes at the edges of blocks, too.
ENDS = (b"\n", b"\r\n", b"\r", b"\r\r\n", b"\n\r", b"\0", b".\n", b"\n.")


def odd_text(size: int) -> bytes:
    """All kinds of line ends, most of them near multiples of the block."""
    chosen = random.Random(7)
    made: list[bytes] = []
    length = 0
    while length < size:
        made.append(b"y" * chosen.choice((0, 1, 2, 60, 997)) + chosen.choice(ENDS))
        length += len(made[-1])
    return b"".join(made)


class Drop:
    """A Maildir that messages are put into from outside."""

    def __init__(self, root: Path) -> None:
        settings = Settings.build("server", mail_location=f"maildir:{root}/mail")
        self.cur = root / "mail" / "cur"
        self.store = MaildirStore(
            User("lcarr", home=str(root)), settings, Disk(), MailLog(StreamSink(2))
        )

    async def put(self, *messages: bytes) -> None:
        (await self.store.open("INBOX")).release()
        for number, message in enumerate(messages):
            (self.cur / f"{number}.M1P1.host:2,").write_bytes(message)
        box = await self.store.open("INBOX")
        assert isinstance(box, MaildirFolder)
        # As in the background, a little later.
        box.reader.fill(box.uids())
        box.release()


@pytest.fixture
async def drop(tmp_path: Path) -> AsyncIterator[Drop]:
    made = Drop(tmp_path)
    try:
        yield made
    finally:
        await made.store.close()


async def fetched(client: Client, command: str) -> bytes:
    """All that is answered."""
    client.send(f"x {command}\r\n".encode())
    answer = b""
    async with asyncio.timeout(60):
        while not re.search(rb"(^|\n)x (OK|NO|BAD) [^\n]*\n\Z", answer[-200:]):
            answer += await client.reader.read(1 << 20)
    return answer


ITEMS = (
    "BODY.PEEK[]",
    "BODY.PEEK[TEXT]",
    "BODY.PEEK[]<0.1>",
    "BODY.PEEK[]<262140.9>",
    "BODY.PEEK[TEXT]<1000000.200000>",
    "BODY.PEEK[]<99999999.5>",
    "(UID RFC822.SIZE BODY.PEEK[] FLAGS BODY.PEEK[TEXT]<5.300000> BODY.PEEK[HEADER])",
    "(BODY.PEEK[1] BODYSTRUCTURE BODY.PEEK[2]<100.1000000>)",
    "(BODY.PEEK[] BODY.PEEK[2.MIME])",
    "BODY.PEEK[3]",
    "(RFC822 RFC822.TEXT)",
    "BODY[]",
)


@pytest.mark.parametrize("message", [PLAIN + odd_text(1300 << 10), PARTS % odd_text(1300 << 10)])
async def test_large_is_answered_as_what_is_small(
    drop: Drop, message: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Octet by octet, alone and among others."""
    await drop.put(PLAIN, message, PLAIN)
    opened = []
    opening = large.LargeMessages.open

    async def counted(self: large.LargeMessages, uid: int) -> object:
        opened.append(uid)
        return await opening(self, uid)

    monkeypatch.setattr(large.LargeMessages, "open", counted)
    answers: list[list[bytes]] = []
    async with session_on(drop.store) as client:
        # All are told of as recent.
        await client.command("SELECT INBOX")
    for limit in (large.LARGE, 1 << 40):
        monkeypatch.setattr(large, "LARGE", limit)
        async with session_on(drop.store) as client:
            await client.command("SELECT INBOX")
            answers.append(
                [
                    await fetched(client, f"FETCH {which} {item}")
                    for item in ITEMS
                    for which in ("2", "1:3")
                ]
            )
            await client.command("STORE 1:3 -FLAGS (\\Seen)")
    assert opened
    for item, streamed, whole in zip(
        [item for item in ITEMS for _ in range(2)], *answers, strict=True
    ):
        assert streamed == whole, item
        assert b"x OK" in streamed


@pytest.mark.parametrize("compressed", [False, True])
async def test_large_is_not_in_memory_while_nobody_reads(drop: Drop, compressed: bool) -> None:
    octets = os.urandom(1 << 20).hex().encode() * 4
    await drop.put(PLAIN + octets + b"\n")
    async with session_on(drop.store) as client:
        await client.command("SELECT INBOX")
        if compressed:
            assert await client.command("COMPRESS DEFLATE") == ["x OK Begin compression."]
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        command = b"f FETCH 1 BODY.PEEK[]\r\n"
        assert client.server is not None
        stream = client.server.session.stream
        tracemalloc.start()
        try:
            client.send(Deflate().pack(command) if compressed else command)
            async with asyncio.timeout(60):
                while True:
                    if stream._write_paused:
                        break
                    await asyncio.sleep(0)
            used, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert used < 2 << 20
        assert peak < 4 << 20
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        answer = bytearray()
        async with asyncio.timeout(60):
            while not answer.endswith(b"\nf OK Fetch completed.\r\n"):
                got = await client.reader.read(1 << 20)
                answer += inflate.decompress(got) if compressed else got
        assert octets + b"\r\n)\r\n" in answer


async def test_large_part_is_found(drop: Drop) -> None:
    text = odd_text(1300 << 10)
    await drop.put(PARTS % text)
    box = await drop.store.open("INBOX")
    message = await box.large(1)
    assert message is not None
    span = await message.part([2])
    assert span is not None
    got = b"".join([piece async for piece in message.pieces(*span)])
    assert got == with_crlf(text)
    assert await message.part([3]) is None
    message.close()
    box.release()


async def test_large_file_that_changes_while_it_is_sent(drop: Drop) -> None:
    """The client is not told that what comes next is the rest of the message."""
    await drop.put(PLAIN + b"x" * (8 << 20))
    async with session_on(drop.store) as client:
        await client.command("SELECT INBOX")
        client.send(b"f FETCH 1 BODY.PEEK[]\r\n")
        async with asyncio.timeout(60):
            got = len(await client.reader.readexactly(1 << 20))
            (file,) = drop.cur.iterdir()
            os.truncate(file, 4 << 20)
            rest = await client.reader.read()
        assert got + len(rest) < 8 << 20
        assert b"OK" not in rest
        assert client.result is not None
        assert await client.result == (
            "The message was changed while it was read, in the middle of an answer"
        )


async def test_large_message_expunged_while_it_is_sent(drop: Drop) -> None:
    await drop.put(PLAIN + b"x" * (8 << 20))
    async with session_on(drop.store) as client:
        await client.command("SELECT INBOX")
        client.send(b"f FETCH 1 BODY.PEEK[]\r\n")
        async with asyncio.timeout(60):
            begin = await client.reader.readexactly(1 << 20)
            (file,) = drop.cur.iterdir()
            file.unlink()
            size = int(re.findall(rb"{(\d+)}", begin[:100])[0])
            assert size == len(PLAIN) + PLAIN.count(b"\n") + (8 << 20)
            rest = await client.reader.readexactly(size - len(begin) + begin.index(b"\n") + 1)
            assert rest.strip(b"x") == b""
            assert (await client.reader.readline()) == b")\r\n"
