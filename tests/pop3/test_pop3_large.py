"""Large messages, which go out in pieces as they are read."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from pop3_service import pop3_service
from test_pop3_session import Talk, connect

HEADER = b"Subject: large\n\n"
# Dots at all places, also where a block ends.
PIECES = (b"\n", b"\r\n", b".", b"\n.", b"\n..\n", b"\r", b"z" * 997)


def dotted(size: int, end: bytes) -> bytes:
    chosen = random.Random(5)
    made: list[bytes] = []
    length = 0
    while length < size:
        made.append(chosen.choice(PIECES))
        length += len(made[-1])
    return HEADER + b"".join(made) + end


def as_sent(message: bytes) -> bytes:
    """With CR LF and doubled dots, and its end."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    if not lines[-1]:
        lines.pop()
    return b"".join([(b"." if line[:1] == b"." else b"") + line + b"\r\n" for line in lines])


async def multiline(talk: Talk, command: str) -> bytes:
    """What follows +OK, without the dot."""
    talk.writer.write(f"{command}\r\n".encode())
    async with asyncio.timeout(60):
        assert (await talk.reader.readline()).startswith(b"+OK")
        return (await talk.reader.readuntil(b"\r\n.\r\n"))[:-3]


async def test_pop3_large_is_answered_as_what_is_small(tmp_path: Path) -> None:
    messages = [
        dotted(1300 << 10, end) for end in (b"\n", b"", b"\n.", b"\r", b"x", b"\xe9 8-bit\n")
    ]
    parts = b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="b"\n'
    utf8 = "Subject: é\n".encode() + parts + b"\n--b\n\n" + b"x\n" * (700 << 10) + b"--b--\n"
    async with pop3_service(tmp_path) as running:
        running.deliver(*messages, parts + messages[-1], utf8)
        talk = await connect(running.port)
        await talk.login()
        for number, message in enumerate([*messages, parts + messages[-1]], 1):
            sent = as_sent(message)
            assert await multiline(talk, f"RETR {number}") == sent
            body = sent.index(b"\r\n\r\n") + 4
            lines = sent[body:].split(b"\r\n")
            for count in (0, 1, 2000, 10**9):
                expected = sent[:body] + b"".join([line + b"\r\n" for line in lines[:-1][:count]])
                assert await multiline(talk, f"TOP {number} {count}") == expected
        assert b"Subject: =?utf-8?" in await multiline(talk, f"TOP {len(messages) + 2} 0")
        assert (await talk.say("QUIT")).startswith("+OK")
        talk.close()


@pytest.mark.parametrize("command", ["RETR 1", "TOP 1 999999999"])
async def test_pop3_large_file_that_changes_while_it_is_sent(tmp_path: Path, command: str) -> None:
    async with pop3_service(tmp_path) as running:
        running.deliver(HEADER + b"0123456789\n" * (2 << 20))
        talk = await connect(running.port)
        await talk.login()
        talk.writer.write(f"{command}\r\n".encode())
        async with asyncio.timeout(60):
            await talk.reader.readexactly(1 << 16)
            talk.reader._transport.pause_reading()  # type: ignore[attr-defined]
            (file,) = (running.maildir / "cur").iterdir()
            os.truncate(file, 0)
            talk.reader._transport.resume_reading()  # type: ignore[attr-defined]
            rest = await talk.reader.read()
        assert not rest.endswith(b"\n.\r\n")
        talk.close()
