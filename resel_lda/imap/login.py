"""The dialog before log-in (RFC 3501 §6.1, §6.2): what a stranger may say, which is little."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from resel_lda.imap import basic
from resel_lda.imap.errors import Refused
from resel_lda.imap.parser import ParseError, Parser
from resel_lda.imap.reader import PREAUTH, CommandReader, CommandRefused, tag_of
from resel_lda.imap.stream import LineTooLong, Stream
from resel_mta.users.sasl import (
    Aborted,
    Challenge,
    DecodeError,
    FailureKind,
    SaslServer,
    Step,
    Success,
    decode_response,
)
from resel_mta.users.user import User

_MAX_BAD_COMMANDS = 10
# Of all kinds. A client that means to log in needs a handful.
_MAX_COMMANDS = 100
_MAX_ATTEMPTS = 5
_TLS_TIMEOUT = 30.0
_MAX_RESPONSE_LINE = 8 * 1024


class TLSSource(Protocol):
    """The server's certificate: `resel_mta.tls.ServerTLS`."""

    def context(self) -> ssl.SSLContext | None: ...


class Rejected(Exception):
    """The dialog is over without a log-in; BYE has been said where it could be."""


@dataclass(slots=True)
class LoggedIn:
    """tag: of the command that is still to be answered. method: the SASL mechanism. agreed: what
    else the session has to know of the dialog."""

    user: User
    tag: bytes
    method: str
    agreed: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Attempts:
    """What the log says of a client that never got in. user: the last one claimed."""

    failed: int = 0
    user: str = ""
    method: str = ""
    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())


