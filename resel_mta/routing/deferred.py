"""The transport "expand": recipients whose aliases could not be expanded when they came."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from resel_mta.content import Body, Content, Header
from resel_mta.mail import (
    Bounced,
    Deferred,
    Envelope,
    Expanded,
    Intake,
    Message,
    Origin,
    Outcome,
    PermFail,
    Recipient,
    Reply,
    Route,
    TempFail,
)
from resel_mta.routing.expand import Expander

_BLOCK = 256 * 1024


class ExpandTransport:
    """Expands recipients and enters what they became as a message of its own, before the outcome
    is recorded: a crash between the two makes a second copy, and never loses one."""

    name = "expand"
    log_name = "local"

    def __init__(self, expander: Expander, intake: Intake) -> None:
        self._expander = expander
        self._intake = intake

    async def deliver(
        self, message: Message, recipients: Sequence[Recipient], route: Route
    ) -> dict[Recipient, Outcome]:
        """One outcome each: Expanded; Deferred while a map fails or a target must wait; Bounced
        for a loop."""
        return {recipient: await self._deliver_one(message, recipient) for recipient in recipients}

    async def _deliver_one(self, message: Message, recipient: Recipient) -> Outcome:
        reverse_path = recipient.reverse_path
        if reverse_path is None:
            reverse_path = message.envelope.reverse_path
        try:
            made = await self._expander.expand(recipient, reverse_path)
            if made and made[0] is recipient:
                # The alias is gone meanwhile: the next attempt routes the address itself.
                return Deferred(Reply(451, "4.3.0", "alias database changed"), relay="local")
            if not made:
                return Expanded(Reply(250, "2.0.0", "expands to nobody"), relay="local")
            queue_id = await self._enter(message, [replace(item, row=0) for item in made])
        except TempFail as failure:
            return Deferred(failure.reply, relay="local")
        except PermFail as failure:
            return Bounced(failure.reply, relay="local")
        return Expanded(Reply(250, "2.0.0", f"forwarded as {queue_id}"), relay="local")

    async def _enter(self, message: Message, recipients: list[Recipient]) -> str:
        """A child message with its own copy of the content. Raises TempFail, PermFail."""
        content = message.content
        if content is None:
            raise TempFail(Reply(451, "4.3.0", "content is not at hand"))
        copy = Content(Header(content.header.raw), await self._copy(content.body))
        envelope = message.envelope
        child = Envelope(
            envelope.reverse_path,
            recipients,
            body=envelope.body,
            smtputf8=envelope.smtputf8,
            ret=envelope.ret,
            envid=envelope.envid,
        )
        return await self._intake.submit(child, copy, Origin(protocol="internal", service="local"))

    async def _copy(self, body: Body) -> Body:
        """A body of its own: the other one goes when the message it belongs to is done."""
        sink = self._intake.sink()
        try:
            offset = 0
            while block := await self._read(body, offset):
                await sink.write(block)
                offset += len(block)
            return await sink.finish()
        except OSError as error:
            await sink.discard()
            raise TempFail(Reply(451, "4.3.0", "content cannot be read")) from error
        except BaseException:
            await sink.discard()
            raise

    async def _read(self, body: Body, offset: int) -> bytes:
        if body.in_memory:
            return body.read(offset, _BLOCK)
        return await asyncio.to_thread(body.read, offset, _BLOCK)

    async def close(self) -> None:
        """Nothing is kept open."""
