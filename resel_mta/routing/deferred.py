"""The transport "expand": recipients whose aliases could not be expanded when they came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from resel_mta.mail import (
    Bounced,
    Deferred,
    Expanded,
    Intake,
    Message,
    Outcome,
    PermFail,
    Recipient,
    Reply,
    Route,
    TempFail,
)
from resel_mta.routing.children import enter_child
from resel_mta.routing.expand import Expander, Expansion


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
            made, answer = await self._expand(recipient, reverse_path)
            if made and made[0] is recipient:
                # The alias is gone meanwhile: the next attempt routes the address itself.
                return Deferred(Reply(451, "4.3.0", "alias database changed"), relay="local")
            if not made:
                return Expanded(Reply(250, "2.0.0", "expands to nobody"), relay="local")
            queue_id = await enter_child(self._intake, message, made)
        except TempFail as failure:
            return Deferred(failure.reply, relay="local")
        except PermFail as failure:
            return Bounced(failure.reply, relay="local")
        reply = Reply(250, "2.0.0", f"forwarded as {queue_id}")
        return Expanded(reply, relay="local", action=answer)

    async def _expand(self, recipient: Recipient, reverse_path: str) -> Expansion:
        if recipient.target is None:
            return await self._expander.expand(recipient, reverse_path)
        # An alias that names other commands or files now than when the mail came. Its addresses
        # had theirs then.
        plain = replace(recipient, via=())
        found, answer = await self._expander.expand(plain, reverse_path)
        made = [each for each in found if each.target is not None]
        if not made:
            text = f"{recipient.target.name} names {recipient.target.text} no longer"
            raise TempFail(Reply(451, "4.3.5", f"alias database changed: {text}"))
        return Expansion(made, answer)

    async def close(self) -> None:
        """Nothing is kept open."""
