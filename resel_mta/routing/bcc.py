"""always_bcc, sender_bcc_maps, recipient_bcc_maps: copies that nobody is told of."""

from __future__ import annotations

from resel_mta.config import Settings
from resel_mta.config.maps import MapSet
from resel_mta.mail import Envelope, Notify, Recipient
from resel_mta.routing.table import RoutingTable


class AutomaticBcc:
    """Adds recipients to an envelope."""

    def __init__(self, settings: Settings, table: RoutingTable) -> None:
        self._table = table
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """From now on, by these (`table` is reconfigured by its owner)."""
        self._always = settings.text("always_bcc").strip()
        self._sender_maps = self._table.open_maps(settings, "sender_bcc_maps")
        self._recipient_maps = self._table.open_maps(settings, "recipient_bcc_maps")

    @property
    def is_active(self) -> bool:
        """Whether any copy can be wanted at all."""
        return bool(self._always or self._sender_maps or self._recipient_maps)

    async def add(self, envelope: Envelope) -> None:
        """The copies go at the end; an address that is a recipient already gets none.

        Raises TempFail when a map fails.
        """
        wanted = []
        if self._always:
            wanted.append(self._always)
        if self._sender_maps is not None and envelope.reverse_path:
            wanted.append(await self._find(self._sender_maps, envelope.reverse_path))
        if self._recipient_maps is not None:
            for recipient in envelope.recipients:
                wanted.append(await self._find(self._recipient_maps, recipient.address))
        qualify = self._table.rules.qualify
        known = {qualify(recipient.address) for recipient in envelope.recipients}
        for address in map(qualify, wanted):
            if address and address not in known:
                known.add(address)
                envelope.recipients.append(Recipient(address, notify=Notify.NEVER))

    async def _find(self, maps: MapSet, address: str) -> str:
        address = self._table.rules.qualify(address)
        found = await self._table.find(maps, address, await self._table.classify(address))
        return found[0].strip() if found is not None else ""
