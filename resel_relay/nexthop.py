"""From a next hop's text to the hosts to try, in order (RFC 5321 §5.1, RFC 7505).

====================  =====================================================
``domain[:port]``     MX look-up; the domain's own addresses if it has none
``[host][:port]``     no MX look-up
``[192.0.2.1]``, ``[ipv6:2001:db8::1]:25``  no look-up at all
``inet:host:port``, ``unix:/path``          LMTP; no MX look-up
====================  =====================================================

Several, separated by commas or spaces, are tried one after the other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resel_mta.mail import PermFail, Reply, TempFail
from resel_mta.wire.destination import Destination, parse_destination
from resel_relay.dns import MX, DnsError, HostNotFound, NoData, Resolver, TryAgain
from resel_relay.parameters import Parameters

# An exchanger list longer than this is an attack on our resolver, not a mail set-up.
MAX_EXCHANGERS = 50


@dataclass(frozen=True, slots=True)
class Target:
    """One address to connect to. For a unix socket address is its path and port is 0."""

    host: str
    address: str
    port: int
    preference: int = 0

    @property
    def name(self) -> str:
        """ "mx.example.org[192.0.2.1]" """
        return f"{self.host}[{self.address}]"

    @property
    def relay(self) -> str:
        """As relay= in the log: "mx.example.org[192.0.2.1]:25"."""
        return f"{self.host}[{self.address}]:{self.port}" if self.port else self.name


def parse_nexthop(text: str, parameters: Parameters) -> list[Destination]:
    """The destinations that a next hop names. Raises TempFail (4.3.5) for one that makes no sense:
    it was written by an administrator, who can mend it."""
    words = text.replace(",", " ").split()
    try:
        found = [_parse(word, parameters) for word in words]
    except ValueError as error:
        raise TempFail(Reply(451, "4.3.5", f"bad next hop {text!r}: {error}")) from None
    if not found:
        raise TempFail(Reply(451, "4.3.5", "no next hop given"))
    return found


def _parse(word: str, parameters: Parameters) -> Destination:
    found = parse_destination(word)
    if found.path:
        return replace(found, host=parameters.myhostname)
    use_mx = found.use_mx and parameters.protocol == "smtp"
    return replace(found, port=found.port or parameters.tcp_port, use_mx=use_mx)


class NextHops:
    """Finds the hosts of destinations."""

    def __init__(self, resolver: Resolver, parameters: Parameters) -> None:
        self._resolver = resolver
        self._parameters = parameters

    async def targets(self, destination: Destination) -> list[Target]:
        """The addresses to try, best first, no more than smtp_mx_address_limit.

        Raises TempFail, or PermFail where the domain says that it takes no mail, does not exist,
        or leads back here. Whether that may bounce mail is for the caller, who knows whose
        domain it is.
        """
        if destination.path:
            return [Target(destination.host, destination.path, 0)]
        exchangers: list[MX] = []
        if destination.use_mx:
            exchangers = await self._exchangers(destination.host)
        try:
            if exchangers:
                found = await self._of_exchangers(destination, exchangers)
            else:
                found = await self._of_host(destination)
        except DnsError as error:
            raise _failure(error) from None
        return self._limited(self._ordered(found))

    async def _exchangers(self, domain: str) -> list[MX]:
        """The domain's MX records; none where its addresses are to be used."""
        try:
            records = await self._resolver.mx(domain)
        except NoData:
            return []
        except TryAgain as error:
            if self._parameters.ignore_mx_lookup_error:
                return []
            raise _failure(error) from None
        except HostNotFound as error:
            raise _failure(error) from None
        named = [mx for mx in records if mx.host]
        if not named:
            raise PermFail(Reply(556, "5.1.10", f"Domain {domain} does not accept mail (nullMX)"))
        return named[:MAX_EXCHANGERS]

    async def _of_host(self, destination: Destination) -> list[Target]:
        addresses = await self._resolver.addresses(destination.host)
        if any(self._is_own(address, destination.port) for address in addresses):
            raise _loop(destination.host)
        return [Target(destination.host, a, destination.port) for a in addresses]

    async def _of_exchangers(
        self, destination: Destination, exchangers: Sequence[MX]
    ) -> list[Target]:
        """All addresses of all exchangers better than this server itself."""
        results = await asyncio.gather(
            *(self._resolver.addresses(mx.host) for mx in exchangers), return_exceptions=True
        )
        own: int | None = None
        found: list[Target] = []
        errors: list[DnsError] = []
        for mx, result in zip(exchangers, results, strict=True):
            if isinstance(result, DnsError):
                errors.append(result)
                # Our own name counts, even where the DNS has lost its address.
                result = []
            elif isinstance(result, BaseException):
                raise result
            if self._is_self(mx, result, destination.port) and (own is None or mx.preference < own):
                own = mx.preference
            found += [Target(mx.host, a, destination.port, mx.preference) for a in result]
        if own is not None:
            found = [target for target in found if target.preference < own]
        if found:
            return found
        temporary = [error for error in errors if isinstance(error, TryAgain)]
        if own is not None and not temporary:
            raise _loop(destination.host)
        raise (temporary or errors)[0]

    def _is_self(self, mx: MX, addresses: Sequence[str], port: int) -> bool:
        parameters = self._parameters
        if mx.host == parameters.myhostname.lower() and port == parameters.tcp_port:
            return True
        return any(self._is_own(address, port) for address in addresses)

    def _is_own(self, address: str, port: int) -> bool:
        # A server may well hand mail to itself by LMTP: another listener, another step.
        return self._parameters.protocol == "smtp" and self._parameters.is_own_address(
            address, port
        )

    def _ordered(self, targets: list[Target]) -> list[Target]:
        parameters = self._parameters
        if parameters.randomize_addresses:
            random.shuffle(targets)
        wanted = parameters.address_preference
        if wanted == "any":
            return sorted(targets, key=lambda t: t.preference)
        return sorted(
            targets, key=lambda t: (t.preference, (":" in t.address) != (wanted == "ipv6"))
        )

    def _limited(self, targets: list[Target]) -> list[Target]:
        """The first ones, with both protocols among them (smtp_balance_inet_protocols)."""
        limit = self._parameters.mx_address_limit
        if not limit or len(targets) <= limit:
            return targets
        kept = targets[:limit]
        if limit > 1 and len({":" in target.address for target in kept}) == 1:
            rest = [t for t in targets[limit:] if (":" in t.address) != (":" in kept[0].address)]
            kept[-1:] = rest[:1] or kept[-1:]
        return kept


def _loop(domain: str) -> PermFail:
    return PermFail(Reply(554, "5.4.6", f"mail for {domain} loops back to myself"))


def _failure(error: DnsError) -> TempFail | PermFail:
    if isinstance(error, TryAgain):
        return TempFail(Reply(451, "4.4.3", str(error)))
    return PermFail(Reply(550, "5.4.4", str(error)))
