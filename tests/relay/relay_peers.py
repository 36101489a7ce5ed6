"""Scripted SMTP servers and what the relay's tests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from demo.dns_server import DnsServer
from resel_mta.content import Content
from resel_mta.mail import Envelope, Message, Outcome, Recipient, Route
from resel_mta.maillog import MailLog
from resel_relay.dns import Resolver
from resel_relay.parameters import Parameters
from resel_relay.transport import SmtpTransport

HELLO = """
S: 220 mx.test ESMTP
C: EHLO me.test
S: 250-mx.test
S: 250-PIPELINING
S: 250-8BITMIME
S: 250 ENHANCEDSTATUSCODES
"""
PLAIN_HELLO = """
S: 220 mx.test ESMTP
C: EHLO me.test
S: 250 mx.test
"""


class Peer:
    """A server that plays scripts, one per connection, the last one again and again.

    ``S: text`` sends a line, ``C: text`` expects one that starts so, ``C: <content>`` reads up to
    the end mark, ``C: <anything>`` an octet, ``RAW text`` sends without line end (escapes allowed), ``DROP`` closes, ``STALL``
    waits for the client to go. Lines of the client after the script's end are only recorded.
    """

    def __init__(self, *scripts: str) -> None:
        self.scripts = [s.strip().splitlines() for s in scripts]
        self.sessions = 0
        self.lines: list[list[str]] = []
        self.contents: list[bytes] = []
        self.wrong: list[str] = []
        self.left = asyncio.Event()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: str = "") -> None:
        if path:
            self._server = await asyncio.start_unix_server(self._serve, path)
            return
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        script = self.scripts[min(self.sessions, len(self.scripts) - 1)]
        self.sessions += 1
        lines: list[str] = []
        self.lines.append(lines)
        try:
            await self._play(script, reader, writer, lines)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.wrong.append(f"client left: {error!r}")
        finally:
            self._tasks.discard(task)
            self.left.set()
            writer.close()

    async def _play(
        self,
        script: list[str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lines: list[str],
    ) -> None:
        for step in script:
            if step.startswith("S: "):
                writer.write(step[3:].encode() + b"\r\n")
            elif step == "C: <content>":
                self.contents.append(await _content(reader))
            elif step == "C: <anything>":
                await reader.read(1)
            elif step.startswith("C: "):
                got = (await reader.readuntil(b"\r\n")).decode().rstrip("\r\n")
                lines.append(got)
                if not got.startswith(step[3:]):
                    self.wrong.append(f"expected {step[3:]!r}, got {got!r}")
            elif step.startswith("RAW "):
                writer.write(step[4:].encode().decode("unicode_escape").encode("latin-1"))
            elif step == "DROP":
                return
            elif step == "RESET":
                writer.transport.abort()
                return
        while line := await reader.readline():
            lines.append(line.decode().rstrip("\r\n"))


async def _content(reader: asyncio.StreamReader) -> bytes:
    data = b""
    while not (data == b".\r\n" or data.endswith(b"\r\n.\r\n")):
        data += await reader.readuntil(b"\n")
    return data


class Lines:
    """A log sink that remembers."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, lines: list[str]) -> None:
        self.text += "".join(lines)

    def reopen(self) -> None:
        """Nothing to reopen."""


class Client:
    """A transport under test with its log and resolver."""

    def __init__(self, parameters: Parameters, resolver: Resolver, **options: object) -> None:
        self.lines = Lines()
        self.log = MailLog(self.lines)
        self.resolver = resolver
        self.transport = SmtpTransport(
            parameters.protocol,
            parameters.protocol,
            parameters,
            resolver,
            self.log,
            parameters.protocol,
            **options,  # type: ignore[arg-type]
        )

    async def send(
        self, nexthop: str, *to: str, mail: Message | None = None, origin: str = "relayhost"
    ) -> list[Outcome]:
        """The outcomes in the recipients' order."""
        mail = mail or message(*(to or ("user@example.org",)))
        recipients = mail.envelope.recipients
        route = Route(self.transport.name, nexthop, origin)
        outcomes = await self.transport.deliver(mail, recipients, route)
        self.log.flush()
        assert set(outcomes) == set(recipients)
        return [outcomes[recipient] for recipient in recipients]


def message(
    *to: str,
    data: bytes = b"Subject: hi\r\n\r\n.dot\r\nbody\r\n",
    sender: str = "me@me.test",
    **envelope: object,
) -> Message:
    recipients = [Recipient(address) for address in to or ("user@example.org",)]
    content = Content.from_bytes(data)
    return Message(
        queue_id="4bTest",
        arrival=time.time(),
        envelope=Envelope(sender, recipients, **envelope),  # type: ignore[arg-type]
        size=content.size,
        recipients=recipients,
        content=content,
    )


@pytest.fixture
async def peer() -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    """Starts scripted servers; afterwards no client may have strayed from the script."""
    started: list[Peer] = []

    async def start(*scripts: str, path: str = "") -> Peer:
        server = Peer(*scripts)
        await server.start(path)
        started.append(server)
        return server

    yield start
    for server in started:
        await server.stop()
    assert [server.wrong for server in started if server.wrong] == []


@pytest.fixture
async def client() -> AsyncIterator[Callable[..., Client]]:
    """Makes transports."""
    made: list[Client] = []

    def make(resolver: Resolver | None = None, maps: object = None, **values: object) -> Client:
        parameters = replace(
            Parameters(myhostname="me.test", helo_name="me.test", families=("ipv4",)),
            **values,  # type: ignore[arg-type]
        )
        new = Client(parameters, resolver or Resolver(["127.0.0.1:9"]), password_maps=maps)
        made.append(new)
        return new

    yield make
    for one in made:
        await one.transport.close()
        await one.resolver.close()


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    """An empty zone."""
    server = DnsServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def resolver(dns: DnsServer) -> AsyncIterator[Resolver]:
    """A resolver that asks `dns`."""
    new = Resolver([f"127.0.0.1:{dns.port}"], families=("ipv4",), try_timeout=0.1, lifetime=0.3)
    yield new
    await new.close()
