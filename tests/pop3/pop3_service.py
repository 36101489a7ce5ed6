"""A whole POP3 service: front in this process, worker exec'd, Maildir below."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "imap"))
from imap_service import PASSWORD, FixedTLS, Lines, listen

from resel_lda.front import ImapService
from resel_lda.pop3.front import Pop3Service
from resel_lda.worker_pool import WorkerPool
from resel_mta.config import Settings
from resel_mta.maillog import MailLog
from resel_mta.users import open_users

__all__ = ["PASSWORD", "Lines", "Running", "pop3_service"]


class Running:
    def __init__(self, root: Path, log: Lines, pool: WorkerPool) -> None:
        self.root = root
        self.log = log
        self.pool = pool
        self.port = self.tls_port = self.imap_port = 0
        self._number = itertools.count(5001)

    @property
    def maildir(self) -> Path:
        return self.root / "mail" / "lcarr"

    def deliver(self, *messages: bytes) -> None:
        """Into new/, as another program would."""
        for name in ("cur", "new", "tmp"):
            (self.maildir / name).mkdir(parents=True, exist_ok=True)
        for message in messages:
            at = next(self._number)
            (self.maildir / "new" / f"{1700000000 + at}.M{at}P1.host").write_bytes(message)


@contextlib.asynccontextmanager
async def pop3_service(
    root: Path, context: ssl.SSLContext | None = None, users: str = "", **values: str
) -> AsyncIterator[Running]:
    """users: more lines for the passwd-file."""
    known = "".join(f"{name}:{{PLAIN}}{PASSWORD}:::::\n" for name in ("lcarr", "ada"))
    (root / "users").write_text(known + users)
    settings = Settings.build(
        "server",
        mail_location=f"maildir:{root}/mail/%u",
        passdb=f"passwd-file:{root}/users",
        **{"auth_failure_delay": "0", **values},
    )
    sink = Lines()
    log = MailLog(sink, hostname="toad")
    pool = WorkerPool(settings, log)
    directory = open_users(settings, log)
    tls = FixedTLS(context)
    pop3 = Pop3Service(settings, directory, log, tls, pool)
    imap = ImapService(settings, directory, log, tls, pool)
    running = Running(root, sink, pool)
    pool.start()
    servers = []
    for name, service, implicit in (
        ("port", pop3, False),
        ("tls_port", pop3, True),
        ("imap_port", imap, False),
    ):
        server, port = await listen(service.factory(implicit_tls=implicit))
        servers.append(server)
        setattr(running, name, port)
    try:
        yield running
    finally:
        for server in servers:
            server.close()
        await asyncio.gather(pop3.stop(5), imap.stop(5))
        await pool.stop(10)
        directory.close()
