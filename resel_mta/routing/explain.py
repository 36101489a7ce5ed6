"""How routing decides about one address, step by step.

It is the daemon's own decision: the same `Canonical`, `Expander` and `RoutingTable` do it, with the
same live tables, and this module only watches them. Nothing is changed and nothing is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from resel_mta.config import Settings
from resel_mta.config.maps import MapSet
from resel_mta.config.mapspec import parse_map
from resel_mta.config.where import line_of
from resel_mta.local_target import LocalTarget
from resel_mta.mail import (
    AddressClass,
    Envelope,
    PermFail,
    Recipient,
    Reply,
    Route,
    TempFail,
)
from resel_mta.routing.bcc import AutomaticBcc
from resel_mta.routing.canonical import Canonical
from resel_mta.routing.expand import Expander
from resel_mta.routing.table import EXPAND, RoutingTable
from resel_mta.routing.targets import read_as_myself
from resel_mta.users import Users
from resel_mta.wire.path import split_address

#: The parameter that lists the domains of a class, and the one that names its transport.
CLASS_DOMAINS = {
    AddressClass.LOCAL: "mydestination",
    AddressClass.VIRTUAL_ALIAS: "virtual_alias_domains",
    AddressClass.VIRTUAL_MAILBOX: "virtual_mailbox_domains",
    AddressClass.RELAY: "relay_domains",
}
CLASS_TRANSPORT = {
    AddressClass.LOCAL: "local_transport",
    AddressClass.VIRTUAL_MAILBOX: "virtual_transport",
    AddressClass.RELAY: "relay_transport",
    AddressClass.DEFAULT: "default_transport",
}
#: What an answer of these maps is; of all others: that the recipient is known.
_KINDS = {
    "virtual_alias_maps": "virtual",
    "canonical_maps": "canonical",
    "recipient_canonical_maps": "canonical",
    "sender_canonical_maps": "canonical",
    "recipient_bcc_maps": "copy",
    "sender_bcc_maps": "copy",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that had a say.

    kind: "completed" (a bare address), "class" (of a domain), "known" (in a table of
        recipients), "canonical", "virtual", "alias", "copy" (a bcc), "transport_maps",
        "relayhost", "class_transport".
    subject: the address or domain that it is about. result: what the rule says of it.
    parameter: whose rule it is, and `set_at`: where that is set ("main.cf:12", "role relay",
        "default"). table, key, line: "hash:/etc/aliases", what was looked up in it, and
        "/etc/aliases:5" where its line can be told.
    """

    kind: str
    subject: str
    result: str
    parameter: str = ""
    set_at: str = ""
    table: str = ""
    key: str = ""
    line: str = ""


@dataclass(slots=True)
class Destination:
    """Where a copy of the mail goes. recipient: with `target` set for a command or a file.

    route: None where it could not be told; trouble: why, as it would be logged.
    """

    recipient: Recipient
    steps: list[Step]
    route: Route | None = None
    trouble: Reply | None = None


