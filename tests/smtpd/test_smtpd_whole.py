"""Nothing of a message is dropped silently: a relay's whole way, with what makes Postfix cut."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from smtpd_fakes import Lines
from whole_relay import open_relay

Start = Callable[..., Any]

MESSAGES = {
    "a header line of a megabyte": b"X-Long: " + b"y" * 1_000_000 + b"\r\n\r\nbody\r\n",
    "a folded To of half a megabyte": b"To: "
    + b",\r\n ".join(b"user%05d@example.org" % n for n in range(20_000))
    + b"\r\n\r\nbody\r\n",
    "a To of half a megabyte in one line": b"To: "
    + b", ".join(b"user%05d@example.org" % n for n in range(20_000))
    + b"\r\n\r\nbody\r\n",
    "ten thousand fields": b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(10_000)) + b"\r\nb\r\n",
    "a body line of two megabytes": b"Subject: x\r\n\r\n" + b"z" * 2_000_000 + b"\r\n",
}


@contextlib.asynccontextmanager
async def relay(directory: Path, sink: int) -> AsyncIterator[int]:
    """The port of a whole relay, in this process, that sends all to `sink`."""
    port, composition = await open_relay(
        directory,
        Lines(),
        mynetworks="127.0.0.0/8",
        relayhost=f"[127.0.0.1]:{sink}",
        message_size_limit="0",
        local_header_rewrite_clients="",
    )
    try:
        yield port
    finally:
        await composition.close(20)


def unfolded(data: bytes) -> bytes:
    """Long lines are cut for the next hop, each rest after a space (smtp_line_length_limit)."""
    return data.replace(b"\r\n ", b"")


@pytest.mark.parametrize("name", MESSAGES)
async def test_taken_whole(start: Start, tmp_path: Path, name: str) -> None:
    data = MESSAGES[name]
    receiver = await start(message_size_limit="0")
    async with relay(tmp_path, receiver.port) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = await reader.readline()
        for said in (
            b"HELO x.example\r\n",
            b"MAIL FROM:<a@b.example>\r\n",
            b"RCPT TO:<x@relay.example>\r\n",
            b"DATA\r\n",
            data + b".\r\n",
        ):
            writer.write(said)
            answer = await reader.readline()
        assert answer.startswith(b"250 2.0.0 Ok: queued as ")
        writer.close()
        for _ in range(400):
            if receiver.intake.taken:
                break
            await asyncio.sleep(0.02)
    (taken,) = receiver.intake.taken
    arrived = unfolded(taken.data)
    header, _, rest = arrived.partition(unfolded(data)[:20])
    assert re.match(rb"Received: from x\.example ", header)
    assert unfolded(data)[:20] + rest == unfolded(data)
