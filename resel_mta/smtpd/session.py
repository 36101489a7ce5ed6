"""The conversation: commands in order, the end. Sub-classes add the commands."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from resel_mta.mail import PermFail, Reply, TempFail
from resel_mta.smtpd import replies
from resel_mta.smtpd.command import Closing, Command, Work
from resel_mta.smtpd.conduct import Conduct
from resel_mta.smtpd.connection import LINE_TOO_LONG, Lost
from resel_mta.smtpd.names import Known, NameFinder

#: Commands that may come before STARTTLS where TLS is required (RFC 3207 §4).
_BEFORE_TLS = frozenset((b"NOOP", b"EHLO", b"LHLO", b"STARTTLS", b"QUIT"))
#: Replies that may wait for one write; with as many a session gives way to the others.
_MOST_REPLIES = 200


class Session(Conduct):
    """Base of the SMTP service's protocol. Sub-classes add commands to `commands`."""

    _stopping = False

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
            self.note_pipelining()
        if not self.service.admits(self.client):
            service = "smtp" if options.service == "smtpd" else options.service
            count = self.service.connections(self.client.address)
            self.log(
                f"warning: Connection concurrency limit exceeded: {count} from "
                f"{self.client.label()} for service {service}"
            )
            if self.transcript is not None:
                self.transcript.rejected("CONNECT")
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
                self.count(command)
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
        # The client could not say anything while it waited for us.
        self._active = self.loop.time()
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
            self.flush_soon()

    def _read_commands(self) -> bool:
        """The consumer where no command has its own. True: something else is to be done first."""
        limit = self.options.line_length_limit
        while not self.busy:
            line = self.next_line(limit) if self._position < len(self._buffer) else None
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
        if self.transcript is not None:
            self.transcript.heard(verb if command is not None else b"", line)
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
            self.note_pipelining()
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
            self.count(command)

    def _unusual(self, line: bytes, verb: bytes, command: Command | None) -> Command | None:
        """A line that is no command, or one that needs TLS first. None after saying so."""
        options = self.options
        label = self.client.label()
        if line is LINE_TOO_LONG:
            self.log(f"warning: {label}: request longer than {options.line_length_limit}")
            self.refuse("UNKNOWN", replies.LINE_TOO_LONG)
        elif not verb:
            self.refuse("UNKNOWN", replies.BAD_SYNTAX)
        elif verb in options.forbidden_commands:
            said = line[:100].decode("ascii", "replace").strip()
            self.log(f"warning: non-SMTP command from {label}: {said}")
            self.hang_up(replies.NON_SMTP)
        elif verb in options.noop_commands:
            self.say(replies.OK)
            self.tally("NOOP", ok=True)
        elif command is None:
            self.where = "UNKNOWN"
            self.refuse("UNKNOWN", replies.UNKNOWN_COMMAND)
        elif verb not in _BEFORE_TLS:
            self.refuse(command.name, replies.TLS_REQUIRED)
        else:
            return command
        return None

    # -- the end ----------------------------------------------------------------------------------

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
        if self.transcript is not None:
            self.service.postmaster.ended(self.transcript, self.client)
            self.transcript = None
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
