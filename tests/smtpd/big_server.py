"""A service in a process of its own, for tests that measure it: prints its port, and then serves
until its input ends. Large content goes to files, as with the real intake."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import uvloop
from smtpd_fakes import BASE, FakeIntake, FakeRouter, FakeUsers

from resel_mta.config import Settings
from resel_mta.content import Body, Content
from resel_mta.mail import Envelope, Origin
from resel_mta.maillog import MailLog
from resel_mta.maillog.sinks import StreamSink
from resel_mta.smtpd import SmtpService


class FileBody:
    """A body in a file."""

    in_memory = False

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)


class FileSink:
    """Writes blocks in a thread, as a disk needs."""

    def __init__(self) -> None:
        with tempfile.TemporaryFile(buffering=0) as file:
            self.fd = os.dup(file.fileno())
        self.size = 0

    async def write(self, block: bytes) -> None:
        self.size += len(block)
        await asyncio.to_thread(os.write, self.fd, block)

    async def finish(self) -> Body:
        return FileBody(self.fd, self.size)

    async def discard(self) -> None:
        os.close(self.fd)


class FileIntake(FakeIntake):
    """Counts octets and throws the message away."""

    def sink(self) -> FileSink:  # type: ignore[override]
        return FileSink()

    async def submit(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> str:
        if isinstance(content.body, FileBody):
            os.close(content.body.fd)
        return queue_id


async def main() -> None:
    loop = asyncio.get_running_loop()
    settings = Settings.build("server", **{**BASE, "message_size_limit": "50000000"})
    service = SmtpService(
        "smtpd",
        settings.service("smtpd"),
        FileIntake(),
        FakeRouter(),
        FakeUsers(),  # type: ignore[arg-type]
        MailLog(StreamSink(2)),
    )
    # As the daemon's: a client whose connection the kernel dropped, for want of room, waits for ever.
    server = await loop.create_server(service.factory, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    await service.stop(1)


if __name__ == "__main__":
    uvloop.run(main())
