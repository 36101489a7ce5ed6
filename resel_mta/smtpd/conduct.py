"""How a client behaves: its errors are counted, it is slowed down, refused, and in the end hung
up on; and what the log says of it."""

from __future__ import annotations

import asyncio
import secrets
import traceback
from collections.abc import Callable
from typing import ClassVar

from resel_mta.mail import Reply
from resel_mta.smtpd import replies
from resel_mta.smtpd.command import Closing, Command, Commands
from resel_mta.smtpd.connection import Connection


class Conduct(Connection):
    """A connection that keeps count. `Session` adds the conversation.

    commands: by verb. consumer: takes the input instead of the command reader while a command
    needs more of it (content, AUTH's responses). It returns False when it needs more input. The
    command is counted when it is done with that (`command_done`).
    """

    commands: ClassVar[Commands]

    consumer: Callable[[], bool] | None = None
    _errors = 0
    _junk = 0
    _slowed: asyncio.TimerHandle | None = None

    def refuse(self, name: str, reply: bytes) -> None:
        """Answer what is no command with an error. name: as it is counted."""
        self.say(reply)
        self.tally(name, ok=False)

    def command_done(self, verb: bytes) -> None:
        """A command that had a consumer is done with it. Raises Closing."""
        self.count(self.commands[verb])

    def count(self, command: Command) -> None:
        """Count a command by its last reply. Raises Closing."""
        ok = self.said < b"4"
        # Monitoring and pools of connections on machines of ours keep theirs alive with NOOP.
        if command.junk and not self.client.trusted:
            self._junk += 1
            if self._junk > self.options.junk_command_limit:
                self._errors += 1
        pair = self.client.counts.get(command.name)
        if ok and pair is not None:
            pair[0] += 1
            pair[1] += 1
        else:
            self.client.count(command.name, ok=ok)
        if self._errors or not ok:
            self._restrain(ok=ok)

    def tally(self, name: str, *, ok: bool) -> None:
        """Count what is no command of the table. Raises Closing."""
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

    def flush_in_turn(self) -> None:
        # A reply that is to slow the client down waits longer.
        self._in_turn = False
        if self._slowed is not None:
            return
        try:
            self.flush()
        except Exception as error:
            # What goes wrong with one connection does not keep others without their replies.
            self.report(error)
            if self.transport is not None:
                self.transport.abort()

    def _resume(self) -> None:
        self._slowed = None
        self.busy = False
        self.proceed()

    def forgive(self) -> None:
        """A message was accepted: earlier errors do not count any more."""
        self._errors = 0
        self._junk = 0

    def hang_up(self, reply: bytes | Reply) -> None:
        """Say it and end the session: raises Closing."""
        self.say(reply)
        raise Closing

    def bare_newline(self) -> Reply:
        """smtpd_forbid_bare_newline = reject."""
        code, hostname = self.options.bare_newline_reject_code, self.options.myhostname
        return Reply(code, f"{code // 100}.5.2", f"{hostname} Error: bare <LF> received")

    def refuse_line(self) -> None:
        refusal = self.bare_newline()
        self.log_reject(self.where, refusal)
        self.hang_up(refusal)

    def note_pipelining(self) -> None:
        """What was sent too early is not logged: it may be a password or a message."""
        if self.client.pipelining or self.where == "QUIT":
            return
        self.client.pipelining = True
        self.log(f"improper command pipelining after {self.where} from {self.client.label()}")
        if self.options.forbid_unauth_pipelining:
            self.hang_up(replies.SYNCHRONIZATION)

    # -- the log ----------------------------------------------------------------------------------

    def log_reject(self, where: str, reply: Reply, details: str = "", queue_id: str = "") -> None:
        """Postfix's "NOQUEUE: reject: RCPT from …" line; the reply is said next."""
        if self.transcript is not None:
            self.transcript.rejected(where)
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
        if self.transcript is not None:
            self.transcript.failed()
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        self.log(
            f"warning: internal error (reference {reference}) after {self.where}: "
            f"{type(error).__name__}: {error}{place}"
        )
        return replies.local_error(reference)
