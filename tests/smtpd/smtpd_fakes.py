"""An SMTP service on a loopback port, with an intake and a router that only remember."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from resel_mta.content import Body, Content, MemoryBody
from resel_mta.mail import AddressClass, Envelope, Message, Origin, Reply, Route, TempFail
from resel_mta.smtpd import SmtpService
from resel_mta.users import User
from resel_mta.users.penalties import Penalties
from resel_mta.users.username import UsernameFormat


class MemorySink:
    """Keeps blocks in memory, and what became of them."""

    def __init__(self, intake: FakeIntake) -> None:
        self.blocks: list[bytes] = []
        self.largest = 0
        self.discarded = False
        self.intake = intake

    async def write(self, block: bytes) -> None:
        if self.intake.write_failure is not None:
            raise self.intake.write_failure
        self.largest = max(self.largest, len(block))
        self.intake.sink_octets += len(block)
        if self.intake.keep:
            self.blocks.append(block)
        await asyncio.sleep(0)

    async def finish(self) -> Body:
        return MemoryBody(b"".join(self.blocks))

    async def discard(self) -> None:
        self.discarded = True


@dataclass
class Taken:
    """One submitted message."""

    envelope: Envelope
    data: bytes
    origin: Origin
    queue_id: str


@dataclass
class FakeIntake:
    """Remembers messages. failure: raised by submit; gate: submit waits for it."""

    taken: list[Taken] = field(default_factory=list)
    sinks: list[MemorySink] = field(default_factory=list)
    failure: Exception | None = None
    write_failure: Exception | None = None
    gate: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    keep: bool = True
    sink_octets: int = 0
    room: int = 1 << 40
    ids: int = 0

    def new_id(self) -> str:
        self.ids += 1
        return f"QID{self.ids}"

    def check_space(self, size: int) -> None:
        if size > self.room:
            raise TempFail(Reply(452, "4.3.1", "Insufficient system storage"))

    def sink(self) -> MemorySink:
        self.sinks.append(MemorySink(self))
        return self.sinks[-1]

    async def submit(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> str:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        body = content.body.read(0, content.body.size)
        data = content.header.raw + b"\r\n" + body
        self.taken.append(Taken(envelope, data, origin, queue_id))
        return queue_id

    async def prepare(
        self, envelope: Envelope, content: Content, origin: Origin, queue_id: str = ""
    ) -> Message:
        raise AssertionError("the SMTP service commits nothing itself")


@dataclass
class FakeRouter:
    """Domains and users by name."""

    local: tuple[str, ...] = ("example.org", "[127.0.0.1]")
    relay: tuple[str, ...] = ("relay.example",)
    users: tuple[str, ...] = ("lcarr", "root", "postmaster", "été", '"a b"')
    failure: Exception | None = None
    asked: list[str] = field(default_factory=list)

    async def classify(self, address: str) -> AddressClass:
        if self.failure is not None:
            raise self.failure
        domain = address.rpartition("@")[2].lower()
        if domain in self.local:
            return AddressClass.LOCAL
        return AddressClass.RELAY if domain in self.relay else AddressClass.DEFAULT

    async def check_recipient(self, address: str) -> Reply | None:
        self.asked.append(address)
        local, _, domain = address.rpartition("@")
        if domain.lower() not in self.local or local.lower() in self.users:
            return None
        return Reply(
            550,
            "5.1.1",
            f"<{address}>: Recipient address rejected: User unknown in local recipient table",
        )

    async def route(self, address: str, reverse_path: str = "", via: Collection[str] = ()) -> Route:
        raise AssertionError("the SMTP service routes nothing")


class FakeUsers:
    """One user: lcarr, with the password secret."""

    def __init__(self) -> None:
        self.penalties = Penalties(0.0)
        self.known_as = UsernameFormat("")

    def mechanisms(self) -> tuple[str, ...]:
        return ("PLAIN", "LOGIN")

    async def authenticate(self, name: str, password: bytes) -> User | None:
        return User(name) if (name, password) == ("lcarr", b"secret") else None


class Lines:
    """A log sink that can be read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, lines: list[str]) -> None:
        self.lines += [line.rstrip("\n") for line in lines]

    def reopen(self) -> None:
        """Nothing to reopen."""


BASE = {
    "myhostname": "mx.example.org",
    "mydomain": "example.org",
    "myorigin": "example.org",
    "mydestination": "example.org",
    "relay_domains": "relay.example",
    "mynetworks": "10.0.0.0/8",
    "smtpd_error_sleep_time": "0",
    "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination",
    "local_header_rewrite_clients": "permit_inet_interfaces",
    "inet_interfaces": "127.0.0.1",
    "compatibility_level": "3.6",
}


class Peer:
    """A client that talks raw SMTP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def reply(self) -> str:
        """One whole reply, its lines joined by newlines; "" at the end of the connection."""
        lines: list[str] = []
        while True:
            line = await asyncio.wait_for(self.reader.readline(), 20)
            lines.append(line.decode("utf-8").rstrip("\r\n"))
            if line[3:4] != b"-":
                return "\n".join(lines)

    async def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)
        await self.writer.drain()

    async def ask(self, *lines: str) -> str:
        """Send lines at once; the last of their replies."""
        await self.send("".join(f"{line}\r\n" for line in lines))
        answer = ""
        for _ in lines:
            answer = await self.reply()
        return answer

    async def hello(self) -> str:
        await self.reply()
        return await self.ask("EHLO client.example")

    async def open(self, recipient: str = "lcarr@example.org") -> None:
        """Greet, and go on as far as DATA's 354."""
        await self.hello()
        await self.ask("MAIL FROM:<a@b.example>", f"RCPT TO:<{recipient}>")
        assert (await self.ask("DATA")).startswith("354")

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Server:
    """A running service and all that it was given."""

    def __init__(
        self, service: SmtpService, intake: FakeIntake, router: FakeRouter, lines: Lines
    ) -> None:
        self.service = service
        self.intake = intake
        self.router = router
        self.lines = lines
        self.port = 0
        self.peers: list[Peer] = []

    async def connect(self, **options: Any) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port, **options))
        self.peers.append(peer)
        return peer

    async def log(self) -> list[str]:
        """Ends all sessions. Their log lines, without prefix."""
        for peer in self.peers:
            await peer.close()
        for _ in range(200):
            if not self.service.session_count:
                break
            await asyncio.sleep(0.01)
        self.service.log.flush()
        return [line.partition("]: ")[2] for line in self.lines.lines]


Start = Callable[..., Any]
