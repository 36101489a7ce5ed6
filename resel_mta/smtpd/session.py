"""The conversation: commands in order, errors counted, the end. Sub-classes add the commands."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import traceback
from typing import ClassVar

from resel_mta.mail import PermFail, Reply, TempFail
from resel_mta.smtpd import replies
from resel_mta.smtpd.connection import LINE_TOO_LONG, Closing, Connection, Lost, TimedOut

#: Commands that may come before STARTTLS where TLS is required (RFC 3207 §4).
_BEFORE_TLS = frozenset((b"NOOP", b"EHLO", b"STARTTLS", b"QUIT"))
#: Replies that may wait for one write, so that a long pipeline is no memory leak.
_MOST_REPLIES = 500


class Session(Connection):
    """Base of the SMTP service's protocol. Sub-classes add commands to `commands`.

    A command's method is called with its argument (b"" for none) and answers through `say`.
    """

    commands: ClassVar[dict[bytes, str]] = {
        b"QUIT": "smtp_QUIT",
        b"NOOP": "smtp_NOOP",
        b"HELP": "smtp_HELP",
        b"STARTTLS": "smtp_STARTTLS",
    }
    #: Commands that cost a client nothing, and are counted as errors when there are too many.
    junk: ClassVar[frozenset[bytes]] = frozenset((b"NOOP", b"RSET", b"VRFY", b"ETRN", b"HELP"))

    _errors = 0
    _junk = 0
    _stopping = False

    # -- the conversation -------------------------------------------------------------------------

    async def _handle_client(self) -> None:
        try:
            await self._converse()
        except Closing:
            pass
        except Lost:
            self.log(f"lost connection after {self.where} from {self.client.label()}")
        except TimedOut:
            self.log(f"timeout after {self.where} from {self.client.label()}")
            self._last_words(replies.timed_out(self.options.myhostname))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._last_words(self.report(error))
        finally:
            await self.abandon()
            self._end()

    async def _converse(self) -> None:
        await self._greet()
        limit = self.options.line_length_limit
        while True:
            if len(self._out) >= _MOST_REPLIES:
                await self.flush()
            line = self._next_line(limit)
            if line is None:
                self._check_stop()
                line = await self.read_line(limit)
            await self._command(line)

    async def _greet(self) -> None:
        options = self.options
        if self.service.client_name is not None and self.client.name == "unknown":
            self.client.name = await self.service.client_name(self.client.address)
        self.log(f"connect from {self.label()}")
        if not self.service.admits(self.client):
            service = "smtp" if options.service == "smtpd" else options.service
            count = self.service.connections(self.client.address)
            self.log(
                f"warning: Connection concurrency limit exceeded: {count} from "
                f"{self.client.label()} for service {service}"
            )
            await self.hang_up(
                replies.too_many_connections(options.myhostname, self.client.address)
            )
        refusal = await self.access.on_connect()
        if refusal is not None:
            self.log_reject("CONNECT", refusal)
            await self.hang_up(refusal)
        self.say(Reply(220, "", options.banner))

    async def _command(self, line: bytes) -> None:
        if line == LINE_TOO_LONG:
            self.log(
                f"warning: {self.client.label()}: request longer than {self.options.line_length_limit}"
            )
            await self._done("unknown", replies.LINE_TOO_LONG)
            return
        verb, _, argument = line.partition(b" ")
        name = self.commands.get(verb)
        if name is None:
            verb = verb.upper()
            name = self.commands.get(verb)
        if name is None or (self.options.tls_required and not self.client.tls):
            if not await self._is_allowed(verb, name):
                return
            assert name is not None
        self.where = verb.decode("ascii")
        self.said = b""
        try:
            await getattr(self, name)(argument.strip())
        except (TempFail, PermFail) as failure:
            self.say(failure.reply)
        except (Lost, TimedOut, Closing, asyncio.CancelledError):
            raise
        except Exception as error:
            self.say(self.report(error))
        ok = self.said[:1] < b"4"
        if verb in self.junk:
            self._junk += 1
            if self._junk > self.options.junk_command_limit:
                self._errors += 1
        await self._done(verb.decode("ascii").lower(), None, ok=ok)

    async def _is_allowed(self, verb: bytes, name: str | None) -> bool:
        """False after saying why not: an unknown command, or one that needs TLS first."""
        if not verb:
            await self._done("unknown", replies.BAD_SYNTAX)
        elif verb in self.options.forbidden_commands:
            self.log(f"warning: non-SMTP command from {self.client.label()}: {verb.decode()}")
            await self.hang_up(Reply(221, "2.7.0", "Error: I can break rules, too. Goodbye."))
        elif verb in self.options.noop_commands:
            await self._done("noop", replies.OK, ok=True)
        elif name is None:
            self.where = "UNKNOWN"
            await self._done("unknown", replies.UNKNOWN_COMMAND)
        elif verb not in _BEFORE_TLS:
            await self._done(verb.decode().lower(), replies.TLS_REQUIRED)
        else:
            return True
        return False

    async def _done(self, command: str, reply: bytes | None, *, ok: bool = False) -> None:
        """Count a command; slow down and in the end stop a client that makes many errors."""
        if reply is not None:
            self.say(reply)
        self.client.count(command, ok=ok)
        if not ok:
            self._errors += 1
        options = self.options
        if self._errors > options.hard_error_limit:
            self.log(f"too many errors after {self.where} from {self.client.label()}")
            await self.hang_up(replies.too_many_errors(options.myhostname))
        if self._errors >= options.soft_error_limit and options.error_sleep_time:
            await asyncio.sleep(options.error_sleep_time)

    def forgive(self) -> None:
        """A message was accepted: earlier errors do not count any more."""
        self._errors = 0
        self._junk = 0

    async def hang_up(self, reply: bytes | Reply) -> None:
        """Say it and end the session."""
        self.say(reply)
        await self.flush()
        raise Closing

    def _last_words(self, reply: Reply) -> None:
        self._out.append(reply.wire())
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(b"".join(self._out))
        self._out.clear()

    def _end(self) -> None:
        self.finished = True
        self._stop_timer()
        self.log(f"disconnect from {self.label()}{self.client.summary()}")
        if self.transport is not None:
            self.transport.close()
        self._release()

    # -- stopping ---------------------------------------------------------------------------------

    def begin_stop(self) -> None:
        """The service stops: an idle session ends at once, another after its transaction."""
        self._stopping = True
        if self._waiting and not self.in_transaction:
            self.input.fail(Closing())
            self._last_words(replies.shutting_down(self.options.myhostname))

    def force_stop(self) -> None:
        """The time for that is over."""
        self._last_words(replies.shutting_down(self.options.myhostname))
        if self._waiting:
            self.input.fail(Closing())
        elif self._handler_coroutine is not None:
            self._handler_coroutine.cancel()
        if self.transport is not None:
            self.transport.close()

    def _check_stop(self) -> None:
        if self._stopping and not self.in_transaction:
            self._last_words(replies.shutting_down(self.options.myhostname))
            raise Closing

    @property
    def in_transaction(self) -> bool:
        """Whether MAIL was accepted and the message is not done."""
        return False

    async def abandon(self) -> None:
        """Forget a transaction, its content too."""

    # -- the log ----------------------------------------------------------------------------------

    def log_reject(self, where: str, reply: Reply, details: str = "", queue_id: str = "") -> None:
        """Postfix's "NOQUEUE: reject: RCPT from …" line."""
        words = [
            f"reject: {where} from {self.client.label()}: {reply};{details}",
            f"proto={'ESMTP' if self.client.esmtp else 'SMTP'}",
        ]
        if self.client.helo:
            words.append(f"helo=<{replies.ascii_only(self.client.helo)}>")
        self.log(" ".join(words), queue_id or "NOQUEUE")

    def report(self, error: Exception) -> Reply:
        """Log what should not have happened under a reference; the reply gives only that."""
        reference = secrets.token_hex(4)
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        self.log(
            f"warning: internal error (reference {reference}) after {self.where}: "
            f"{type(error).__name__}: {error}{place}"
        )
        return replies.local_error(reference)

    # -- commands ---------------------------------------------------------------------------------

    async def smtp_QUIT(self, arg: bytes) -> None:
        if arg:
            self.say(replies.SYNTAX_QUIT)
            return
        self.client.count("quit", ok=True)
        await self.hang_up(replies.BYE)

    async def smtp_NOOP(self, arg: bytes) -> None:
        self.say(replies.OK)

    async def smtp_HELP(self, arg: bytes) -> None:
        names = " ".join(sorted(name.decode() for name in self.commands))
        self.say(Reply(214, "2.0.0", f"Commands: {names}"))

    async def smtp_STARTTLS(self, arg: bytes) -> None:
        context = self.offered_tls()
        if arg:
            self.say(replies.SYNTAX_STARTTLS)
        elif self.client.tls:
            self.say(replies.TLS_ACTIVE)
        elif not self.options.tls_offered:
            self.say(replies.NOT_IMPLEMENTED)
        elif self.in_transaction:
            self.say(replies.IN_TRANSACTION)
        elif context is None:
            self.say(replies.TLS_UNAVAILABLE)
        else:
            await self.push(replies.START_TLS)
            await self.start_tls(context)

    def offered_tls(self) -> ssl.SSLContext | None:
        """The context to offer now, None without certificate or where TLS is off."""
        if not self.options.tls_offered or self.service.tls is None:
            return None
        return self.service.tls.context()
