"""Put a role's services together out of the rooms: the only place that knows them all.

Nothing here decides anything about mail. What runs follows from the settings (a service without
listeners is absent); roles are only defaults of settings.
"""

from __future__ import annotations

import asyncio
import os
import resource
import ssl
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol, runtime_checkable

from resel_lda.by_helper import ByHelper, IncludeReader
from resel_lda.delivery import WorkerDepositor
from resel_lda.deposit import Depositor, ThreadDepositor
from resel_lda.front import Active, ImapService, LoginService
from resel_lda.helpers import ChildDispatch, Helpers
from resel_lda.local import LocalTransport
from resel_lda.pop3.front import Pop3Service
from resel_lda.user_workers import Workers
from resel_lda.worker_pool import WorkerPool
from resel_mta.config import ConfigError, Listener, Settings
from resel_mta.disk import Disk
from resel_mta.fixed_transports import fixed_transports
from resel_mta.intake import MailIntake
from resel_mta.mail import Reply, TempFail, Transport
from resel_mta.maillog import (
    FileSink,
    JournalSink,
    MailLog,
    Sink,
    StreamSink,
    SyslogSink,
    is_journal,
)
from resel_mta.pickup.drop import smtp_path
from resel_mta.pickup.service import PickupService
from resel_mta.queue.housekeeping import Housekeeper
from resel_mta.queue.scheduler import Scheduler
from resel_mta.queue.spool import needed_space
from resel_mta.queue.sqlite import SQLiteStore
from resel_mta.routing import Expander, RoutingTable
from resel_mta.routing.deferred import ExpandTransport
from resel_mta.routing.forwarding import Forwarder
from resel_mta.smtpd import ConnectionCounter, LmtpService, NameFinder, SmtpService
from resel_mta.sockets import Bound, bind_unix
from resel_mta.supervised import SupervisorLink
from resel_mta.tls import ServerTLS
from resel_mta.users import open_users
from resel_mta.users.pam import ThreadPam
from resel_relay.dns import DnsError, Resolver, TryAgain
from resel_relay.transport import SmtpTransport

#: Connections that may wait to be accepted. A full queue costs a client a second or more.
BACKLOG = 1024
#: Open files that suffice for some thousand slow clients; most shells allow only 1,024.
OPEN_FILES = 65_536

SMTP_SERVICES = ("smtpd", "submission", "submissions", "lmtp")
IMAP_SERVICES = ("imap", "imaps")
POP3_SERVICES = ("pop3", "pop3s")
SERVICES = SMTP_SERVICES + IMAP_SERVICES + POP3_SERVICES


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


def configure_resolver(resolver: Resolver, settings: Settings) -> None:
    """Whom it asks, and for which families."""
    protocols = settings.items("inet_protocols")
    resolver.use(
        settings.items("dns_nameservers"),
        families=("ipv4", "ipv6") if "all" in protocols else protocols,
        native="native" in settings.items("smtp_host_lookup"),
    )


def raise_file_limit() -> None:
    """Let this process open as many files as it may, up to OPEN_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def name_finder(resolver: Resolver) -> NameFinder:
    """Names of SMTP clients by the daemon's own resolver."""

    async def found(look_up: Awaitable[list[str]]) -> list[str]:
        try:
            return await look_up
        except TryAgain as error:
            raise TempFail(Reply(450, "4.7.1", str(error))) from error
        except DnsError:
            return []

    return NameFinder(
        lambda address: found(resolver.pointers(address)),
        lambda name: found(resolver.addresses(name)),
    )


