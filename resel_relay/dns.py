"""Name look-ups for outgoing mail: dnspython's asynchronous resolver behind a TTL cache.

Three failures are told apart, since they decide what becomes of mail: `HostNotFound` (NXDOMAIN),
`NoData` (the name exists without that type) and `TryAgain` (time-out, SERVFAIL, no server).
Equal look-ups in flight are joined, so that a dead name server costs each name one wait, and
other names are not held up by it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdtypes.ANY.MX
import dns.resolver
import dns.reversename
import idna

RESOLV_CONF = "/etc/resolv.conf"
CACHE_SIZE = 10_000
MAX_TTL = 86_400
MAX_NEGATIVE_TTL = 3_600
# A server that fails is asked again soon, but not once per message of a burst.
TEMPORARY_TTL = 2
# One try of one server, and all tries together, in seconds.
TRY_TIMEOUT = 2.0
LIFETIME = 8.0


class DnsError(Exception):
    """A look-up that gave nothing. str() is Postfix's wording, as an operator greps for it."""

    reason = ""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        super().__init__(
            f"Host or domain name not found. Name service error for name={name} "
            f"type={kind}: {self.reason}"
        )


class HostNotFound(DnsError):
    """NXDOMAIN: the name does not exist, with any type."""

    reason = "Host not found"


class NoData(DnsError):
    """The name exists, but has no record of this type."""

    reason = "Host found but no data record of requested type"


class TryAgain(DnsError):
    """Time-out, SERVFAIL, or no name server: nothing is known."""

    reason = "Host not found, try again"


class MX(NamedTuple):
    """One mail exchanger; host is in lower case without a final dot, "" for the null MX."""

    preference: int
    host: str


class _Cached(NamedTuple):
    """A look-up's result: records, or the kind of failure."""

    expires: float
    records: tuple[object, ...]
    error: type[DnsError] | None


