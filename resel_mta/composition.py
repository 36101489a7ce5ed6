"""Put a role's services together out of the rooms: with `main_composition` the only place that
knows them all.

Nothing here decides anything about mail. What runs follows from the settings (a service without
listeners is absent); roles are only defaults of settings.
"""

from __future__ import annotations

import abc
import asyncio
import os
import resource
import ssl
import stat
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol, runtime_checkable

from resel_lda.by_helper import ByHelper, IncludeReader
from resel_lda.deposit import Depositor, ThreadDepositor
from resel_lda.helpers import ChildDispatch, Helpers
from resel_lda.local import LocalTransport
from resel_mta.config import ConfigError, Listener, Settings
from resel_mta.disk import Disk
from resel_mta.fixed_transports import fixed_transports
from resel_mta.intake import MailIntake
from resel_mta.mail import Transport
from resel_mta.maillog import (
    FileSink,
    JournalSink,
    MailLog,
    Sink,
    StreamSink,
    SyslogSink,
    is_journal,
)
from resel_mta.queue.housekeeping import Housekeeper
from resel_mta.queue.parts import part_directory
from resel_mta.queue.peers import Peers
from resel_mta.queue.scheduler import Scheduler
from resel_mta.queue.spool import needed_space
from resel_mta.queue.sqlite import SQLiteStore
from resel_mta.resolving import configure_resolver, name_finder
from resel_mta.routing import Expander, RoutingTable
from resel_mta.routing.deferred import ExpandTransport
from resel_mta.routing.forwarding import Forwarder
from resel_mta.smtpd import LmtpService, SmtpService
from resel_mta.sockets import Bound
from resel_mta.supervised import SupervisedDispatch, SupervisorLink
from resel_mta.tls import ServerTLS
from resel_mta.users import open_users
from resel_mta.users.pam import ThreadPam
from resel_mta.workers.accepting import Factory, SharedServer
from resel_mta.workers.board import Board, SharedCounter
from resel_mta.workers.guesses import SharedGuesses
from resel_relay.dns import Resolver
from resel_relay.transport import SmtpTransport

#: Connections that may wait to be accepted. A full queue costs a client a second or more.
BACKLOG = 1024
#: Open files that suffice for some thousand slow clients; most shells allow only 1,024.
OPEN_FILES = 65_536
#: Seconds between two writes of the log while much happens.
LOG_PAUSE = 0.005

#: All workers accept connections of these.
SHARED_SERVICES = ("smtpd", "submission", "submissions", "lmtp")


@runtime_checkable
class Reconfigurable(Protocol):
    """Takes the settings of a reload; sessions in progress keep what they have."""

    def reconfigure(self, settings: Settings) -> Awaitable[None] | None: ...


def open_log(settings: Settings) -> MailLog:
    """The log that the settings ask for. maillog_file: a file, /dev/stdout, or a syslog socket
    such as /dev/log; empty is standard output. Raises OSError."""
    path = settings.text("maillog_file")
    as_json = settings.text("log_format") == "json"
    sink: Sink
    stamped = True
    if path in ("", "/dev/stdout"):
        sink = _standard_output(as_json)
        stamped = not is_journal(1)
    elif _is_socket(path):
        sink = SyslogSink(path)
        stamped = False
    else:
        sink = FileSink(path)
    return MailLog(
        sink,
        syslog_name=settings.text("syslog_name"),
        mailbox_syslog_name=settings.text("mailbox_syslog_name"),
        hostname=settings.text("myhostname").partition(".")[0],
        stamped=stamped,
        as_json=as_json,
        gather=LOG_PAUSE,
    )


def _standard_output(as_json: bool) -> Sink:
    """The journal's own socket, where standard output leads there and the lines are for people."""
    if is_journal(1) and not as_json:
        with suppress(OSError):
            return JournalSink()
    return StreamSink(1)


def _is_socket(path: str) -> bool:
    with suppress(OSError):
        return stat.S_ISSOCK(os.stat(path).st_mode)
    return False


