"""A session with one server: from connecting until it may be given mail, and its end."""

from __future__ import annotations

import asyncio
import os
import ssl

from resel_mta.mail import Reply
from resel_mta.maillog import MailLog
from resel_mta.wire.ehlo import Capabilities, parse_ehlo
from resel_mta.wire.reply import ServerReply
from resel_relay.connection import LOST, TIMED_OUT, Connection
from resel_relay.failure import HostFailed, TlsFailed
from resel_relay.nexthop import Target
from resel_relay.parameters import Parameters
from resel_relay.sasl import Credentials, SaslClient, choose_mechanism
from resel_relay.tls import description


class Session:
    """An open session.

    relay: of the target, for the log. uses: messages sent over it. opened, idle_since: by the
    loop's clock. reset_due: the server still holds an unfinished transaction, so RSET goes before
    the next one.
    """

    __slots__ = (
        "capabilities",
        "connection",
        "idle_since",
        "opened",
        "parameters",
        "relay",
        "reset_due",
        "target",
        "tls",
        "uses",
    )

    def __init__(self, target: Target, connection: Connection, parameters: Parameters) -> None:
        self.target = target
        self.relay = target.relay
        self.connection = connection
        self.parameters = parameters
        self.capabilities = Capabilities()
        self.tls = False
        self.uses = 0
        self.opened = 0.0
        self.idle_since = 0.0
        self.reset_due = False

    def close(self) -> None:
        """Say QUIT and close; the answer is not waited for (smtp_skip_quit_response)."""
        self.connection.close(b"QUIT\r\n")

    def broken(self, stage: str) -> Reply:
        """Why the connection ended, in Postfix's words."""
        return broken(self.target, self.connection.error, stage)


def broken(target: Target, error: str, stage: str) -> Reply:
    """The reply for a connection that ended while `stage` ("sending MAIL FROM")."""
    if error == TIMED_OUT:
        return Reply(451, "4.4.2", f"conversation with {target.name} timed out while {stage}")
    if error in ("", LOST):
        return Reply(451, "4.4.2", f"lost connection with {target.name} while {stage}")
    return Reply(451, "4.5.0", f"Protocol error: host {target.name} {error} while {stage}")


def said(target: Target, reply: ServerReply, command: str) -> Reply:
    """A refusal as Postfix logs it. A reply that is neither 4xx nor 5xx here is nonsense, and
    nonsense never bounces mail."""
    text = f"host {target.name} said: {reply.log_text} (in reply to {command})"
    digit = reply.code // 100
    if digit not in (4, 5):
        return Reply(451, "4.5.0", f"Protocol error: {text}")
    return Reply(reply.code, reply.enhanced or f"{digit}.0.0", text)


