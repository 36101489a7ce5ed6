"""The conversation: commands in order, errors counted, the end. Sub-classes add the commands."""

from __future__ import annotations

import asyncio
import secrets
import traceback
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from resel_mta.mail import PermFail, Reply, TempFail
from resel_mta.smtpd import replies
from resel_mta.smtpd.connection import LINE_TOO_LONG, Connection, Lost
from resel_mta.smtpd.names import Known, NameFinder

#: Commands that may come before STARTTLS where TLS is required (RFC 3207 §4).
_BEFORE_TLS = frozenset((b"NOOP", b"EHLO", b"LHLO", b"STARTTLS", b"QUIT"))
#: Replies that may wait for one write, so that a long pipeline is no memory leak.
_MOST_REPLIES = 200

#: What a command still has to wait for; None if it is done.
Work = Coroutine[Any, Any, None] | None


class Closing(Exception):
    """The session is over; what was to be said has been said."""


class Command(NamedTuple):
    """One SMTP command.

    run: called with the session and the argument (b"" for none); it answers through `say`.
    name: in the log. junk: it costs a client nothing, and is counted as an error when there are
    too many. last: a client must wait for its reply (RFC 2920 §3.1).
    """

    run: Callable[[Any, bytes], Work]
    name: str
    junk: bool = False
    last: bool = False


Commands = Mapping[bytes, Command]


def command_table(*commands: Command) -> Commands:
    """By verb."""
    return MappingProxyType({command.name.encode(): command for command in commands})


