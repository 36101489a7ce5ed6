"""The names of clients, from their addresses, as Postfix's smtpd(8) finds them.

An address's PTR name counts only if it leads back to the address, since whoever owns the address
may claim any name. The first name that the DNS gives is the one that counts.
"""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from resel_mta.mail import TempFail

UNKNOWN = "unknown"
#: Seconds that a client waits for its greeting because of its name, at most. What is not known
#: then is often known when it comes again.
BOUND = 0.8
#: Seconds that an answer is kept, and how many.
KEPT_TIME = 60.0
_MOST_KEPT = 10_000

# A number at the end could be taken for an address by whoever reads the name in a list.
_HOST_NAME = re.compile(r"(?=.{1,255}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})\.)*[A-Za-z][\w-]*")
_LOOPBACK = ("127.0.0.1", "::1")


class Known(enum.Enum):
    """Whether a name was found: NO is for good, LATER means that the look-up failed for now."""

    YES = "yes"
    NO = "no"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class ClientNames:
    """name: verified, "unknown" unless `verified` is YES. reverse_name: what the DNS claims,
    "unknown" unless `reverse` is YES. warning: for the log, "" for none."""

    name: str = UNKNOWN
    verified: Known = Known.NO
    reverse_name: str = UNKNOWN
    reverse: Known = Known.NO
    warning: str = ""


#: Gives names (or addresses); none at all where nothing exists. Raises TempFail.
LookUpNames = Callable[[str], Awaitable[Sequence[str]]]


class NameFinder:
    """Finds the names of clients, and remembers them for a while."""

    def __init__(
        self,
        pointers: LookUpNames,
        addresses: LookUpNames,
        *,
        bound: float = BOUND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """pointers: the names of an address. addresses: the addresses of a name."""
        self._pointers = pointers
        self._addresses = addresses
        self._bound = bound
        self._clock = clock
        self._kept: dict[str, tuple[float, ClientNames]] = {}

    async def find(self, address: str) -> ClientNames:
        """Within the bound. Raises nothing."""
        if address in _LOOPBACK:
            return ClientNames("localhost", Known.YES, "localhost", Known.YES)
        kept = self._kept.get(address)
        if kept is not None and kept[0] > self._clock():
            return kept[1]
        try:
            names = await asyncio.wait_for(self._look_up(address), self._bound)
        except TimeoutError:
            return ClientNames(verified=Known.LATER, reverse=Known.LATER)
        if Known.LATER not in (names.verified, names.reverse):
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[address] = self._clock() + KEPT_TIME, names
        return names

    def forget(self) -> None:
        """The name servers have changed."""
        self._kept.clear()

    async def _look_up(self, address: str) -> ClientNames:
        try:
            claimed = await self._pointers(address)
        except TempFail:
            return ClientNames(verified=Known.LATER, reverse=Known.LATER)
        if not claimed or not _HOST_NAME.fullmatch(claimed[0]):
            return ClientNames()
        name = claimed[0]
        does_not = f"warning: hostname {name} does not resolve to address {address}"
        try:
            found = await self._addresses(name)
        except TempFail as failure:
            warning = f"{does_not}: {failure.reply.text}"
            return ClientNames(UNKNOWN, Known.LATER, name, Known.YES, warning)
        wanted = ipaddress.ip_address(address)
        if any(ipaddress.ip_address(text) == wanted for text in found):
            return ClientNames(name, Known.YES, name, Known.YES)
        return ClientNames(UNKNOWN, Known.NO, name, Known.YES, does_not)