class Dialog:
    """Talks to one client until it has logged in.

    trusted: the client is on this machine, and may log in without TLS.
    admit: asked before a log-in succeeds; text of a refusal, or "".
    remote: the client's address.
    """

    def __init__(
        self,
        stream: Stream,
        sasl: SaslServer,
        tls: TLSSource | None,
        trusted: bool,
        admit: Callable[[User], str],
        remote: str = "",
    ) -> None:
        self._stream = stream
        self._reader = CommandReader(stream, PREAUTH)
        self._sasl = sasl
        self._tls = tls
        self._trusted = trusted
        self._admit = admit
        self._remote = remote
        self._bad = self._said = 0
        self.attempts = Attempts()
        self._commands: dict[bytes, Callable[[bytes, Parser], Awaitable[str]]] = {
            b"CAPABILITY": self._capability,
            b"NOOP": self._noop,
            b"LOGOUT": self._logout,
            b"ID": self._id,
            b"ENABLE": self._not_yet,
            b"STARTTLS": self._starttls,
        }

    @property
    def secured(self) -> bool:
        """Whether a password may be said here."""
        return self._trusted or self._stream.secured

    def _capabilities(self) -> str:
        words = list(basic.BASE)
        if self._tls is not None and self._tls.context() and not self._stream.secured:
            words.append("STARTTLS")
        if self.secured:
            words += [f"AUTH={mechanism}" for mechanism in self._sasl.mechanisms]
        else:
            words.append("LOGINDISABLED")
        return " ".join(words)

    async def run(self) -> LoggedIn:
        """Raises Rejected, ConnectionLost."""
        greeting = f"* OK [CAPABILITY {self._capabilities()}] resel-mta ready.\r\n"
        self._stream.write(greeting.encode())
        while True:
            tag = b"*"
            try:
                incoming = await self._reader.next()
                tag = tag_of(incoming.data)
                found = await self._command(tag, Parser(incoming.data))
                if isinstance(found, LoggedIn):
                    return found
                # STARTTLS has answered before the handshake.
                answer = b"OK " + found.encode() if found else b""
            except CommandRefused as error:
                tag, answer = error.tag, error.status + b" " + error.text.encode()
            except ParseError as error:
                answer = Refused("BAD", f"{error}.").response()
            except Refused as error:
                answer = error.response()
            if answer:
                self._stream.write(b"%b %b\r\n" % (tag, answer))
            await self._stream.drain()
            self._count(answer)

    def _count(self, answer: bytes) -> None:
        self._said += 1
        if self._said >= _MAX_COMMANDS:
            self.bye("Too many commands before log-in.")
        if answer.startswith(b"BAD"):
            self._bad += 1
            if self._bad >= _MAX_BAD_COMMANDS:
                self.bye("Too many invalid IMAP commands.")
        if self.attempts.failed >= _MAX_ATTEMPTS:
            self.bye("Too many authentication failures.")

    def bye(self, said: str) -> None:
        """Raises Rejected."""
        self._stream.write(f"* BYE {said}\r\n".encode())
        raise Rejected(said.rstrip("."))

    async def _command(self, tag: bytes, args: Parser) -> str | LoggedIn:
        args.tag()
        args.space()
        word = args.word()
        if word == b"LOGIN":
            return await self._login(tag, args)
        if word == b"AUTHENTICATE":
            return await self._authenticate(tag, args)
        handler = self._commands.get(word)
        if handler is None:
            raise ParseError("Error in IMAP command received by server")
        return await handler(tag, args)

    async def _capability(self, tag: bytes, args: Parser) -> str:
        args.finish()
        self._stream.write(f"* CAPABILITY {self._capabilities()}\r\n".encode())
        return "Pre-login capabilities listed, post-login capabilities have more."

    async def _noop(self, tag: bytes, args: Parser) -> str:
        args.finish()
        return "NOOP completed."

    async def _not_yet(self, tag: bytes, args: Parser) -> str:
        raise Refused("BAD", "Log in first")

    async def _logout(self, tag: bytes, args: Parser) -> str:
        args.finish()
        self._stream.write(b"* BYE Logging out\r\n%b OK Logout completed.\r\n" % tag)
        raise Rejected("Aborted login by logging out")

    async def _id(self, tag: bytes, args: Parser) -> str:
        basic.parse_id(args)
        self._stream.write(b"* ID " + basic.SERVER_ID + b"\r\n")
        return "ID completed."

    async def _starttls(self, tag: bytes, args: Parser) -> str:
        args.finish()
        if self._stream.secured:
            raise Refused("BAD", "TLS is already active.")
        context = self._tls.context() if self._tls is not None else None
        if context is None:
            raise Refused("BAD", "TLS support isn't enabled.")
        self._stream.write(b"%b OK Begin TLS negotiation now.\r\n" % tag)
        await self._stream.drain()
        try:
            await self._stream.start_tls(context, _TLS_TIMEOUT)
        except (OSError, TimeoutError) as error:
            raise Rejected("TLS handshake failed") from error
        return ""

    async def _login(self, tag: bytes, args: Parser) -> LoggedIn:
        args.space()
        name = args.astring()
        args.space()
        password = args.astring()
        args.finish()
        self._check_secured()
        # PLAIN's rules for names and passwords are LOGIN's as well.
        step = await self._sasl.exchange(self._remote).start(
            "PLAIN", b"\0" + name + b"\0" + password
        )
        return await self._conclude(tag, step, "PLAIN")

    async def _authenticate(self, tag: bytes, args: Parser) -> LoggedIn:
        args.space()
        mechanism = args.word().decode("ascii")
        initial: bytes | None = None
        self._check_secured()
        exchange = self._sasl.exchange(self._remote)
        try:
            if args.skip(b" "):
                initial = decode_response(args.data[args.pos :], initial=True)
            step = await exchange.start(mechanism, initial)
            while isinstance(step, Challenge):
                self._stream.write(b"+ %b\r\n" % base64.b64encode(step.data))
                line = await self._stream.line(_MAX_RESPONSE_LINE)
                step = await exchange.respond(decode_response(line))
        except Aborted:
            raise Refused("BAD", "Authentication aborted by client.") from None
        except DecodeError:
            raise Refused("BAD", "Invalid base64 data.") from None
        except LineTooLong:
            raise Refused("BAD", "Authentication response is too long.") from None
        return await self._conclude(tag, step, mechanism)

    def _check_secured(self) -> None:
        if not self.secured:
            raise Refused(
                "NO",
                "Cleartext authentication disallowed on non-secure (SSL/TLS) connections.",
                "PRIVACYREQUIRED",
            )

    async def _conclude(self, tag: bytes, step: Step, method: str) -> LoggedIn:
        if isinstance(step, Success):
            refusal = self._admit(step.user)
            if refusal:
                raise Refused("NO", refusal, "LIMIT")
            return LoggedIn(step.user, tag, method)
        if isinstance(step, Challenge):
            raise Refused("BAD", "The mechanism expects more than LOGIN can say.")
        if step.kind is FailureKind.MECHANISM:
            raise Refused("NO", "Unsupported authentication mechanism.")
        self.attempts.user = step.username or self.attempts.user
        self.attempts.method = method
        if step.kind is FailureKind.TEMPORARY:
            raise Refused("NO", "Temporary authentication failure.", "UNAVAILABLE")
        self.attempts.failed += 1
        raise Refused("NO", "Authentication failed.", "AUTHENTICATIONFAILED")