class Composition:
    """Everything that one daemon runs, built in `open` and taken down in `close`."""

    def __init__(
        self, settings: Settings, log: MailLog, supervisor: SupervisorLink | None = None
    ) -> None:
        """supervisor: does what this process may not; None when there is nobody above it."""
        self.settings = settings
        self.log = log
        self.supervisor = supervisor
        self.smtp: dict[str, SmtpService] = {}
        self.logins: dict[str, LoginService] = {}
        self._counter = ConnectionCounter()
        self._servers: dict[Listener, asyncio.Server] = {}
        self._local_smtp: asyncio.Server | None = None

    async def open(self, bound: list[Bound]) -> None:
        """Raises queue.QueueLocked, TLS and file errors: nothing listens then."""
        raise_file_limit()
        settings, log = self.settings, self.log
        self.store = await SQLiteStore.open(
            settings.text("queue_directory"), minfree=needed_space(settings), log=log
        )
        pam = self.supervisor.pam if self.supervisor is not None else ThreadPam
        self.users = open_users(settings, log, pam)
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
        self.pool = Workers(settings, log, dispatch) if dispatch else WorkerPool(settings, log)
        self.depositor: Depositor
        if above is not None:
            # Mailboxes belong to an account of their own.
            self.depositor = WorkerDepositor(self.pool, settings.text("queue_directory"))
        else:
            self.depositor = ThreadDepositor(settings, log.warning, Disk())
        self.transports = self._transports()
        self.scheduler = Scheduler(
            settings, self.store, self.router, self.transports, self.intake, log
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
        await self._serve_users()

    async def _serve_users(self) -> None:
        """Mail of this machine's programs: sendmail(1), and its -bs, which speaks SMTP."""
        self.pickup = PickupService(
            self.settings,
            self.intake,
            self.router,
            self.store,
            self.log,
            self.supervisor.open_letter if self.supervisor else None,
        )
        await self.pickup.start()
        listening = bind_unix(smtp_path(self.settings.text("queue_directory")), 0o666)
        listening.setblocking(False)
        self._local_smtp = await asyncio.get_running_loop().create_unix_server(
            self._smtp_service("smtpd").factory, sock=listening
        )

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

    def _login_service(self, name: str) -> LoginService:
        """name: "imap" or "pop3"."""
        if name not in self.logins:
            self.pool.start()
            make = Pop3Service if name == "pop3" else ImapService
            self.logins[name] = make(self.settings, self.users, self.log, self.tls, self.pool)
        return self.logins[name]

    def sessions(self) -> list[Active]:
        """Who is logged in to his mail."""
        return [one for service in self.logins.values() for one in service.active()]

    async def listen(self, entry: Bound) -> None:
        """Serve a socket that is bound already."""
        loop = asyncio.get_running_loop()
        service = entry.listener.service
        factory: Callable[[], asyncio.BaseProtocol]
        context: ssl.SSLContext | None = None
        if service in SMTP_SERVICES:
            smtp = self._smtp_service(service)
            factory, context = smtp.factory, smtp.ssl_context
        else:
            login = self._login_service("pop3" if service in POP3_SERVICES else "imap")
            factory = login.factory(implicit_tls=service in ("imaps", "pop3s"))
        if entry.listener.path:
            server = await loop.create_unix_server(
                factory, sock=entry.socket, ssl=context, backlog=BACKLOG
            )
        else:
            server = await loop.create_server(
                factory, sock=entry.socket, ssl=context, backlog=BACKLOG
            )
        self._servers[entry.listener] = server

    def close_listener(self, listener: Listener) -> None:
        """Accept no more there; its sessions go on."""
        self._servers.pop(listener).close()

    def _smtp_service(self, name: str) -> SmtpService:
        if name not in self.smtp and name == "lmtp":
            self.smtp[name] = LmtpService(
                self.settings.service(name),
                self.intake,
                self.mailboxes,
                self.store.discard,
                self.users,
                self.log,
                self.tls,
                counter=self._counter,
            )
        elif name not in self.smtp:
            self.smtp[name] = SmtpService(
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
        return self.smtp[name]

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
            self.pool,
            self.pickup,
        ]
        parts += self.logins.values()
        for part in parts:
            if isinstance(part, Reconfigurable):
                pending = part.reconfigure(settings)
                if pending is not None:
                    await pending
        await self.users.prepare()
        for name, service in self.smtp.items():
            service.reconfigure(settings.service(name))

    async def close(self, timeout: float) -> None:
        """Stop accepting, finish what is in flight within `timeout` seconds, then let go."""
        for server in self._servers.values():
            server.close()
        if self._local_smtp is not None:
            self._local_smtp.close()
        deadline = time.monotonic() + timeout
        await self.housekeeper.stop()
        # What is still submitted after the scheduler's end is queued for the next start.
        stops = [service.stop(timeout) for service in self.smtp.values()]
        stops.append(self.pickup.stop(timeout))
        stops.append(self.scheduler.stop(timeout))
        stops += [service.stop(timeout) for service in self.logins.values()]
        await asyncio.gather(*stops)
        await self.pool.stop(max(deadline - time.monotonic(), 1.0))
        await self.depositor.close()
        await self.helpers.close()
        for transport in self.transports.values():
            await transport.close()
        await self.store.close()