@dataclass(slots=True)
class Explanation:
    """All about one address.

    refusal: what a client is told instead of "250", None if the address is taken.
    relay_rule: where smtpd_relay_restrictions is set, for an address of others: only clients that
    it lets relay may name it; "" for our own. steps: from the address to its recipients. trouble: (address, reply) of what could not be
    expanded for now.
    """

    address: str
    refusal: Reply | None = None
    relay_rule: str = ""
    steps: list[Step] = field(default_factory=list)
    recipients: list[Recipient] = field(default_factory=list)
    trouble: list[tuple[str, Reply]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Hit:
    """The last answer of a table."""

    parameter: str = ""
    table: str = ""
    key: str = ""
    line: str = ""


class WatchedMaps(MapSet):
    """Tells which table answered which key, and where."""

    hit = Hit()

    async def find(self, key: str) -> tuple[str, str] | None:
        found = await super().find(key)
        if found is not None:
            line = await asyncio.to_thread(self._line, found[1], key)
            self.hit = Hit(self.name, found[1], key, line)
        return found

    def _line(self, table: str, key: str) -> str:
        for spec, file in self._files.items():
            if str(spec) == table:
                number = line_of(file, key)
                return f"{file.source}:{number}" if number else str(file.source)
        return ""


class WatchedTable(RoutingTable):
    """A `RoutingTable` that writes down what it decides."""

    def __init__(self, settings: Settings, users: Users) -> None:
        self.steps: list[Step] = []
        self._known: set[str] = set()
        super().__init__(settings, users)

    def open_maps(self, settings: Settings, name: str) -> MapSet | None:
        if not settings.text(name).strip():
            return None
        return WatchedMaps(name, [parse_map(item) for item in settings.items(name)], settings)

    def note(
        self, kind: str, subject: str, result: str, parameter: str = "", hit: Hit = Hit()
    ) -> None:
        """One more step; hit: of the table that answered."""
        set_at = str(self.settings.source(parameter)) if parameter else ""
        step = Step(kind, subject, result, parameter, set_at, hit.table, hit.key, hit.line)
        if step not in self.steps:
            self.steps.append(step)

    async def classify_domain(self, domain: str) -> AddressClass:
        found = await super().classify_domain(domain)
        if domain and domain.lower() not in self._known:
            self._known.add(domain.lower())
            self.note("class", domain, found.value, CLASS_DOMAINS.get(found, ""))
        return found

    async def find(
        self, maps: MapSet, address: str, address_class: AddressClass
    ) -> tuple[str, str] | None:
        found = await super().find(maps, address, address_class)
        if found is not None:
            self.note(_KINDS.get(maps.name, "known"), address, found[0], maps.name, _hit(maps))
        return found

    async def find_alias(self, address: str) -> tuple[str, str] | None:
        found = await super().find_alias(address)
        if found is not None:
            self.note("alias", address, found[0], "alias_maps", _hit(self.alias_maps))
        return found

    async def route(self, address: str, reverse_path: str = "", via: Collection[str] = ()) -> Route:
        found = await super().route(address, reverse_path, via)
        domain = split_address(self.rules.qualify(address))[1]
        is_by_map = any(step.kind == "transport_maps" for step in self.steps)
        if found.origin == "relayhost":
            self.note("relayhost", domain, found.nexthop, "relayhost")
        if found.transport != EXPAND and not is_by_map and LocalTarget.last_of(tuple(via)) is None:
            parameter = CLASS_TRANSPORT.get(await self.classify_domain(domain), "")
            if parameter:
                self.note("class_transport", domain, found.transport, parameter)
        return found

    async def _by_transport_maps(self, maps: MapSet, address: str, route: Route) -> Route:
        if isinstance(maps, WatchedMaps):
            maps.hit = Hit()
        found = await super()._by_transport_maps(maps, address, route)
        hit = _hit(maps)
        if hit.table:
            text = f"{found.transport}:{found.nexthop}"
            self.note("transport_maps", address, text, "transport_maps", hit)
        return found


def _hit(maps: MapSet | None) -> Hit:
    return maps.hit if isinstance(maps, WatchedMaps) else Hit()


class Explainer:
    """Asks one configuration about addresses."""

    def __init__(self, settings: Settings, users: Users) -> None:
        """Reads the tables: blocks."""
        self.table = WatchedTable(settings, users)
        self._settings = settings
        self._expander = Expander(settings, self.table, read_as_myself)
        self._canonical = Canonical(settings, self.table)
        self._copies = AutomaticBcc(settings, self.table)

    async def begin(self, address: str, sender: str = "") -> Explanation:
        """What is said to a client that names the address, and whom it stands for. Raises TempFail
        when not even its class can be told, because a table cannot be read."""
        table = self.table
        found = Explanation(address)
        table.steps = found.steps
        full = table.rules.qualify(address)
        if full != address:
            table.note("completed", address, full, "mydomain" if "@" in address else "myorigin")
        found.refusal = await table.check_recipient(address)
        if await table.classify(full) is AddressClass.DEFAULT:
            found.relay_rule = str(self._settings.source("smtpd_relay_restrictions"))
        start = full
        if self._canonical.is_active:
            start = await self._canonical.rewrite(full, "envelope_recipient")
        envelope = Envelope(sender, [Recipient(start, orig_to=full if start != full else "")])
        if self._copies.is_active:
            await self._copies.add(envelope)
            always = table.rules.qualify(self._settings.text("always_bcc").strip())
            if any(copy.address == always for copy in envelope.recipients[1:]):
                table.note("copy", full, always, "always_bcc")
        found.recipients, found.trouble = await self._expand(envelope.recipients, sender)
        return found

    async def _expand(
        self, recipients: list[Recipient], sender: str
    ) -> tuple[list[Recipient], list[tuple[str, Reply]]]:
        found, trouble, _ = await self._expander.expand_all(recipients, sender)
        return found, trouble

    async def forward(self, recipients: list[Recipient], sender: str) -> Explanation:
        """The same for recipients that take the place of another."""
        found = Explanation(recipients[0].address if recipients else "")
        self.table.steps = found.steps
        found.recipients, found.trouble = await self._expand(recipients, sender)
        return found

    async def route(self, recipient: Recipient, sender: str) -> Destination:
        """Where the queue sends mail for one of `Explanation.recipients`."""
        found = Destination(recipient, [])
        self.table.steps = found.steps
        try:
            found.route = await self.table.route(recipient.address, sender, recipient.via)
        except (TempFail, PermFail) as failure:
            found.trouble = failure.reply
        return found
