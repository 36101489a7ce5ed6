"""The dialog before log-in (RFC 1939 §4, RFC 5034, RFC 2595 §4): the AUTHORIZATION state."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable

from resel_lda.imap.login import Attempts, LoggedIn, Rejected, TLSSource
from resel_lda.imap.stream import LineTooLong, Stream
from resel_lda.pop3.answers import CAPABILITIES, Failed, choose_language, lines
from resel_lda.pop3.language import ENGLISH
from resel_mta.users import User
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
from resel_mta.users.scram import prohibits

# RFC 5034 §4: what a line of an AUTH exchange may take. Others have 255 (RFC 2449 §4).
_MAX_LINE = 12288
_MAX_BAD_COMMANDS = 10
# Of all kinds. A client that means to log in needs a handful.
_MAX_COMMANDS = 100
_MAX_ATTEMPTS = 5
_TLS_TIMEOUT = 30.0


class Dialog:
    """As `imap.login.Dialog`."""

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
        self._sasl = sasl
        self._tls = tls
        self._trusted = trusted
        self._admit = admit
        self._remote = remote
        self._bad = self._said = 0
        self._user: bytes | None = None
        self._language = ENGLISH
        # UTF8 was said: messages may have UTF-8 in their headers (RFC 6856 §2.1).
        self._utf8 = False
        # SASL's mechanisms, as this connection was told of them.
        self._mechanisms: tuple[str, ...] = ()
        self.attempts = Attempts()
        self._commands: dict[bytes, Callable[[bytes], Awaitable[str]]] = {
            b"CAPA": self._capa,
            b"LANG": self._lang,
            b"QUIT": self._quit,
            b"STLS": self._stls,
            b"USER": self._take_user,
            b"UTF8": self._use_utf8,
        }

    @property
    def secured(self) -> bool:
        """Whether a password may be said here."""
        return self._trusted or self._stream.secured

    async def run(self) -> LoggedIn:
        """Raises Rejected, ConnectionLost."""
        self._stream.write(b"+OK resel-mta ready.\r\n")
        while True:
            try:
                line = await self._stream.line(_MAX_LINE)
                word, _, argument = line.partition(b" ")
                found = await self._command(word.upper(), argument)
                if isinstance(found, LoggedIn):
                    return found
                if found:
                    said = self._language.say(found)
                    self._stream.write(f"+OK {said}".rstrip().encode() + b"\r\n")
            except Failed as error:
                self._stream.write(error.answer(self._language))
                self._check_attempts()
            except LineTooLong:
                self._stream.write(Failed("Command line too long.").answer(self._language))
                self._count_bad()
            await self._stream.drain()
            self._said += 1
            if self._said >= _MAX_COMMANDS:
                self._bye("Too many commands before log-in.")

    async def _command(self, word: bytes, argument: bytes) -> str | LoggedIn:
        """The text after +OK; "" when it has answered itself. Raises Failed."""
        if word == b"PASS":
            return await self._pass(argument)
        if word == b"AUTH":
            return await self._auth(argument)
        handler = self._commands.get(word)
        if handler is None:
            self._count_bad()
            raise Failed("Unknown command.")
        return await handler(argument)

    def _count_bad(self) -> None:
        self._bad += 1
        if self._bad >= _MAX_BAD_COMMANDS:
            self._bye("Too many bad commands.")

    def _check_attempts(self) -> None:
        if self.attempts.failed >= _MAX_ATTEMPTS:
            self._bye("Too many authentication failures.")

    def _bye(self, said: str) -> None:
        """Raises Rejected."""
        self._stream.write(Failed(said).answer(self._language))
        raise Rejected(said.rstrip("."))

    async def _quit(self, argument: bytes) -> str:
        self._stream.write(f"+OK {self._language.say('Logging out')}\r\n".encode())
        raise Rejected("Aborted login by logging out")

    async def _capa(self, argument: bytes) -> str:
        self._stream.write(lines((*CAPABILITIES, *self._possible())))
        return ""

    def _possible(self) -> list[str]:
        """The capabilities that depend on the connection. What is announced before log-in is after
        it too (RFC 2449 §5)."""
        words = []
        if self._tls is not None and self._tls.context() and not self._stream.secured:
            words.append("STLS")
        if self.secured:
            self._mechanisms = self._mechanisms or self._sasl.mechanisms
            words += ["USER", f"SASL {' '.join(self._mechanisms)}"]
        return words

    async def _lang(self, argument: bytes) -> str:
        answer, self._language = choose_language(argument, self._language)
        self._stream.write(answer)
        return ""

    async def _use_utf8(self, argument: bytes) -> str:
        if argument.strip():
            raise Failed("UTF8 takes no argument.")
        self._utf8 = True
        return "UTF8 enabled."

    async def _stls(self, argument: bytes) -> str:
        if self._stream.secured:
            raise Failed("TLS is already active.")
        if self._utf8:
            raise Failed("STLS is not possible after UTF8.")
        context = self._tls.context() if self._tls is not None else None
        if context is None:
            raise Failed("TLS support isn't enabled.")
        said = self._language.say("Begin TLS negotiation now.")
        self._stream.write(f"+OK {said}\r\n".encode())
        await self._stream.drain()
        try:
            await self._stream.start_tls(context, _TLS_TIMEOUT)
        except (OSError, TimeoutError) as error:
            raise Rejected(f"TLS handshake failed: {error}") from None
        # What was said in the clear counts for nothing (RFC 2595 §4).
        self._user = None
        self._language = ENGLISH
        return ""

    def _check_secured(self) -> None:
        if not self.secured:
            raise Failed(
                "Plaintext authentication disallowed on non-secure (SSL/TLS) connections.", "AUTH"
            )

    async def _take_user(self, argument: bytes) -> str:
        self._check_secured()
        if not argument:
            raise Failed("No username given.")
        _check_text(argument)
        self._user = argument
        return " "

    async def _pass(self, argument: bytes) -> LoggedIn:
        if self._user is None:
            raise Failed("No username given.")
        self._check_secured()
        _check_text(argument)
        user, self._user = self._user, None
        # PLAIN's rules for names and passwords are these as well.
        step = await self._sasl.exchange(self._remote).start(
            "PLAIN", b"\0" + user + b"\0" + argument
        )
        return await self._conclude(step, "PLAIN")

    async def _auth(self, argument: bytes) -> str | LoggedIn:
        if not argument:
            # The old form: lists the mechanisms (RFC 1734's implementations).
            words = self._sasl.mechanisms if self.secured else ()
            self._stream.write(lines(words))
            return ""
        self._check_secured()
        mechanism, _, initial = argument.partition(b" ")
        name = mechanism.decode("ascii", "replace").upper()
        exchange = self._sasl.exchange(self._remote)
        try:
            first = decode_response(initial, initial=True) if initial else None
            step = await exchange.start(name, first)
            while isinstance(step, Challenge):
                self._stream.write(b"+ %b\r\n" % base64.b64encode(step.data))
                line = await self._stream.line(_MAX_LINE)
                step = await exchange.respond(decode_response(line))
        except Aborted:
            raise Failed("Authentication aborted by client.") from None
        except DecodeError:
            raise Failed("Invalid base64 data.", "AUTH") from None
        except LineTooLong:
            raise Failed("Authentication response is too long.", "AUTH") from None
        return await self._conclude(step, name)

    async def _conclude(self, step: Step, method: str) -> LoggedIn:
        if isinstance(step, Success):
            refusal = self._admit(step.user)
            if refusal:
                raise Failed(refusal, "IN-USE")
            return LoggedIn(step.user, b"", method, self._agreed())
        if isinstance(step, Challenge):
            raise Failed("The mechanism expects more than PASS can say.", "AUTH")
        if step.kind is FailureKind.MECHANISM:
            raise Failed("Unsupported authentication mechanism.", "AUTH")
        self.attempts.user = step.username or self.attempts.user
        self.attempts.method = method
        if step.kind is FailureKind.TEMPORARY:
            raise Failed("Temporary authentication failure.", "SYS/TEMP")
        self.attempts.failed += 1
        raise Failed("Authentication failed.", "AUTH")

    def _agreed(self) -> dict[str, str]:
        """For the session that follows."""
        return {
            "language": self._language.tag,
            "utf8": "yes" if self._utf8 else "",
            "capabilities": "\n".join(self._possible()),
        }


def _check_text(given: bytes) -> None:
    """A user name or password: UTF-8, and nothing that SASLprep forbids (RFC 6856 §2.2)."""
    try:
        bad = prohibits(given.decode("utf-8"))
    except UnicodeDecodeError:
        bad = True
    if bad:
        raise Failed("User name or password has characters that are not allowed.", "AUTH")