class Resolver:
    """MX and address look-ups.

    nameservers: "host", "host:port" or "[v6]:port"; empty for those of /etc/resolv.conf, which is
        read again when it changes.
    families: the address families to use, of "ipv4" and "ipv6" (`inet_protocols`).
    native: ask the system (getaddrinfo, so /etc/hosts too) after the DNS found no address
        (`smtp_host_lookup = dns, native`).
    queries: how many questions went to a name server; hits: how many the cache answered.
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        families: Sequence[str] = ("ipv4", "ipv6"),
        native: bool = False,
        cache_size: int = CACHE_SIZE,
        try_timeout: float = TRY_TIMEOUT,
        lifetime: float = LIFETIME,
    ) -> None:
        self.queries = 0
        self.hits = 0
        self._cache_size = cache_size
        self._try_timeout = try_timeout
        self._lifetime = lifetime
        self._cache: dict[tuple[str, str], _Cached] = {}
        self._running: dict[tuple[str, str], asyncio.Task[_Cached]] = {}
        self.use(nameservers, families=families, native=native)

    def use(
        self,
        nameservers: Sequence[str] = (),
        *,
        families: Sequence[str] = ("ipv4", "ipv6"),
        native: bool = False,
    ) -> None:
        """Ask these from now on; what the ones before said is forgotten."""
        servers: list[dns.nameserver.Nameserver] = [_nameserver(text) for text in nameservers]
        self.families = tuple(families)
        self.native = native
        self._servers = servers
        self._system = not nameservers
        self._resolv_stamp = 0
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._cache.clear()

    async def mx(self, domain: str) -> list[MX]:
        """The domain's mail exchangers, best first, equal ones in the server's order.

        Raises HostNotFound, NoData, TryAgain.
        """
        records = cast("tuple[MX, ...]", await self._records(domain, "MX"))
        return sorted(records, key=lambda mx: mx.preference)

    async def pointers(self, address: str) -> list[str]:
        """The names that the DNS gives an IP address (PTR), which prove nothing by themselves.

        Raises HostNotFound, NoData, TryAgain, and ValueError for what is no address.
        """
        name = dns.reversename.from_address(address).to_text(omit_final_dot=True)
        return [str(record).rstrip(".") for record in await self._records(name, "PTR")]

    async def addresses(self, host: str) -> list[str]:
        """The IP addresses of a host in the allowed families, as text.

        IP literals (with or without brackets) and localhost need no look-up. An address of one
        family is enough: failures of the other count only when there is none at all. Raises
        HostNotFound, NoData, TryAgain.
        """
        known = self._literal(host)
        if known is not None:
            return known
        kinds = [
            kind for kind, family in (("A", "ipv4"), ("AAAA", "ipv6")) if family in self.families
        ]
        if len(kinds) == 1:
            results = [await _outcome(self._records(host, kinds[0]))]
        else:
            results = list(await asyncio.gather(*(_outcome(self._records(host, k)) for k in kinds)))
        found = [cast(str, a) for r in results if not isinstance(r, DnsError) for a in r]
        if found:
            return found
        errors = [r for r in results if isinstance(r, DnsError)]
        if self.native:
            found = await self._native(host)
            if found:
                return found
        raise max(errors, key=_weight)

    def forget(self) -> None:
        """Empty the cache (reload)."""
        self._cache.clear()

    async def close(self) -> None:
        """Give up look-ups in flight."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _literal(self, host: str) -> list[str] | None:
        text = host.strip("[]").lower().removeprefix("ipv6:")
        if text == "localhost":
            pairs = (("127.0.0.1", "ipv4"), ("::1", "ipv6"))
            return [address for address, family in pairs if family in self.families]
        if ":" not in text and not text[-1:].isdigit():
            return None
        try:
            return [str(ipaddress.ip_address(text))]
        except ValueError:
            return None

    async def _native(self, host: str) -> list[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, None, proto=6)
        except OSError:
            return []
        texts = dict.fromkeys(str(item[4][0]) for item in found)
        return [t for t in texts if ("ipv6" if ":" in t else "ipv4") in self.families]

    async def _records(self, name: str, kind: str) -> tuple[object, ...]:
        key = (name.rstrip(".").lower(), kind)
        cached = self._cache.get(key)
        if cached is not None and cached.expires > time.monotonic():
            self.hits += 1
        else:
            task = self._running.get(key)
            if task is None:
                task = asyncio.create_task(self._ask(key))
                self._running[key] = task
                task.add_done_callback(lambda _: self._running.pop(key, None))
            # One caller that gives up must not end the look-up of the others.
            cached = await asyncio.shield(task)
        if cached.error is not None:
            raise cached.error(key[0], kind)
        return cached.records

    async def _ask(self, key: tuple[str, str]) -> _Cached:
        cached = await self._query(*key)
        if len(self._cache) >= self._cache_size:
            self._shrink()
        self._cache[key] = cached
        return cached

    def _shrink(self) -> None:
        now = time.monotonic()
        for key in [key for key, cached in self._cache.items() if cached.expires <= now]:
            del self._cache[key]
        while len(self._cache) >= self._cache_size:
            # Nothing has expired: the entry made first goes.
            del self._cache[next(iter(self._cache))]

    async def _query(self, name: str, kind: str) -> _Cached:
        try:
            qname = dns.name.from_text(_to_ascii(name))
        except (dns.exception.DNSException, UnicodeError):
            qname = dns.name.root
        if qname == dns.name.root:
            # No name at all, or none that could exist: nothing to ask.
            return _cached(MAX_NEGATIVE_TTL, HostNotFound)
        self.queries += 1
        try:
            answer = await self._configured().resolve(
                qname, kind, raise_on_no_answer=False, search=False, lifetime=self._lifetime
            )
        except dns.resolver.NXDOMAIN as error:
            chain = cast(Any, error).response(qname).resolve_chaining()
            return _cached(min(chain.minimum_ttl, MAX_NEGATIVE_TTL), HostNotFound)
        except (dns.exception.DNSException, OSError):
            return _cached(TEMPORARY_TTL, TryAgain)
        ttl = answer.chaining_result.minimum_ttl
        if answer.rrset is None:
            return _cached(min(ttl, MAX_NEGATIVE_TTL), NoData)
        records = tuple(_record(rdata) for rdata in answer.rrset)
        return _Cached(time.monotonic() + max(1, min(ttl, MAX_TTL)), records, None)

    def _configured(self) -> dns.asyncresolver.Resolver:
        """dnspython's resolver, made anew when the system's configuration has changed."""
        stamp = self._resolv_stamp
        if self._system:
            try:
                stamp = os.stat(RESOLV_CONF).st_mtime_ns
            except OSError:
                stamp = -1
        if self._resolver is None or stamp != self._resolv_stamp:
            self._resolv_stamp = stamp
            self._resolver = self._make()
        return self._resolver

    def _make(self) -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=False)
        if self._system:
            try:
                resolver.read_resolv_conf(RESOLV_CONF)
            except (OSError, dns.resolver.NoResolverConfiguration):
                # As the C library has it: no file means a server on this machine.
                resolver.nameservers = ["127.0.0.1"]
        else:
            resolver.nameservers = list(self._servers)
        resolver.cache = None
        resolver.timeout = self._try_timeout
        resolver.use_edns(0, 0, 1232)
        return resolver


async def _outcome(look_up: object) -> tuple[object, ...] | DnsError:
    try:
        return await cast("asyncio.Future[tuple[object, ...]]", look_up)
    except DnsError as error:
        return error


def _weight(error: DnsError) -> int:
    """Which of two failures to report: one that may pass, then one that says the name exists."""
    return 2 if isinstance(error, TryAgain) else int(isinstance(error, NoData))


def _cached(ttl: float, error: type[DnsError]) -> _Cached:
    return _Cached(time.monotonic() + ttl, (), error)


def _record(rdata: object) -> object:
    if isinstance(rdata, dns.rdtypes.ANY.MX.MX):
        return MX(rdata.preference, rdata.exchange.to_text(omit_final_dot=True).strip(".").lower())
    return str(rdata)


def _to_ascii(name: str) -> str:
    """An internationalised name in its ASCII form (IDNA 2008). Raises UnicodeError."""
    return name if name.isascii() else idna.encode(name, uts46=True).decode("ascii")


def _nameserver(text: str) -> dns.nameserver.Nameserver:
    """ "host", "host:port", "[v6]:port" or "v6"; host is an address. Raises ValueError."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    return dns.nameserver.Do53Nameserver(str(ipaddress.ip_address(host)), int(port))