class Opener:
    """Opens sessions.

    context: for STARTTLS; None where TLS is off.
    """

    def __init__(
        self, parameters: Parameters, context: ssl.SSLContext | None, log: MailLog, log_name: str
    ) -> None:
        self._parameters = parameters
        self._context = context
        self._log = log
        self._log_name = log_name

    async def open(self, target: Target, credentials: Credentials | None) -> Session:
        """Connect, greet, STARTTLS, AUTH. Raises HostFailed.

        Where TLS is optional and its handshake fails, a second connection does without, unless a
        password would be sent over it.
        """
        if self._context is None:
            return await self._open(target, credentials, None)
        try:
            return await self._open(target, credentials, self._context)
        except TlsFailed as error:
            if self._parameters.tls_security_level != "may" or credentials is not None:
                raise
            self._log.event(self._log_name, f"{error.reply.text}: trying without TLS")
        return await self._open(target, credentials, None)

    async def _open(
        self, target: Target, credentials: Credentials | None, context: ssl.SSLContext | None
    ) -> Session:
        session = Session(target, await self._connect(target), self._parameters)
        try:
            await self._greeting(session)
            await self._hello(session)
            if context is not None:
                await self._secure(session, context)
            if credentials is not None and session.capabilities.auth:
                await self._authenticate(session, credentials)
        except HostFailed:
            session.close()
            raise
        except BaseException:
            session.connection.fail(LOST)
            raise
        session.opened = asyncio.get_running_loop().time()
        return session

    async def _connect(self, target: Target) -> Connection:
        loop = asyncio.get_running_loop()
        parameters = self._parameters
        source = parameters.bind_address6 if ":" in target.address else parameters.bind_address
        try:
            async with asyncio.timeout(parameters.connect_timeout or None):
                if not target.port:
                    _, connection = await loop.create_unix_connection(
                        lambda: Connection(loop), target.address
                    )
                else:
                    _, connection = await loop.create_connection(
                        lambda: Connection(loop),
                        target.address,
                        target.port,
                        local_addr=(source, 0) if source else None,
                    )
        except TimeoutError:
            reason = "Connection timed out"
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
        else:
            return connection
        text = f"connect to {target.relay}: {reason}"
        raise HostFailed(Reply(451, "4.4.1", text), heard=False)

    async def _ask(
        self, session: Session, command: bytes, seconds: float, stage: str
    ) -> ServerReply:
        """One command, one reply. Raises HostFailed when the connection ends instead."""
        connection = session.connection
        if command:
            connection.write(command)
        replies = await connection.replies(1, seconds)
        if not replies:
            raise HostFailed(session.broken(stage))
        return replies[0]

    async def _greeting(self, session: Session) -> None:
        seconds = self._parameters.helo_timeout
        reply = await self._ask(session, b"", seconds, "receiving the initial server greeting")
        if reply.code // 100 != 2:
            refusal = _refused(session.target, reply)
            if self._parameters.skip_5xx_greeting:
                refusal.reply = refusal.reply.softened()
            raise refusal

    async def _hello(self, session: Session) -> None:
        parameters = self._parameters
        verb = "LHLO" if parameters.protocol == "lmtp" else "EHLO"
        stage = f"performing the {verb} handshake"
        name = parameters.helo_name.encode("ascii", "replace")
        seconds = parameters.helo_timeout
        reply = None
        if not parameters.never_send_ehlo:
            reply = await self._ask(session, verb.encode() + b" " + name + b"\r\n", seconds, stage)
        if reply is None or (reply.code // 100 == 5 and verb == "EHLO"):
            stage = "performing the HELO handshake"
            reply = await self._ask(session, b"HELO " + name + b"\r\n", seconds, stage)
            session.capabilities = Capabilities(name=reply.lines[0].partition(" ")[0])
        else:
            discard = parameters.discard_ehlo_keywords
            session.capabilities = parse_ehlo(reply.lines, discard)
        if reply.code // 100 != 2:
            raise _refused(session.target, reply)
        self._check_loop(session)

    def _check_loop(self, session: Session) -> None:
        """A server with our own name on the usual port is ourselves behind some address that
        nobody told us of (NAT): the mail would go round for ever."""
        parameters, target = self._parameters, session.target
        if parameters.protocol != "smtp" or target.port != parameters.tcp_port:
            return
        if session.capabilities.name.lower() == parameters.myhostname.lower():
            self._log.warning(
                self._log_name,
                f"host {target.relay} replied to HELO/EHLO with my own hostname "
                f"{parameters.myhostname}",
            )
            raise HostFailed(Reply(451, "4.4.6", f"mail for {target.host} loops back to myself"))

    async def _secure(self, session: Session, context: ssl.SSLContext) -> None:
        """STARTTLS (RFC 3207), then EHLO anew: nothing said before counts."""
        parameters, target, connection = self._parameters, session.target, session.connection
        required = parameters.tls_security_level != "may"
        if not session.capabilities.starttls:
            if required:
                text = f"TLS is required, but was not offered by host {target.name}"
                raise HostFailed(Reply(451, "4.7.4", text))
            return
        seconds = parameters.starttls_timeout
        reply = await self._ask(
            session, b"STARTTLS\r\n", seconds, "performing the STARTTLS handshake"
        )
        if reply.code // 100 != 2:
            if required:
                text = f"TLS is required, but host {target.name} refused to start TLS: "
                raise HostFailed(Reply(451, "4.7.5", text + reply.log_text), target.host)
            return
        try:
            await connection.start_tls(context, seconds)
        except OSError as error:
            self._log.event(
                self._log_name, f"SSL_connect error to {target.relay}: {_tls_reason(error)}"
            )
            connection.fail(LOST)
            text = f"Cannot start TLS: handshake failure with {target.name}"
            raise TlsFailed(Reply(451, "4.7.5", text)) from None
        session.tls = True
        if parameters.tls_loglevel:
            text = description(connection.transport.get_extra_info("ssl_object"))
            self._log.event(
                self._log_name,
                f"Untrusted TLS connection established to {target.relay}: {text}",
            )
        await self._hello(session)

    async def _authenticate(self, session: Session, credentials: Credentials) -> None:
        parameters, target = self._parameters, session.target
        options = parameters.sasl_security_options
        if session.tls:
            options = parameters.sasl_tls_security_options
        mechanism = choose_mechanism(session.capabilities.auth, options)
        if not mechanism:
            text = f"cannot authenticate to server {target.name}: no mechanism available"
            raise HostFailed(Reply(454, "4.7.0", f"SASL authentication failed; {text}"))
        client = SaslClient(mechanism, credentials)
        stage = f"performing the SASL {mechanism} exchange"
        seconds = parameters.helo_timeout
        reply = await self._ask(session, client.start(), seconds, stage)
        while reply.code == 334:
            reply = await self._ask(session, client.step(reply.lines[-1]), seconds, stage)
        if reply.code // 100 != 2:
            text = f"server {target.name} said: {reply.log_text}"
            raise HostFailed(
                Reply(454, "4.7.8", f"SASL authentication failed; {text}"), target.host
            )


def _refused(target: Target, reply: ServerReply) -> HostFailed:
    text = f"host {target.name} refused to talk to me: {reply.log_text}"
    digit = reply.code // 100
    if digit not in (4, 5):
        return HostFailed(Reply(451, "4.5.0", f"Protocol error: {text}"), target.host)
    code = reply.enhanced or f"{digit}.0.0"
    return HostFailed(Reply(reply.code, code, text), target.host, reply.log_text)


def _tls_reason(error: OSError) -> str:
    return str(getattr(error, "reason", "") or error.strerror or error or type(error).__name__)