class Session(Connection):
    """Base of the SMTP service's protocol. Sub-classes add commands to `commands`.

    consumer: takes the input instead of the command reader while a command needs more of it
    (content, AUTH's responses). It returns False when it needs more input. The command is counted
    when it is done with that (`command_done`).
    """

    commands: ClassVar[Commands]

    consumer: Callable[[], bool] | None = None
    _errors = 0
    _junk = 0
    _stopping = False
    _slowed: asyncio.TimerHandle | None = None

    # -- the conversation -------------------------------------------------------------------------

    async def _handle_client(self) -> None:
        """The base starts this with the connection. It greets, and what follows goes on by itself."""
        await self._attend(self._open(), None)

    async def _open(self) -> None:
        try:
            await self._greet()
        except (TempFail, PermFail) as failure:
            self.hang_up(failure.reply)
        except (Closing, Lost):
            raise
        except Exception as error:
            self.hang_up(self.report(error))

    async def _greet(self) -> None:
        options = self.options
        if self.service.names is not None and options.peername_lookup:
            await self._find_names(self.service.names)
        self.log(f"connect from {self.label()}")
        if self.has_input:
            self._note_pipelining()
        if not self.service.admits(self.client):
            service = "smtp" if options.service == "smtpd" else options.service
            count = self.service.connections(self.client.address)
            self.log(
                f"warning: Connection concurrency limit exceeded: {count} from "
                f"{self.client.label()} for service {service}"
            )
            self.hang_up(replies.too_many_connections(options.myhostname, self.client.address))
        refusal = await self.access.settle(self.access.on_connect)
        if refusal is not None:
            self.log_reject("CONNECT", refusal)
            self.hang_up(refusal)
        self.say(self.service.greeting)

    async def _find_names(self, finder: NameFinder) -> None:
        client = self.client
        client.names = await finder.find(client.address)
        client.name = client.names.name
        if client.names.warning:
            self.log(client.names.warning)
        if not client.trusted and client.names.verified is Known.YES:
            client.trusted = self.options.mynetworks.matches(client.address, client.name)

    def wait_for(self, work: Coroutine[Any, Any, None], command: Command | None = None) -> None:
        """Hold input back until `work` is done. command: to be counted then, unless it has set a
        consumer."""
        self.busy = True
        self._handler_coroutine = self.loop.create_task(self._attend(work, command))

    async def _attend(self, work: Coroutine[Any, Any, None], command: Command | None) -> None:
        try:
            try:
                await work
            except (TempFail, PermFail) as failure:
                self.say(failure.reply)
            except (Closing, Lost):
                raise
            except Exception as error:
                self.say(self.report(error))
            self.busy = False
            if command is not None and self.consumer is None:
                self._count(command)
        except Closing:
            self._end()
        except Lost:
            self._lost()
        except asyncio.CancelledError:
            self._end()
            raise
        else:
            self.proceed()

    def proceed(self) -> None:
        """Go on with what was held back; at the end of input, end the session."""
        if self.finished:
            return
        if self.transport is None:
            self._lost()
            return
        if self._write_paused:
            return
        self.consume()
        while self._held and not (self.busy or self._write_paused or self.finished):
            self.take_held()
            self.consume()
        if self._eof and not (self.busy or self._write_paused or self.finished):
            self._lost()

    def consume(self) -> None:
        """Take what is buffered, until it is used up or something must be waited for."""
        try:
            while (self.consumer or self._read_commands)():
                if self.busy or self._write_paused:
                    break
        except Closing:
            self._end()
            return
        except Exception as error:
            self._last_words(self.report(error))
            self._end()
            return
        if self._slowed is None:
            self.flush()

    def _read_commands(self) -> bool:
        """The consumer where no command has its own. True: something else is to be done first."""
        limit = self.options.line_length_limit
        while not self.busy:
            line = self.next_line(limit)
            if line is None:
                if self._stopping and not self.in_transaction:
                    self.hang_up(replies.shutting_down(self.options.myhostname))
                return False
            self._command(line)
            if self.consumer is not None:
                return True
            if len(self._out) >= _MOST_REPLIES:
                # A long pipeline must not keep the other clients waiting.
                self.busy = True
                self.loop.call_soon(self._resume)
        return False

    def _command(self, line: bytes) -> None:
        verb, _, argument = line.partition(b" ")
        command = self.commands.get(verb)
        if command is None:
            verb = verb.upper()
            command = self.commands.get(verb)
        if (
            command is None
            or line is LINE_TOO_LONG
            or (self.options.tls_required and not self.client.tls)
        ):
            command = self._unusual(line, verb, command)
            if command is None:
                return
        self.where = command.name
        self.said = b""
        if self._position < len(self._buffer) and (command.last or not self.client.esmtp):
            self._note_pipelining()
        try:
            work = command.run(self, argument.strip())
        except (TempFail, PermFail) as failure:
            self.say(failure.reply)
        except (Closing, Lost):
            raise
        except Exception as error:
            self.say(self.report(error))
        else:
            if work is not None:
                self.wait_for(work, command)
                return
        if self.consumer is None:
            self._count(command)

    def bare_newline(self) -> Reply:
        """smtpd_forbid_bare_newline = reject."""
        code, hostname = self.options.bare_newline_reject_code, self.options.myhostname
        return Reply(code, f"{code // 100}.5.2", f"{hostname} Error: bare <LF> received")

    def refuse_line(self) -> None:
        refusal = self.bare_newline()
        self.log_reject(self.where, refusal)
        self.hang_up(refusal)

    def _note_pipelining(self) -> None:
        """What was sent too early is not logged: it may be a password or a message."""
        if self.client.pipelining or self.where == "QUIT":
            return
        self.client.pipelining = True
        self.log(f"improper command pipelining after {self.where} from {self.client.label()}")
        if self.options.forbid_unauth_pipelining:
            self.hang_up(replies.SYNCHRONIZATION)

    def _unusual(self, line: bytes, verb: bytes, command: Command | None) -> Command | None:
        """A line that is no command, or one that needs TLS first. None after saying so."""
        options = self.options
        label = self.client.label()
        if line is LINE_TOO_LONG:
            self.log(f"warning: {label}: request longer than {options.line_length_limit}")
            self._refuse("UNKNOWN", replies.LINE_TOO_LONG)
        elif not verb:
            self._refuse("UNKNOWN", replies.BAD_SYNTAX)
        elif verb in options.forbidden_commands:
            self.log(f"warning: non-SMTP command from {label}: {verb.decode()}")
            self.hang_up(replies.NON_SMTP)
        elif verb in options.noop_commands:
            self.say(replies.OK)
            self._tally("NOOP", ok=True)
        elif command is None:
            self.where = "UNKNOWN"
            self._refuse("UNKNOWN", replies.UNKNOWN_COMMAND)
        elif verb not in _BEFORE_TLS:
            self._refuse(command.name, replies.TLS_REQUIRED)
        else:
            return command
        return None

    # -- errors -----------------------------------------------------------------------------------

    def _refuse(self, name: str, reply: bytes) -> None:
        self.say(reply)
        self._tally(name, ok=False)

    def command_done(self, verb: bytes) -> None:
        """A command that had a consumer is done with it. Raises Closing."""
        self._count(self.commands[verb])

    def _count(self, command: Command) -> None:
        ok = self.said < b"4"
        if command.junk:
            self._junk += 1
            if self._junk > self.options.junk_command_limit:
                self._errors += 1
        self.client.count(command.name, ok=ok)
        if self._errors or not ok:
            self._restrain(ok=ok)

    def _tally(self, name: str, *, ok: bool) -> None:
        self.client.count(name, ok=ok)
        self._restrain(ok=ok)

    def _restrain(self, *, ok: bool) -> None:
        """Slow down and in the end stop a client that makes many errors. Raises Closing."""
        if not ok:
            self._errors += 1
        options = self.options
        if self._errors > options.hard_error_limit:
            self.log(f"too many errors after {self.where} from {self.client.label()}")
            self.hang_up(replies.too_many_errors(options.myhostname))
        if self._errors >= options.soft_error_limit and options.error_sleep_time:
            # The reply waits too, so that a client that reads it waits.
            self.busy = True
            self._slowed = self.loop.call_later(options.error_sleep_time, self._resume)

    def _resume(self) -> None:
        self._slowed = None
        self.busy = False
        self.proceed()

    def forgive(self) -> None:
        """A message was accepted: earlier errors do not count any more."""
        self._errors = 0
        self._junk = 0

    # -- the end ----------------------------------------------------------------------------------

    def hang_up(self, reply: bytes | Reply) -> None:
        """Say it and end the session: raises Closing."""
        self.say(reply)
        raise Closing

    def _lost(self) -> None:
        self.log(f"lost connection after {self.where} from {self.client.label()}")
        self._end()

    def timed_out(self) -> None:
        self.log(f"timeout after {self.where} from {self.client.label()}")
        self._last_words(replies.timed_out(self.options.myhostname))
        self._end()

    def _last_words(self, reply: Reply) -> None:
        self._out.append(reply.wire())
        self.flush()

    def _end(self) -> None:
        """The conversation is over, whatever is left of it."""
        self.finished = True
        if self._slowed is not None:
            self._slowed.cancel()
            self._slowed = None
        self.flush()
        self.unread(b"")
        self._forget_held()
        self.log(f"disconnect from {self.label()}{self.client.summary()}")
        if self.transport is not None:
            self.transport.close()
        work = self.abandon()
        self.busy = work is not None
        if work is not None:
            self._handler_coroutine = self.loop.create_task(self._clear_away(work))
        self._release()

    async def _clear_away(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self.report(error)
        finally:
            self.busy = False
            self._release()

    # -- stopping ---------------------------------------------------------------------------------

    def begin_stop(self) -> None:
        """The service stops: an idle session ends at once, another after its transaction."""
        self._stopping = True
        if not (self.busy or self.in_transaction or self.finished):
            self._last_words(replies.shutting_down(self.options.myhostname))
            self._end()

    def force_stop(self) -> None:
        """The time for that is over."""
        if self.finished:
            return
        self._last_words(replies.shutting_down(self.options.myhostname))
        if not self.busy or self._slowed is not None:
            self._end()
            return
        if self.transport is not None:
            self.transport.close()
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()

    @property
    def in_transaction(self) -> bool:
        """Whether MAIL was accepted and the message is not done."""
        return False

    def abandon(self) -> Work:
        """Forget a transaction, its content too; what is left to do for that."""
        return None

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