def raise_file_limit() -> None:
    """Let this process open as many files as it may, up to OPEN_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def open_part(settings: Settings, log: MailLog, part: int) -> SQLiteStore:
    """A part of the queue. Raises what `SQLiteStore.open` does."""
    return await SQLiteStore.open(
        part_directory(settings.text("queue_directory"), part),
        minfree=needed_space(settings),
        log=log,
        part=part,
    )


class Composition(abc.ABC):
    """What every network process runs: SMTP, a part of the queue, and deliveries from it. Built in
    `open` and taken down in `close`."""

    def __init__(
        self,
        settings: Settings,
        log: MailLog,
        supervisor: SupervisorLink | None,
        board: Board,
        peers: Peers,
        part: int = 0,
    ) -> None:
        """supervisor: does what this process may not; None when there is nobody above it. board,
        peers: what is shared with other workers. part: of the queue."""
        self.settings = settings
        self.log = log
        self.supervisor = supervisor
        self.board = board
        self.smtp: dict[str, SmtpService] = {}
        self._peers = peers
        self._part = part
        self._counter = SharedCounter(board)
        self._servers: dict[Listener, asyncio.Server | SharedServer] = {}

    async def open(self, bound: list[Bound]) -> None:
        """Raises queue.QueueLocked, TLS and file errors: nothing listens then."""
        raise_file_limit()
        settings, log = self.settings, self.log
        self.store = await open_part(settings, log, self._part)
        pam = self.supervisor.pam if self.supervisor is not None else ThreadPam
        self.users = open_users(settings, log, pam)
        self.users.penalties.elsewhere = SharedGuesses(self.board)
        await self.users.prepare()
        self.router = RoutingTable(settings, self.users)
        above = self.supervisor
        dispatch = above.helpers(settings) if above else None
        self.helpers = Helpers(
            settings, dispatch or ChildDispatch(settings), settings.text("queue_directory")
        )
        if self.supervisor is None:
            self.expander = Expander(settings, self.router)
        else:
            self.expander = Expander(settings, self.router, IncludeReader(self.helpers))
        self.intake = MailIntake(settings, self.expander, self.router, self.store, log)
        self.resolver = Resolver()
        configure_resolver(self.resolver, settings)
        self.names = name_finder(self.resolver)
        if above is not None:
            await above.look_at_files()
        self.depositor = self._open_depositor(dispatch)
        self.transports = self._transports()
        self.scheduler = Scheduler(
            settings, self.store, self.router, self.transports, self.intake, log, self._peers
        )
        self.tls = ServerTLS(
            settings,
            warn=partial(log.warning, "master"),
            source=above.files if above else None,
        )
        self.intake.courier = self.scheduler
        self.housekeeper = Housekeeper(settings, self.store, log)
        await self.scheduler.start()
        self.housekeeper.start()
        for entry in bound:
            await self.listen(entry)

    def _open_depositor(self, dispatch: SupervisedDispatch | None) -> Depositor:
        """Whoever writes the mailboxes. dispatch: has processes run as other accounts."""
        if dispatch is not None:
            # Mailboxes belong to an account of their own.
            return self._remote_depositor(dispatch)
        return ThreadDepositor(self.settings, self.log.warning, Disk())

    @abc.abstractmethod
    def _remote_depositor(self, dispatch: SupervisedDispatch) -> Depositor:
        """By way of the mailbox workers."""

    def _transports(self) -> Mapping[str, Transport]:
        settings, log = self.settings, self.log
        transports: dict[str, Transport] = dict(fixed_transports())
        for name, program, protocol in (
            ("smtp", "smtp", "smtp"),
            ("relay", "smtp", "smtp"),
            ("lmtp", "lmtp", "lmtp"),
        ):
            transports[name] = SmtpTransport(
                name, program, settings, self.resolver, log, protocol=protocol
            )
        forwarder = Forwarder(settings, self.router, self.intake)
        by_helper = ByHelper(settings, log, self.helpers, forwarder)
        self._local_parts = (self.helpers, forwarder, by_helper)
        for name in ("local", "virtual"):
            transports[name] = LocalTransport(
                settings, self.users, log, self.depositor, by_helper, name=name
            )
        self.mailboxes = LocalTransport(
            settings, self.users, log, self.depositor, by_helper, name="lmtp"
        )
        transports["expand"] = ExpandTransport(self.expander, self.intake)
        return transports

    async def listen(self, entry: Bound) -> None:
        """Serve a socket that is bound already; it stays the caller's to close."""
        factory, context = self._served(entry.listener.service)
        listening = entry.socket.dup()
        server: asyncio.Server | SharedServer
        if entry.listener.service in SHARED_SERVICES and not self.board.is_alone:
            server = SharedServer(listening, factory, context, self.board, self.log)
        else:
            loop = asyncio.get_running_loop()
            make = loop.create_unix_server if entry.listener.path else loop.create_server
            server = await make(factory, sock=listening, ssl=context, backlog=BACKLOG)
        self._servers[entry.listener] = server

    def _served(self, service: str) -> tuple[Factory, ssl.SSLContext | None]:
        """What makes a protocol for a connection, and the TLS context if it begins with that."""
        smtp = self._smtp_service(service)
        return smtp.factory, smtp.ssl_context

    def close_listener(self, listener: Listener) -> None:
        """Accept no more there; its sessions go on."""
        self._servers.pop(listener).close()

    def _smtp_service(self, name: str) -> SmtpService:
        if name not in self.smtp:
            self.smtp[name] = self._lmtp_service() if name == "lmtp" else self._smtp(name)
        return self.smtp[name]

    def _smtp(self, name: str) -> SmtpService:
        return SmtpService(
            name,
            self.settings.service(name),
            self.intake,
            self.router,
            self.users,
            self.log,
            self.tls,
            counter=self._counter,
            names=self.names,
        )

    def _lmtp_service(self) -> LmtpService:
        return LmtpService(
            self.settings.service("lmtp"),
            self.intake,
            self.mailboxes,
            self.store.discard,
            self.users,
            self.log,
            self.tls,
            counter=self._counter,
        )

    async def reconfigure(self, settings: Settings) -> None:
        """Everything that runs takes these settings; sessions in progress go on.

        Raises ConfigError when something cannot work with them; all have the old ones again then.
        """
        try:
            await self._reconfigure(settings)
        except ConfigError:
            await self._reconfigure(self.settings)
            raise
        self.settings = settings

    async def _reconfigure(self, settings: Settings) -> None:
        if self.supervisor is not None:
            await self.supervisor.look_at_files()
        configure_resolver(self.resolver, settings)
        self.names.forget()
        parts: list[object] = [
            self.tls,
            self.users,
            self.router,
            self.expander,
            self.intake,
            self.depositor,
            *self._local_parts,
            *self.transports.values(),
            self.mailboxes,
            self.scheduler,
            self.housekeeper,
            *self._more_parts(),
        ]
        for part in parts:
            if isinstance(part, Reconfigurable):
                pending = part.reconfigure(settings)
                if pending is not None:
                    await pending
        await self.users.prepare()
        for name, service in self.smtp.items():
            service.reconfigure(settings.service(name))

    def _more_parts(self) -> Iterable[object]:
        """What else takes settings."""
        return ()

    async def close(self, timeout: float) -> None:
        """Stop accepting, finish what is in flight within `timeout` seconds, then let go."""
        self.board.leave()
        for server in self._servers.values():
            server.close()
        await self.housekeeper.stop()
        # What is still submitted after the scheduler's end is queued for the next start.
        await asyncio.gather(*self._stops(timeout))
        await self._close_mailboxes()
        await self.helpers.close()
        for transport in self.transports.values():
            await transport.close()
        await self.store.close()

    async def _close_mailboxes(self) -> None:
        """Nothing is delivered to them any more."""
        await self.depositor.close()

    def _stops(self, timeout: float) -> list[Awaitable[None]]:
        """What finishes what is in flight, all at the same time."""
        stops: list[Awaitable[None]] = [service.stop(timeout) for service in self.smtp.values()]
        return [*stops, self.scheduler.stop(timeout)]
