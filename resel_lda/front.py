"""The front of IMAP and POP3: listener side, TLS and log-in. Sessions that are in go to the worker.

A session without TLS is given away with its socket; one under TLS stays here as bytes that are
pumped to and from the worker.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import ClassVar, Protocol

from resel_lda import handover
from resel_lda.accepting import (
    Accepted,
    Handshake,
    address_of,
    ends_of,
    handshake_failure,
    is_gone,
    is_loopback,
)
from resel_lda.handover import Handover
from resel_lda.imap.login import Attempts, Dialog, LoggedIn, Rejected, TLSSource
from resel_lda.imap.stream import ConnectionLost, Stream
from resel_lda.keeper import WorkerUnavailable
from resel_lda.pump import pump
from resel_lda.waiting import Waiting, most_waiting
from resel_lda.worker_pool import WorkerPool
from resel_mta.config import Settings
from resel_mta.maillog import MailLog
from resel_mta.users import User, Users
from resel_mta.users.sasl import SaslServer

# Seconds for all that comes before a log-in.
_LOGIN_TIMEOUT = 180.0
_TLS_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Active:
    """Who is logged in. session: as in the log. pid: of the worker that serves it."""

    user: str
    service: str
    remote_address: str
    session: str
    secured: bool
    pid: int


class LoginDialog(Protocol):
    """Talks to one client until it has logged in."""

    attempts: Attempts

    @property
    def secured(self) -> bool: ...

    async def run(self) -> LoggedIn:
        """Raises Rejected, ConnectionLost."""
        ...


@dataclass(slots=True)
class Client:
    """A connection before its log-in."""

    stream: Stream
    session: str
    remote: tuple[str, int]
    local: tuple[str, int]
    admitted: str = ""

    @property
    def from_here(self) -> bool:
        return is_loopback(self.remote[0]) or self.remote[0] == self.local[0] != ""


class LoginService(ABC):
    """A protocol for the sockets that the daemon has bound. service: its name."""

    service: ClassVar[str]

    def __init__(
        self,
        settings: Settings,
        users: Users,
        log: MailLog,
        tls: TLSSource | None,
        worker_pool: WorkerPool,
        *,
        login_timeout: float = _LOGIN_TIMEOUT,
    ) -> None:
        self._log = log
        self._log_service = f"{self.service}-login"
        self.sasl = SaslServer(users)
        self.tls = tls
        self._pool = worker_pool
        self._login_timeout = login_timeout
        self._waiting = Waiting()
        self._active: dict[str, Active] = {}
        self._per_client: Counter[tuple[str, str]] = Counter()
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """For log-ins from now on."""
        self._most_per_client = settings.number("mail_max_userip_connections")
        self._most_waiting = most_waiting(settings.number("mail_max_login_connections"))

    def active(self) -> list[Active]:
        """Who is logged in."""
        return list(self._active.values())

    def factory(self, implicit_tls: bool) -> Callable[[], asyncio.Protocol]:
        """For `loop.create_server(factory, sock=…)`, without `ssl`: TLS is started here, so that
        each connection gets the certificate of its time, and failed handshakes are logged."""
        return lambda: Handshake(self) if implicit_tls else Accepted(self)

    async def stop(self, timeout: float) -> None:
        """End the dialogs before log-in with BYE. Sessions end with the worker pool."""
        tasks = self._waiting.everybody()
        for task, stream in tasks.items():
            if stream is not None:
                self._say_last(stream, "Server shutting down.")
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

    # One connection.

    def begin(self, stream: Stream) -> None:
        """A client has connected."""
        address, _ = address_of(stream.transport.get_extra_info("peername"))
        self._start(self._welcome(stream), stream, address)

    def begin_tls(self, connection: socket.socket) -> None:
        """A client has connected that begins with a handshake. Takes the socket over."""
        self._start(self._welcome_tls(connection), None, ends_of(connection)[0])

    def _start(
        self, work: Coroutine[None, None, None], stream: Stream | None, address: str
    ) -> None:
        if len(self._waiting) >= self._most_waiting:
            self._end_one()
        self._waiting.add(asyncio.get_running_loop().create_task(work), address, stream)

    def _end_one(self) -> None:
        """As Dovecot, where all its log-in processes are full."""
        task, stream, address = self._waiting.take_one()
        if self._waiting.is_to_warn():
            text = f"{self._most_waiting} connections wait for a log-in: the oldest are closed"
            self._log.warning(self._log_service, f"{text} (mail_max_login_connections)")
        self._log.event(
            self._log_service, f"Disconnected: Connection queue full: user=<>, rip={address}"
        )
        if stream is not None:
            self._say_last(stream, "Too many connections wait for a log-in.")
        task.cancel()

    async def _welcome_tls(self, connection: socket.socket) -> None:
        context = self.tls.context() if self.tls is not None else None
        if context is None:
            self._log.warning(
                self._log_service, "no certificate for implicit TLS: connection closed"
            )
            connection.close()
            return
        stream = Stream()
        remote, local = ends_of(connection)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: stream, connection, ssl=context, ssl_handshake_timeout=_TLS_TIMEOUT
            )
        except (OSError, TimeoutError) as error:
            connection.close()
            why = handshake_failure(error)
            self._log.event(
                self._log_service,
                f"Disconnected: Connection closed: {why} (no auth attempts in 0 secs): user=<>, "
                f"rip={remote}, lip={local}, TLS handshaking: {why}",
                client_ip=remote,
            )
            return
        except asyncio.CancelledError:
            connection.close()
            raise
        task = asyncio.current_task()
        if task is not None:
            self._waiting.has_stream(task, stream)
        await self._welcome(stream)

    async def _welcome(self, stream: Stream) -> None:
        if is_gone(stream.transport):
            stream.abort()
            return
        client = Client(
            stream,
            base64.b64encode(os.urandom(9), b"+/").decode(),
            address_of(stream.transport.get_extra_info("peername")),
            address_of(stream.transport.get_extra_info("sockname")),
        )
        try:
            await self._talk(client)
        except (ConnectionLost, Rejected):
            stream.close()
        except asyncio.CancelledError:
            stream.close()
            raise
        except Exception as error:
            self._log.warning(self._log_service, f"session=<{client.session}>: {error!r}")
            stream.abort()

    async def _talk(self, client: Client) -> None:
        stream = client.stream
        dialog = self.dialog(client, lambda user: self._admit(client, user))
        try:
            async with asyncio.timeout(self._login_timeout):
                found = await dialog.run()
        except TimeoutError:
            self._say_last(stream, "Disconnected for inactivity during authentication.")
            self._log_failure(client, dialog, "Inactivity during authentication")
            raise Rejected("inactivity") from None
        except ConnectionLost:
            self._log_failure(client, dialog, "Connection closed")
            raise
        except Rejected as reason:
            self._log_failure(client, dialog, str(reason))
            raise
        await self._hand_over(client, found, dialog.secured)

    def _say_last(self, stream: Stream, said: str) -> None:
        with contextlib.suppress(ConnectionLost):
            stream.write(self.last_words(said))

    def _log_failure(self, client: Client, dialog: LoginDialog, reason: str) -> None:
        attempts = dialog.attempts
        seconds = round(asyncio.get_running_loop().time() - attempts.began)
        if attempts.failed:
            tries = f"auth failed, {attempts.failed} attempts in {seconds} secs"
        else:
            tries = f"no auth attempts in {seconds} secs"
        # A name that a stranger made up must not look like the fields after it.
        user = "".join(c if c.isprintable() and c not in "<>" else "?" for c in attempts.user[:80])
        method = f", method={attempts.method}" if attempts.method else ""
        self._log.event(
            self._log_service,
            f"Disconnected: {reason} ({tries}): user=<{user}>{method}, {self._where(client)}",
            client_ip=client.remote[0],
        )

    def _where(self, client: Client, mpid: int = 0) -> str:
        stream = client.stream
        words = [f"rip={client.remote[0]}", f"lip={client.local[0]}"]
        if mpid:
            words.append(f"mpid={mpid}")
        try:
            if stream.secured:
                words.append("TLS")
            elif client.from_here:
                words.append("secured")
        except ConnectionLost:
            words.append("disconnected")
        words.append(f"session=<{client.session}>")
        return ", ".join(words)

    # Log-in and after.

    def _admit(self, client: Client, user: User) -> str:
        """Counts the session, or says why not."""
        key = (user.name, client.remote[0])
        if self._per_client[key] >= self._most_per_client:
            text = (
                "Maximum number of connections from user+IP exceeded "
                f"(mail_max_userip_connections={self._most_per_client})"
            )
            self._log.event(self._log_service, f"{text}: user=<{user.name}>, {self._where(client)}")
            return text
        self._per_client[key] += 1
        client.admitted = user.name
        return ""

    def _ended(self, client: Client) -> None:
        """The session is over: said by the worker, or it died, or never got there."""
        key = (client.admitted, client.remote[0])
        self._per_client[key] -= 1
        if self._per_client[key] <= 0:
            del self._per_client[key]
        self._active.pop(client.session, None)

    async def _hand_over(self, client: Client, found: LoggedIn, secured: bool) -> None:
        stream, user = client.stream, found.user
        unread = b""
        try:
            await stream.drain()
            unread = stream.take_unread()
            pumped = stream.secured or len(unread) > handover.MAX_UNREAD
            request, connection = await self._prepare(client, found, secured, unread, pumped)
            with connection:
                pid = await self._pool.hand_over(request, connection, lambda: self._ended(client))
        except (ConnectionLost, WorkerUnavailable, OSError, asyncio.CancelledError) as error:
            self._ended(client)
            if isinstance(error, WorkerUnavailable):
                self._refuse(stream, found.tag)
            else:
                stream.abort()
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self._active[client.session] = Active(
            user.name, self.service, client.remote[0], client.session, secured, pid
        )
        where = self._where(client, pid)
        self._log.event(
            self._log_service,
            f"Login: user=<{user.name}>, method={found.method}, {where}",
            client_ip=client.remote[0],
            user_name=user.name,
        )
        if not pumped:
            # The worker has the socket: only our descriptor is closed.
            stream.abort()

    async def _prepare(
        self, client: Client, found: LoggedIn, secured: bool, unread: bytes, pumped: bool
    ) -> tuple[Handover, socket.socket]:
        """What to tell the worker, and the descriptor for it. pumped: of a stream that is joined to
        the client's, and ends when the worker's end is closed and all of it has been sent on. Raises
        OSError."""
        user, transport = found.user, client.stream.transport
        if pumped:
            connection = await pump(transport, unread)
            unread = b""
        else:
            connection = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        request = Handover(
            session=client.session,
            service=self.service,
            user=user.name,
            uid=user.uid,
            gid=user.gid,
            home=user.home,
            mail_location=user.mail_location,
            quota_storage_size=user.quota_storage_size,
            tag=found.tag.decode("ascii"),
            secured=secured,
            remote_address=client.remote[0],
            local_address=client.local[0],
            agreed=found.agreed,
            unread=unread,
        )
        return request, connection

    def _refuse(self, stream: Stream, tag: bytes) -> None:
        with contextlib.suppress(ConnectionLost):
            stream.write(self.refusal(tag))
        stream.close()

    # What is different between protocols.

    @abstractmethod
    def dialog(self, client: Client, admit: Callable[[User], str]) -> LoginDialog:
        """admit: asked before a log-in succeeds; text of a refusal, or ""."""

    @abstractmethod
    def last_words(self, said: str) -> bytes:
        """How a connection is told that it ends."""

    @abstractmethod
    def refusal(self, tag: bytes) -> bytes:
        """The answer to a log-in whose mailbox cannot be had now."""


class ImapService(LoginService):
    """IMAP."""

    service = "imap"

    def dialog(self, client: Client, admit: Callable[[User], str]) -> LoginDialog:
        return Dialog(client.stream, self.sasl, self.tls, client.from_here, admit, client.remote[0])

    def last_words(self, said: str) -> bytes:
        return f"* BYE {said}\r\n".encode()

    def refusal(self, tag: bytes) -> bytes:
        return (
            b"%b NO [UNAVAILABLE] Mailboxes are not available now, try again later.\r\n"
            b"* BYE Mailboxes are not available now.\r\n" % tag
        )
