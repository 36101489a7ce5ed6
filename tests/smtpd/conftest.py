"""An SMTP service on a loopback port, and its certificate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from smtpd_fakes import BASE, FakeIntake, FakeRouter, FakeUsers, Lines, Server, Start

from resel_mta.config import Settings
from resel_mta.maillog import MailLog
from resel_mta.smtpd import ConnectionCounter, SmtpService
from resel_mta.tls import ServerTLS


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[trustme.CA, str]:
    """An authority, and a PEM file with a key and its certificate for localhost."""
    authority = trustme.CA()
    path = tmp_path / "chain.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(path)
    )
    return authority, str(path)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`server = await start(name="smtpd", tls="", **settings)`."""
    started: list[tuple[asyncio.Server, Server]] = []

    async def run(
        name: str = "smtpd",
        *,
        tls: str = "",
        role: str = "server",
        counter: ConnectionCounter | None = None,
        **values: str,
    ) -> Server:
        loop = asyncio.get_running_loop()
        if tls:
            values = {"smtpd_tls_chain_files": tls, "smtpd_tls_security_level": "may", **values}
        settings = Settings.build(role, **{**BASE, **values})
        lines, intake, router = Lines(), FakeIntake(), FakeRouter()
        service = SmtpService(
            name,
            settings.service(name),
            intake,
            router,
            FakeUsers(),  # type: ignore[arg-type]
            MailLog(lines, stamped=False),
            ServerTLS(settings.service(name)) if tls else None,
            counter=counter,
        )
        listening = await loop.create_server(
            service.factory, "127.0.0.1", 0, ssl=service.ssl_context
        )
        server = Server(service, intake, router, lines)
        server.port = listening.sockets[0].getsockname()[1]
        started.append((listening, server))
        return server

    yield run
    for listening, server in started:
        listening.close()
        for peer in server.peers:
            await peer.close()
        await server.service.stop(2)
        await listening.wait_closed()
