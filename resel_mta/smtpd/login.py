"""AUTH (RFC 4954): PLAIN and LOGIN, on services that have it switched on."""

from __future__ import annotations

import asyncio
import base64
from typing import ClassVar

from resel_mta.smtpd import replies
from resel_mta.smtpd.session import Session
from resel_mta.users.sasl import (
    Aborted,
    Challenge,
    DecodeError,
    Failure,
    FailureKind,
    SaslServer,
    Step,
    Success,
    decode_response,
)

_REPLIES = {
    FailureKind.CREDENTIALS: replies.AUTH_FAILED,
    FailureKind.ABORTED: replies.AUTH_ABORTED,
    FailureKind.MALFORMED: replies.AUTH_MALFORMED,
    FailureKind.MECHANISM: replies.AUTH_MECHANISM,
    FailureKind.TEMPORARY: replies.AUTH_TEMPORARY,
}


class LoginCommands(Session):
    """Adds AUTH to a session."""

    commands: ClassVar[dict[bytes, str]] = {b"AUTH": "smtp_AUTH"}

    def mechanisms(self) -> tuple[str, ...]:
        """What may be offered now. Passwords go over TLS, or do not leave this host."""
        options = self.options
        if self.client.tls or (options.sasl_auth_in_clear and self.client.loopback):
            return options.sasl_mechanisms
        return ()

    async def smtp_AUTH(self, arg: bytes) -> None:
        refusal = self._auth_order(arg)
        if refusal is not None:
            self.say(refusal)
            return
        mechanism, _, initial = arg.partition(b" ")
        server = SaslServer(self.service.users, self.mechanisms())
        name = mechanism.decode("ascii", "replace").upper()
        step = await self._exchange(server, name, initial.strip())
        if isinstance(step, Success):
            self.client.sasl_method = step.mechanism or name
            self.client.sasl_username = step.user.name
            self.say(replies.AUTHENTICATED)
            return
        assert isinstance(step, Failure)
        await self._failed(step, name)

    def _auth_order(self, arg: bytes) -> bytes | None:
        if not self.client.esmtp:
            return replies.NEED_HELO
        if not self.options.sasl_mechanisms:
            return replies.AUTH_DISABLED
        if self.in_transaction:
            return replies.IN_TRANSACTION
        if self.client.sasl_username:
            return replies.AUTH_ALREADY
        if not self.mechanisms():
            return replies.AUTH_NEEDS_TLS
        return None if 1 <= len(arg.split()) <= 2 else replies.SYNTAX_AUTH

    async def _exchange(self, server: SaslServer, name: str, initial: bytes) -> Step:
        exchange = server.exchange()
        try:
            first = decode_response(initial, initial=True) if initial else None
            step = await exchange.start(name, first)
            while isinstance(step, Challenge):
                await self.push(b"334 " + base64.b64encode(step.data) + b"\r\n")
                line = await self.read_line(self.options.sasl_response_limit)
                step = await exchange.respond(decode_response(line))
        except Aborted:
            return Failure("aborted by the client", FailureKind.ABORTED)
        except DecodeError:
            return Failure("malformed response", FailureKind.MALFORMED)
        return step

    async def _failed(self, failure: Failure, mechanism: str) -> None:
        if failure.kind is not FailureKind.MECHANISM:
            name = replies.ascii_only(mechanism, 20)
            user = f", sasl_username={failure.username}" if failure.username else ""
            self.log(
                f"warning: {self.client.label()}: SASL {name} authentication failed: "
                f"{failure.reason}{user}"
            )
        if failure.kind is FailureKind.CREDENTIALS:
            await asyncio.sleep(self.options.error_sleep_time)
        self.say(_REPLIES[failure.kind])
