"""C:/S: scripts against a session, over a socket pair.

Lines that begin "C: " are sent, lines that begin "S: " must come back in order. In "S:" lines
"*" alone at the end matches any rest; "C+ " sends without a line end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from resel_lda.imap.names import Names
from resel_lda.imap.serve import Server
from resel_lda.imap.session import Session, Who
from resel_lda.imap.stream import Stream
from resel_lda.mailbox import MailStore


class Client:
    """One session's other end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.reports: list[str] = []
        self.server: Server | None = None
        self.result: asyncio.Task[str] | None = None

    async def line(self) -> str:
        async with asyncio.timeout(60):
            return (await self.reader.readline()).decode("latin-1").removesuffix("\r\n")

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def script(self, text: str) -> None:
        for raw in text.strip("\n").split("\n"):
            step = raw.lstrip()
            if not step:
                continue
            if step.startswith("C: ") or step == "C:":
                self.send(step[3:].encode() + b"\r\n")
            elif step.startswith("C+ "):
                self.send(step[3:].encode())
            elif step.startswith("S: ") or step == "S:":
                expected = step[3:]
                line = await self.line()
                if expected.endswith("..."):
                    assert line.startswith(expected[:-3]), f"{line!r} instead of {expected!r}"
                else:
                    assert line == expected, f"{line!r} instead of {expected!r}"
            else:
                raise ValueError(step)

    async def command(self, command: str, tag: str = "x") -> list[str]:
        """All response lines, the tagged one last."""
        self.send(f"{tag} {command}\r\n".encode())
        lines = []
        while True:
            line = await self.line()
            lines.append(line)
            if line.startswith(f"{tag} "):
                return lines

    async def silent(self, seconds: float = 0.05) -> bool:
        """Whether nothing comes."""
        try:
            async with asyncio.timeout(seconds):
                return not await self.reader.read(1)
        except TimeoutError:
            return True


@contextlib.asynccontextmanager
async def session_on(
    store: MailStore,
    names: Names | None = None,
    inactivity: float = 60.0,
    progress: float = 60.0,
) -> AsyncIterator[Client]:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    for end in (ours, theirs):
        end.setblocking(False)
    stream = Stream()
    await loop.connect_accepted_socket(lambda: stream, theirs)
    reader, writer = await asyncio.open_connection(sock=ours, limit=4 * 1024 * 1024)
    client = Client(reader, writer)
    session = Session(stream, store, Who("lcarr", "s"), names or Names(), client.reports.append)
    client.server = Server(session, inactivity, progress)
    client.result = asyncio.create_task(client.server.run())
    try:
        yield client
    finally:
        writer.close()
        async with asyncio.timeout(60):
            await asyncio.wait((client.result,))
        stream.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
