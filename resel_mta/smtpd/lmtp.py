"""LMTP (RFC 2033): mail for mailboxes of this host, from another MTA. No queue is involved: the
content is in a mailbox when the reply for its recipient says so, and with any other reply the
client keeps it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import MappingProxyType
from typing import ClassVar, Protocol

from resel_mta.config import Settings
from resel_mta.content import Content
from resel_mta.mail import (
    AddressClass,
    Bounced,
    Deferred,
    Envelope,
    Message,
    Outcome,
    Recipient,
    Reply,
    Route,
    Transport,
)
from resel_mta.maillog import MailLog
from resel_mta.smtpd import replies
from resel_mta.smtpd.command import Command, Commands, Work, command_table
from resel_mta.smtpd.protocol import SmtpProtocol
from resel_mta.smtpd.service import ConnectionCounter, QueueIntake, SmtpService
from resel_mta.tls import ServerTLS
from resel_mta.users import Users


class Mailboxes(Transport, Protocol):
    """The Transport that writes mailboxes."""

    async def knows(self, address: str) -> bool:
        """Whether somebody has that address. Raises TempFail."""
        ...


class LmtpProtocol(SmtpProtocol):
    """One connection of an LMTP client."""

    service: LmtpService

    def do_LHLO(self, arg: bytes) -> Work:
        if not arg:
            self.say(replies.SYNTAX_LHLO)
            return None
        return self._hello(arg, esmtp=True)

    def _protocol(self, envelope: Envelope) -> str:
        """RFC 3848, RFC 6531 §4.3."""
        client = self.client
        name = "UTF8LMTP" if envelope.smtputf8 else "LMTP"
        return name + ("S" if client.tls else "") + ("A" if client.sasl_username else "")

    async def _submit(self, envelope: Envelope, content: Content, queue_id: str) -> Sequence[Reply]:
        content.header.prepend(self._origin_of(envelope).received)
        outcomes = await self.service.deliver(envelope, content, queue_id)
        return [
            _answer(recipient, outcome, queue_id)
            for recipient, outcome in zip(envelope.recipients, outcomes, strict=True)
        ]

    def _say_refusal(self, refusal: bytes | Reply, envelope: Envelope | None) -> None:
        """RFC 2033 §4.2: after the content, one reply for each recipient that was accepted."""
        count = len(envelope.recipients) if envelope is not None else 0
        for _ in range(max(1, count)):
            self.say(refusal)

    commands: ClassVar[Commands] = MappingProxyType(
        {
            **{
                verb: command
                for verb, command in SmtpProtocol.commands.items()
                # RFC 2033 §4.1: they are unknown commands here.
                if verb not in (b"HELO", b"EHLO")
            },
            **command_table(Command(do_LHLO, "LHLO")),
        }
    )


def _answer(recipient: Recipient, outcome: Outcome, queue_id: str) -> Reply:
    reply = outcome.reply
    if isinstance(outcome, Bounced | Deferred):
        return Reply(reply.code, reply.enhanced, f"<{recipient.address}> {reply.text}")
    return Reply(250, "2.0.0", f"<{recipient.address}> {queue_id} Saved")


class _Owners:
    """Implements the part of `mail.Router` that access rules ask: every address is a mailbox's."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes

    async def classify(self, address: str) -> AddressClass:
        return AddressClass.LOCAL

    async def check_recipient(self, address: str) -> Reply | None:
        """Raises TempFail."""
        if await self._mailboxes.knows(address):
            return None
        return Reply(550, "5.1.1", f"<{address}> User doesn't exist: {address}")

    async def route(self, address: str, reverse_path: str = "", via: object = ()) -> Route:
        return Route("local", address.rpartition("@")[2])


class Discard(Protocol):
    """Takes away what `Intake.sink` kept of a content (`QueueStore.discard`)."""

    async def __call__(self, content: Content) -> None: ...


class LmtpService(SmtpService):
    """All LMTP sessions. intake: gives ids, and room for content while it comes."""

    protocol: ClassVar[type[SmtpProtocol]] = LmtpProtocol

    def __init__(
        self,
        settings: Settings,
        intake: QueueIntake,
        mailboxes: Mailboxes,
        discard: Discard,
        users: Users,
        log: MailLog,
        tls: ServerTLS | None = None,
        *,
        counter: ConnectionCounter | None = None,
    ) -> None:
        """settings: the service's view. Raises ConfigError."""
        super().__init__(
            "lmtp", settings, intake, _Owners(mailboxes), users, log, tls, counter=counter
        )
        self.log_name = "lmtpd"
        self._mailboxes = mailboxes
        self._discard = discard

    def lacks_room(self, size: int) -> Reply | None:
        """It does not go into the queue."""
        return None

    async def deliver(self, envelope: Envelope, content: Content, queue_id: str) -> list[Outcome]:
        """Into the mailboxes; one outcome for each recipient, in their order."""
        started = time.time()
        recipients = envelope.recipients
        message = Message(queue_id, started, envelope, content.size, recipients, content, "LMTP")
        try:
            done = await self._mailboxes.deliver(message, recipients, Route("local", ""))
        finally:
            await self._discard(content)
        spent = time.time() - started
        outcomes = [done[recipient] for recipient in recipients]
        for recipient, outcome in zip(recipients, outcomes, strict=True):
            reply = outcome.reply
            self.log.event(
                self.log_name,
                f"to=<{recipient.address}>, relay={outcome.relay}, delay={spent:.2g}, "
                f"dsn={reply.enhanced}, status={outcome.status} ({reply.text})",
                queue_id,
            )
        return outcomes
