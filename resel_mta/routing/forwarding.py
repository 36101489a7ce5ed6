"""What a user's .forward file says becomes mail of its own, each target delivered and tried again
by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from resel_mta.config import Settings
from resel_mta.config.aliases import Target, TargetKind
from resel_mta.config.expand import ExpansionError, expand
from resel_mta.config.target_files import Found
from resel_mta.local_target import LocalTarget, forward_mark
from resel_mta.mail import (
    AddressClass,
    Bounced,
    Deferred,
    Expanded,
    Intake,
    Message,
    Outcome,
    PermFail,
    Recipient,
    Reply,
    TempFail,
)
from resel_mta.routing.address import address_key, local_name
from resel_mta.routing.children import enter_child
from resel_mta.routing.table import RoutingTable
from resel_mta.wire.path import split_address


class Forwarder:
    """Enters what .forward files ask for."""

    def __init__(self, settings: Settings, table: RoutingTable, intake: Intake) -> None:
        self._table = table
        self._intake = intake
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        self._adds_field = "forward" in settings.items("prepend_delivered_header")
        self._luser_relay = settings.setting("luser_relay").value.strip()

    async def forward(
        self, message: Message, recipient: Recipient, user: str, targets: Found
    ) -> Outcome:
        """Expanded once all of it is queued; a crash before that makes second copies, and loses
        none. The user's own mailbox, commands and files stay here; addresses go on with a
        Delivered-To field, by which a loop through other machines is seen."""
        several = len(targets) != 1
        if several:
            recipient = replace(recipient, notify=recipient.notify.without_success())
        try:
            here: list[Recipient] = []
            away: list[Recipient] = []
            for target, _ in targets:
                made = await self._recipient(recipient, user, target)
                (here if made.address == recipient.address else away).append(made)
            ids = []
            if here:
                ids.append(await enter_child(self._intake, message, here))
            if away:
                fields = self._field(recipient)
                ids.append(await enter_child(self._intake, message, away, fields))
        except TempFail as failure:
            return Deferred(failure.reply, relay="local")
        except PermFail as failure:
            return Bounced(failure.reply, relay="local")
        reply = Reply(250, "2.0.0", f"forwarded as {', '.join(ids)}")
        return Expanded(reply, relay="local", action="expanded" if several else "")

    def _field(self, recipient: Recipient) -> bytes:
        field = f"Delivered-To: {recipient.address}\r\n"
        return field.encode("utf-8", "surrogateescape") if self._adds_field else b""

    async def relay_unknown(self, message: Message, recipient: Recipient) -> Outcome | None:
        """Mail for a local user who does not exist, sent on to `luser_relay`; None where that is
        not set, or where the recipient came from there."""
        mark = forward_mark("")
        if not self._luser_relay or mark in recipient.via:
            return None
        local, domain = split_address(recipient.address)
        user, extension = self._table.rules.split_extension(local)
        values = {
            "user": user,
            "local": local,
            "extension": extension[1:],
            "recipient_delimiter": extension[:1],
            "domain": domain,
            "recipient": recipient.address,
        }
        try:
            address = expand(self._luser_relay, values.get)
            if address.startswith("@"):
                address = local + address
            relayed = replace(
                recipient,
                address=self._table.rules.qualify(address),
                orig_to=recipient.orig_to or recipient.address,
                via=(mark,),
            )
            queue_id = await enter_child(self._intake, message, [relayed], self._field(recipient))
        except (TempFail, PermFail) as failure:
            return Deferred(failure.reply.softened(), relay="local")
        except ExpansionError as error:
            reply = Reply(451, "4.3.5", f"mail system configuration error: luser_relay: {error}")
            return Deferred(reply, relay="local")
        return Expanded(Reply(250, "2.0.0", f"forwarded as {queue_id}"), relay="local", action="")

    async def _recipient(self, recipient: Recipient, user: str, target: Target) -> Recipient:
        """Raises TempFail."""
        mark = forward_mark(user)
        stay = (
            *recipient.via,
            address_key(recipient.address),
            local_name(recipient.address).lower(),
            mark,
        )
        if target.kind in (TargetKind.COMMAND, TargetKind.FILE):
            try:
                last = LocalTarget(target.text, "forward", user).mark()
            except ValueError as error:
                raise TempFail(Reply(451, "4.3.5", f".forward of {user}: {error}")) from error
            return replace(recipient, via=(*stay, last))
        address = self._table.rules.qualify(target.value)
        if await self._is_local(address) and local_name(address).lower() == user.lower():
            return replace(recipient, via=stay)
        # Aliases may be followed again: with the mark, what leads back here ends in the mailbox.
        via: Sequence[str] = [each for each in recipient.via if each.startswith("~")]
        via = (*via, mark)
        if target.kind is TargetKind.MAILBOX:
            via = (*via, address_key(address), local_name(address).lower())
        orig_to = recipient.orig_to or recipient.address
        return replace(recipient, address=address, orig_to=orig_to, via=tuple(via))

    async def _is_local(self, address: str) -> bool:
        return await self._table.classify(address) is AddressClass.LOCAL
