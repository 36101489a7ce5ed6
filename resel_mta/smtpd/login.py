"""AUTH (RFC 4954), on services that have it switched on."""

from __future__ import annotations

import base64

from resel_mta.smtpd import replies
from resel_mta.smtpd.basic import BasicCommands
from resel_mta.smtpd.command import Command, Work, command_table
from resel_mta.smtpd.connection import LINE_TOO_LONG
from resel_mta.users.sasl import (
    Aborted,
    Challenge,
    DecodeError,
    Exchange,
    Failure,
    FailureKind,
    SaslServer,
    Step,
    decode_response,
)

_REPLIES = {
    FailureKind.CREDENTIALS: replies.AUTH_FAILED,
    FailureKind.ABORTED: replies.AUTH_ABORTED,
    FailureKind.MALFORMED: replies.AUTH_MALFORMED,
    FailureKind.MECHANISM: replies.AUTH_MECHANISM,
    FailureKind.TEMPORARY: replies.AUTH_TEMPORARY,
}


class LoginCommands(BasicCommands):
    """Adds AUTH to a session."""

    _exchange: Exchange | None = None
    _mechanism = ""

    def mechanisms(self) -> tuple[str, ...]:
        """What may be offered now. Passwords go over TLS, or do not leave this host."""
        options = self.options
        secure = self.client.tls or (options.sasl_auth_in_clear and self.client.loopback)
        return self.service.users.mechanisms() if options.sasl_auth_enable and secure else ()

    def do_AUTH(self, arg: bytes) -> Work:
        """RFC 4954 §4."""
        refusal = self._auth_order(arg)
        if refusal is not None:
            self.say(refusal)
            return None
        mechanism, _, initial = arg.partition(b" ")
        self._mechanism = mechanism.decode("ascii", "replace").upper()
        self._exchange = SaslServer(self.service.users).exchange(self.client.address)
        return self._advance(initial.strip() or None, initial=True)

    def _auth_order(self, arg: bytes) -> bytes | None:
        if not self.client.esmtp:
            return replies.NEED_HELO
        if not self.options.sasl_auth_enable:
            return replies.AUTH_DISABLED
        if self.in_transaction:
            return replies.IN_TRANSACTION
        if self.client.sasl_username:
            return replies.AUTH_ALREADY
        if not self.mechanisms():
            return replies.AUTH_NEEDS_TLS
        return None if 1 <= len(arg.split()) <= 2 else replies.SYNTAX_AUTH

    def _take_response(self) -> bool:
        """The consumer while the client owes a response."""
        line = self.next_line(self.options.sasl_response_limit)
        if line is None:
            return False
        self.consumer = None
        self.wait_for(self._advance(line), self.commands[b"AUTH"])
        return False

    async def _advance(self, line: bytes | None, *, initial: bool = False) -> None:
        assert self._exchange is not None
        step: Step
        try:
            response = None if line is None else decode_response(line, initial=initial)
        except Aborted:
            step = Failure("aborted by the client", FailureKind.ABORTED)
        except DecodeError:
            step = Failure("malformed response", FailureKind.MALFORMED)
        else:
            if line is LINE_TOO_LONG:
                step = Failure("response too long", FailureKind.MALFORMED)
            elif initial:
                step = await self._exchange.start(self._mechanism, response)
            else:
                step = await self._exchange.respond(response)
        await self._conclude(step)

    async def _conclude(self, step: Step) -> None:
        if isinstance(step, Challenge):
            self.say(b"334 " + base64.b64encode(step.data) + b"\r\n")
            self.consumer = self._take_response
            return
        self._exchange = None
        if isinstance(step, Failure):
            await self._failed(step)
            return
        self.client.sasl_method = step.mechanism or self._mechanism
        self.client.sasl_username = step.user.name
        self.say(replies.AUTHENTICATED)

    async def _failed(self, failure: Failure) -> None:
        if failure.kind is not FailureKind.MECHANISM:
            name = replies.ascii_only(self._mechanism, 20)
            user = f", sasl_username={failure.username}" if failure.username else ""
            self.log(
                f"warning: {self.client.label()}: SASL {name} authentication failed: "
                f"{failure.reason}{user}"
            )
        self.say(_REPLIES[failure.kind])

    commands = command_table(Command(do_AUTH, "AUTH"))
