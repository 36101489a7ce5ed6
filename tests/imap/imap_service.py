"""A whole IMAP service: front in this process, worker exec'd, Maildir below."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from resel_lda.front import ImapService
from resel_lda.worker_pool import WorkerPool
from resel_mta.config import Settings
from resel_mta.maillog import MailLog
from resel_mta.users import open_users

PASSWORD = "secret word"


class Lines:
    """A log sink that keeps what it is given, and lets tests wait for a line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._event = asyncio.Event()

    def write(self, lines: list[str]) -> None:
        self.lines += lines
        self._event.set()

    def reopen(self) -> None:
        """Nothing to reopen."""

    async def wait_for(self, *words: str) -> str:
        async with asyncio.timeout(10):
            while True:
                for line in self.lines:
                    if all(word in line for word in words):
                        return line
                self._event.clear()
                await self._event.wait()


class FixedTLS:
    """None: a server that was given no certificate."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context

    def context(self) -> ssl.SSLContext | None:
        return self._context


class Running:
    def __init__(self, service: ImapService, pool: WorkerPool, log: Lines, root: Path) -> None:
        self.service = service
        self.pool = pool
        self.log = log
        self.root = root
        self.port = 0
        self.tls_port = 0

    @property
    def maildir(self) -> Path:
        return self.root / "mail" / "lcarr"


async def listen(factory: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Server, int]:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(factory, sock=bound)
    return server, bound.getsockname()[1]


@contextlib.asynccontextmanager
async def imap_service(
    root: Path, context: ssl.SSLContext | None = None, **values: str
) -> AsyncIterator[Running]:
    (root / "users").write_text(f"lcarr:{{PLAIN}}{PASSWORD}:::::\nada:{{PLAIN}}{PASSWORD}:::::\n")
    settings = Settings.build(
        "server",
        mail_location=f"maildir:{root}/mail/%u",
        passdb=f"passwd-file:{root}/users",
        **{"auth_failure_delay": "0", **values},
    )
    sink = Lines()
    log = MailLog(sink, hostname="toad")
    pool = WorkerPool(settings, log)
    users = open_users(settings, log)
    service = ImapService(settings, users, log, FixedTLS(context), pool)
    running = Running(service, pool, sink, root)
    pool.start()
    plain, running.port = await listen(service.factory(implicit_tls=False))
    secure, running.tls_port = await listen(service.factory(implicit_tls=True))
    try:
        yield running
    finally:
        plain.close()
        secure.close()
        await service.stop(5)
        await pool.stop(10)
        users.close()
