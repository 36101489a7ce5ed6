"""canonical(5) maps and masquerade_domains, for envelopes and for headers."""

from __future__ import annotations

from resel_mta.config import Settings
from resel_mta.config.maps import MapSet
from resel_mta.content import Header
from resel_mta.routing.address import add_extension, local_name
from resel_mta.routing.rewrite import RECIPIENT_FIELDS, SENDER_FIELDS
from resel_mta.routing.table import RoutingTable
from resel_mta.wire.header_addresses import find_addresses, replace_addresses
from resel_mta.wire.path import split_address

#: Results of results that are looked up (as in Postfix's cleanup(8)).
_MAX_RECURSION = 10


class Canonical:
    """Rewrites addresses by the maps whose class lists name them."""

    def __init__(self, settings: Settings, table: RoutingTable) -> None:
        self._table = table
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """From now on, by these (`table` is reconfigured by its owner)."""
        self._maps: list[tuple[MapSet, frozenset[str]]] = []
        for name in ("sender_canonical", "recipient_canonical", "canonical"):
            maps = self._table.open_maps(settings, f"{name}_maps")
            if maps is not None:
                self._maps.append((maps, frozenset(settings.items(f"{name}_classes"))))
        self._masquerade = [name.lower() for name in settings.items("masquerade_domains")]
        self._masquerade_classes = frozenset(settings.items("masquerade_classes"))
        self._exceptions = frozenset(
            name.lower() for name in settings.items("masquerade_exceptions")
        )
        self._propagate = "canonical" in settings.items("propagate_unmatched_extensions")

    @property
    def is_active(self) -> bool:
        """Whether anything can change at all."""
        return bool(self._maps or self._masquerade)

    async def rewrite(self, address: str, address_class: str) -> str:
        """address_class: "envelope_sender", "envelope_recipient", "header_sender" or
        "header_recipient". Raises TempFail when a map fails."""
        if not address:
            return address
        for maps, classes in self._maps:
            if address_class in classes:
                address = await self._mapped(maps, address)
        if self._masquerade and address_class in self._masquerade_classes:
            address = self._masqueraded(address)
        return address

    async def _mapped(self, maps: MapSet, address: str) -> str:
        rules = self._table.rules
        for _ in range(_MAX_RECURSION):
            found = await self._table.find(maps, address, await self._table.classify(address))
            if found is None:
                return address
            new, extension = found
            if new.startswith("@"):
                new = split_address(address)[0] + new
            elif extension and self._propagate:
                new = add_extension(new, extension)
            new = rules.qualify(new)
            if new == address:
                return address
            address = new
        return address

    def _masqueraded(self, address: str) -> str:
        """Subdomains cut off, by the first entry that fits; "!domain" keeps its subdomains."""
        local, domain = split_address(address)
        if local_name(address).lower() in self._exceptions:
            return address
        lower = domain.lower()
        for entry in self._masquerade:
            parent = entry.lstrip("!")
            if lower == parent:
                return address
            if lower.endswith(f".{parent}"):
                return address if entry.startswith("!") else f"{local}@{parent}"
        return address

    async def rewrite_header(self, header: Header) -> None:
        """Every address of the fields that name senders or recipients."""
        fields = []
        changed = False
        for name, field in header.fields():
            folded = name.lower()
            if folded in SENDER_FIELDS or folded in RECIPIENT_FIELDS:
                kind = "header_sender" if folded in SENDER_FIELDS else "header_recipient"
                label, colon, value = field.partition(b":")
                new = await self._rewrite_value(value, kind)
                if new is not value:
                    field = label + colon + new
                    changed = True
            fields.append((name, field))
        if changed:
            header.replace(fields)

    async def _rewrite_value(self, value: bytes, address_class: str) -> bytes:
        changes = []
        for span in find_addresses(value):
            old = value[span.start : span.end].decode("utf-8", "surrogateescape")
            new = await self.rewrite(old, address_class)
            if new != old:
                changes.append((span, new.encode("utf-8", "surrogateescape")))
        return replace_addresses(value, changes) if changes else value
