"""An SMTP service: what all its connections share, its start, reload and stop."""

from __future__ import annotations

import asyncio
import ssl
from typing import ClassVar, Protocol

from resel_mta import trace
from resel_mta.config import ConfigError, Settings
from resel_mta.config.problems import Problem
from resel_mta.mail import Intake, Reply, Router, TempFail
from resel_mta.maillog import MailLog
from resel_mta.smtpd.client import Client
from resel_mta.smtpd.connection import Connection
from resel_mta.smtpd.names import NameFinder
from resel_mta.smtpd.options import Options
from resel_mta.smtpd.parameters import Offers
from resel_mta.smtpd.protocol import SmtpProtocol
from resel_mta.smtpd.recipients import RecipientTable
from resel_mta.smtpd.transcript import Postmaster
from resel_mta.tls import ServerTLS
from resel_mta.users import Users

#: Seconds between looks at the sessions' time-outs.
_SWEEP_EVERY = 1.0


class ConnectionCounter:
    """How many connections each client address has, over all services that share it."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, address: str) -> None:
        self._counts[address] = self._counts.get(address, 0) + 1

    def remove(self, address: str) -> None:
        left = self._counts.get(address, 0) - 1
        if left > 0:
            self._counts[address] = left
        else:
            self._counts.pop(address, None)

    def __getitem__(self, address: str) -> int:
        return self._counts.get(address, 0)


class QueueIntake(Intake, Protocol):
    """An intake that says at once what it has no room for."""

    def check_space(self, size: int) -> None:
        """Raises TempFail if a message of so many octets (0: not known) cannot be taken."""
        ...


class SmtpService:
    """All sessions of one service ("smtpd", "submission" or "submissions").

        service = SmtpService("smtpd", settings.service("smtpd"), intake, router, users, log, tls)
        server = await loop.create_server(service.factory, sock=sock, ssl=service.ssl_context)

    counter: share one between services, so that a client's connections to all of them count.
    names: finds the names of clients; None looks up nothing.
    """

    protocol: ClassVar[type[SmtpProtocol]] = SmtpProtocol

    def __init__(
        self,
        name: str,
        settings: Settings,
        intake: QueueIntake,
        router: Router,
        users: Users,
        log: MailLog,
        tls: ServerTLS | None = None,
        *,
        counter: ConnectionCounter | None = None,
        names: NameFinder | None = None,
    ) -> None:
        """Raises ConfigError."""
        self.name = name
        self.intake = intake
        self.recipients = RecipientTable(router)
        self.users = users
        self.log = log
        self.tls = tls
        self.names = names
        self.log_name = "smtpd" if name == "smtpd" else f"{name}/smtpd"
        self.postmaster = Postmaster(self.log_name, intake, log)
        self._counter = counter if counter is not None else ConnectionCounter()
        self._sessions: set[Connection] = set()
        self._speaking: list[Connection] = []
        self._empty = asyncio.Event()
        self._empty.set()
        self._stopping = False
        self._second = 0
        self._date = ""
        self._sweeping: asyncio.TimerHandle | None = None
        self._use(self._read(settings), settings)
        if self.options.implicit_tls and (tls is None or tls.context() is None):
            raise ConfigError(
                [Problem("", "smtpd_tls_cert_file", f"{name} needs a certificate and its key")]
            )

    def _read(self, settings: Settings) -> Options:
        try:
            return Options.from_settings(self.name, settings)
        except (OSError, ValueError) as error:
            raise ConfigError([Problem("", "mynetworks", str(error))]) from error

    def lacks_room(self, size: int) -> Reply | None:
        """What to say to mail of so many octets (0: not known) that cannot be taken now."""
        try:
            self.intake.check_space(size)
        except TempFail as failure:
            return failure.reply
        return None

    def _use(self, options: Options, settings: Settings) -> None:
        self.options = options
        self.postmaster.reconfigure(settings)
        self.greeting = Reply(220, "", options.banner).wire()
        #: What the last EHLO was about, and how it was answered.
        self.ehlo: tuple[object, tuple[Offers, bytes]] | None = None
        self.recipients.forget()

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """For `create_server(ssl=…)`: None unless the service begins with a TLS handshake."""
        if not self.options.implicit_tls or self.tls is None:
            return None
        return self.tls.listening_context()

    def factory(self) -> SmtpProtocol:
        """A protocol for a new connection: for `create_server` and `create_unix_server`."""
        return self.protocol(self, asyncio.get_running_loop())

    def reconfigure(self, settings: Settings) -> None:
        """Settings (the service's view) for sessions from now on. Raises ConfigError, and then
        nothing changes."""
        self._use(self._read(settings), settings)

    async def stop(self, timeout: float) -> None:
        """End all sessions: idle ones at once, others after their transaction, at the latest in
        `timeout` seconds. The listening sockets are to be closed before."""
        self._stopping = True
        for session in list(self._sessions):
            session.begin_stop()
        try:
            await asyncio.wait_for(self._empty.wait(), timeout)
        except TimeoutError:
            for session in list(self._sessions):
                session.force_stop()
            # What is left is the event loop's own work: closing transports, ending tasks.
            try:
                await asyncio.wait_for(self._empty.wait(), 1.0)
            except TimeoutError:
                for session in list(self._sessions):
                    session.transport.abort()
        await self.postmaster.finish()

    @property
    def session_count(self) -> int:
        """Open connections."""
        return len(self._sessions)

    # -- for the sessions ---------------------------------------------------------------------

    def opened(self, session: Connection) -> None:
        self._sessions.add(session)
        self._empty.clear()
        self._counter.add(session.client.address)
        if self._sweeping is None:
            self._sweeping = session.loop.call_later(_SWEEP_EVERY, self._sweep, session.loop)
        if self._stopping:
            session.begin_stop()

    def closed(self, session: Connection) -> None:
        if session not in self._sessions:
            return
        self._sessions.discard(session)
        self._counter.remove(session.client.address)
        if not self._sessions:
            self._empty.set()

    def send_soon(self, session: Connection) -> None:
        """Have it say what it has to say once all is read that this turn of the event loop brought.

        Waking a process costs more than sending to it. Where replies go out one after the other,
        and not each between two commands that are read, a client that has several sessions is
        woken once for them, and so is a processor that slept.
        """
        if len(self._sessions) == 1:
            session.flush_in_turn()
            return
        if not self._speaking:
            session.loop.call_soon(self._send)
        self._speaking.append(session)

    def _send(self) -> None:
        speaking, self._speaking = self._speaking, []
        for session in speaking:
            session.flush_in_turn()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all: a timer each, started anew with each command, would cost more than
        the command."""
        now = loop.time()
        for session in list(self._sessions):
            session.check_time(now)
        self._sweeping = (
            loop.call_later(_SWEEP_EVERY, self._sweep, loop) if self._sessions else None
        )

    def connections(self, address: str) -> int:
        """Of this client, over all services that share the counter."""
        return self._counter[address]

    def admits(self, client: Client) -> bool:
        """smtpd_client_connection_count_limit, unless the client is excepted from it."""
        limit = self.options.connection_count_limit
        if not limit or self._counter[client.address] <= limit:
            return True
        return self.options.limit_exceptions.matches(client.address, client.name)

    def date(self, now: float) -> str:
        """The date for a Received field; made once a second."""
        if int(now) != self._second:
            self._second = int(now)
            self._date = trace.rfc5322_date(now)
        return self._date
