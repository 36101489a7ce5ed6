"""A small authoritative DNS server for the demo and the tests, on loopback, UDP and TCP.

    server = DnsServer({("resel.fr", "MX"): ["10 toad.resel.fr."], ("toad.resel.fr", "A"): ["127.0.0.1"]})
    await server.start()            # server.port
    server.queries                  # [("resel.fr", "MX"), …] in the order they came
    server.fail[("slow.example", "*")] = "TIMEOUT"
    await server.stop()

As a command it prints one line per query::

    python demo/dns_server.py --listen 127.0.0.1:5353 "resel.fr MX 10 toad.resel.fr." "toad.resel.fr A 127.0.0.1"

Names that are not in the zone are NXDOMAIN, those that exist with other types NODATA; both carry
an SOA whose minimum is `negative_ttl`. CNAMEs are followed inside the zone.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Key = tuple[str, str]
RCODES = {
    "SERVFAIL": dns.rcode.SERVFAIL,
    "NXDOMAIN": dns.rcode.NXDOMAIN,
    "REFUSED": dns.rcode.REFUSED,
}


class DnsServer:
    """Answers from `zone`, a mapping {(name, type): [rdata in zone file text, …]}.

    queries: every (name, type) asked, lower case, in order; a retry counts again.
    fail: {(name, type or "*"): "SERVFAIL" | "NXDOMAIN" | "REFUSED" | "TIMEOUT"}, tried before the zone.
    on_query: called as on_query(name, type, answer) with a word or the rdata, for printing.
    port: the port bound, for UDP and TCP alike.
    """

    def __init__(
        self,
        zone: Mapping[Key, Sequence[str]] | None = None,
        *,
        ttl: int = 300,
        negative_ttl: int = 60,
        on_query: Callable[[str, str, str], None] | None = None,
    ) -> None:
        self.zone: dict[Key, list[str]] = {}
        for (name, kind), rdata in (zone or {}).items():
            self.add(name, kind, *rdata)
        self.fail: dict[Key, str] = {}
        self.queries: list[Key] = []
        self.ttl = ttl
        self.negative_ttl = negative_ttl
        self.on_query = on_query
        self.host = ""
        self.port = 0
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    def add(self, name: str, kind: str, *rdata: str) -> None:
        """Add records to the zone."""
        self.zone.setdefault((_canonical(name), kind.upper()), []).extend(rdata)

    def asked(self, name: str, kind: str) -> int:
        """How often (name, type) was asked."""
        return self.queries.count((_canonical(name), kind.upper()))

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Bind UDP and TCP to one port (0: a free one). Raises OSError."""
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._serve_tcp, host, port)
        self.host = host
        self.port = self._tcp.sockets[0].getsockname()[1]
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=(host, self.port)
        )
        self._udp = transport

    async def stop(self) -> None:
        """Close both sockets."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
            await self._tcp.wait_closed()

    def answer(self, wire: bytes, *, tcp: bool) -> bytes | None:
        """The reply to a query in wire form, or None where there shall be none."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        if not query.question or query.flags & dns.flags.QR:
            return None
        name = _canonical(query.question[0].name.to_text())
        kind = dns.rdatatype.to_text(query.question[0].rdtype)
        self.queries.append((name, kind))
        response = dns.message.make_response(query, recursion_available=True)
        failure = self.fail.get((name, kind)) or self.fail.get((name, "*"))
        if failure is None:
            word = self._look_up(response, name, kind)
        else:
            word = failure
            response.set_rcode(RCODES.get(failure, dns.rcode.NOERROR))
        if self.on_query is not None:
            self.on_query(name, kind, word)
        if failure == "TIMEOUT":
            return None
        return self._to_wire(query, response, tcp)

    def _look_up(self, response: dns.message.Message, name: str, kind: str) -> str:
        """Fill in answer or SOA; what the log says of it."""
        response.flags |= dns.flags.AA
        seen: set[str] = set()
        words: list[str] = []
        while name not in seen:
            seen.add(name)
            alias = self.zone.get((name, "CNAME"))
            found = self.zone.get((name, kind))
            if found or not alias or kind == "CNAME":
                break
            response.answer.append(dns.rrset.from_text(name + ".", self.ttl, "IN", "CNAME", *alias))
            words += alias
            name = _canonical(alias[0])
        found = self.zone.get((name, kind))
        if found:
            response.answer.append(dns.rrset.from_text(name + ".", self.ttl, "IN", kind, *found))
            return ", ".join(words + found)
        soa = f"ns.invalid. hostmaster.invalid. 1 3600 600 86400 {self.negative_ttl}"
        zone = name.rpartition(".")[2] + "."
        response.authority.append(dns.rrset.from_text(zone, self.negative_ttl, "IN", "SOA", soa))
        if any(known == name or known.endswith("." + name) for known, _ in self.zone):
            return "no data"
        response.set_rcode(dns.rcode.NXDOMAIN)
        return "NXDOMAIN"

    def _to_wire(
        self, query: dns.message.Message, response: dns.message.Message, tcp: bool
    ) -> bytes:
        limit = 65535 if tcp else max(512, query.payload if query.edns >= 0 else 512)
        try:
            return response.to_wire(max_size=limit)
        except dns.exception.TooBig:
            response.flags |= dns.flags.TC
            response.answer.clear()
            return response.to_wire(max_size=limit)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                reply = self.answer(await reader.readexactly(length), tcp=True)
                if reply is not None:
                    writer.write(struct.pack("!H", len(reply)) + reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._server.answer(data, tcp=False)
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)


def _canonical(name: str) -> str:
    return name.rstrip(".").lower()


def parse_record(text: str) -> tuple[str, str, str]:
    """ "resel.fr MX 10 toad.resel.fr." as (name, type, rdata). ValueError if it is not like that."""
    words = text.split(None, 2)
    if len(words) != 3:
        raise ValueError(f"not 'name type rdata': {text!r}")
    return words[0], words[1], words[2]


async def _run(options: argparse.Namespace) -> None:
    def show(name: str, kind: str, word: str) -> None:
        print(f"dns: {name} {kind} -> {word}", flush=True)

    server = DnsServer(on_query=show)
    for record in options.record:
        name, kind, rdata = parse_record(record)
        server.add(name, kind, rdata)
    host, _, port = options.listen.rpartition(":")
    await server.start(host, int(port))
    print(f"dns: listening on {host}:{server.port}", flush=True)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()
    await server.stop()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="A small authoritative DNS server for loopback.")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument(
        "record", nargs="*", help='"name type rdata", e.g. "resel.fr MX 10 toad.resel.fr."'
    )
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
