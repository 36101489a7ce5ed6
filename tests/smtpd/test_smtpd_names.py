"""Names of clients: PTR, and back again; bounded, remembered, and in the access rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from demo.dns_server import DnsServer
from resel_mta.mail import Reply, TempFail
from resel_mta.resolving import name_finder
from resel_mta.smtpd.names import ClientNames, Known, NameFinder
from resel_relay.dns import Resolver

Start = Callable[..., Any]
CLIENT = "127.0.0.2"
PTR = ("2.0.0.127.in-addr.arpa", "PTR")
GOOD = ("good.example", "A")
UNKNOWN = ClientNames()


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    server = DnsServer()
    await server.start()
    yield server
    await server.stop()


def finder(dns: DnsServer, lifetime: float = 1.0) -> NameFinder:
    return name_finder(Resolver([f"127.0.0.1:{dns.port}"], try_timeout=lifetime, lifetime=lifetime))


async def test_a_name_that_leads_back(dns: DnsServer) -> None:
    dns.add(*PTR, "Good.example.")
    dns.add(*GOOD, "192.0.2.1", CLIENT)
    find = finder(dns).find
    assert await find(CLIENT) == ClientNames("Good.example", Known.YES, "Good.example", Known.YES)
    asked = len(dns.queries)
    assert (await find(CLIENT)).name == "Good.example"
    assert len(dns.queries) == asked
    assert (await find("127.0.0.1")).name == (await find("::1")).name == "localhost"
    assert len(dns.queries) == asked


async def test_ipv6(dns: DnsServer) -> None:
    name = "1" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6.arpa"
    dns.add(name, "PTR", "six.example.")
    dns.add("six.example", "AAAA", "2001:DB8:0::1")
    assert (await finder(dns).find("2001:db8::1")).name == "six.example"


async def test_a_name_that_leads_elsewhere(dns: DnsServer) -> None:
    dns.add(*PTR, "good.example.")
    dns.add(*GOOD, "192.0.2.1")
    warning = f"warning: hostname good.example does not resolve to address {CLIENT}"
    assert await finder(dns).find(CLIENT) == ClientNames(
        "unknown", Known.NO, "good.example", Known.YES, warning
    )


async def test_a_name_that_does_not_exist(dns: DnsServer) -> None:
    dns.add(*PTR, "good.example.")
    names = await finder(dns).find(CLIENT)
    assert (names.verified, names.reverse) == (Known.NO, Known.YES)
    assert await finder(dns).find("127.0.0.3") == UNKNOWN


@pytest.mark.parametrize("claimed", ["192.0.2.1.", "a\\032b.example.", "x@y.example.", "1.2."])
async def test_what_is_no_host_name(dns: DnsServer, claimed: str) -> None:
    dns.add(*PTR, claimed)
    assert await finder(dns).find(CLIENT) == UNKNOWN


@pytest.mark.parametrize("failing", [PTR, GOOD])
async def test_a_name_server_that_fails(dns: DnsServer, failing: tuple[str, str]) -> None:
    dns.add(*PTR, "good.example.")
    dns.fail[failing] = "SERVFAIL"
    dns.fail["good.example", "AAAA"] = "SERVFAIL"
    names = await finder(dns).find(CLIENT)
    assert names.verified is Known.LATER
    assert names.reverse is (Known.LATER if failing == PTR else Known.YES)
    assert ("try again" in names.warning) == (failing == GOOD)


async def test_failures_are_not_remembered() -> None:
    answers: list[Sequence[str] | Exception] = [
        TempFail(Reply(450, "4.7.1", "later")),
        ["a.example"],
    ]

    async def pointers(address: str) -> Sequence[str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def addresses(name: str) -> Sequence[str]:
        return [CLIENT]

    found = NameFinder(pointers, addresses)
    assert (await found.find(CLIENT)).verified is Known.LATER
    assert (await found.find(CLIENT)).name == "a.example"
    assert (await found.find(CLIENT)).name == "a.example"
    found.forget()
    with pytest.raises(IndexError):
        await found.find(CLIENT)


async def from_client(server: Any) -> Any:
    return await server.connect(local_addr=(CLIENT, 0))


async def test_the_greeting_waits_a_bounded_time(start: Start) -> None:
    server = await start()

    async def never(text: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    server.service.names = NameFinder(never, never, bound=0.05)
    peer = await from_client(server)
    assert (await asyncio.wait_for(peer.reply(), 5)).startswith("220")
    assert "connect from unknown[127.0.0.2]" in await server.log()


async def test_in_the_log_and_the_received_field(start: Start, dns: DnsServer) -> None:
    dns.add(*PTR, "good.example.")
    dns.add(*GOOD, CLIENT)
    server = await start()
    server.service.names = finder(dns)
    peer = await from_client(server)
    await peer.open()
    await peer.send("Subject: x\r\n\r\nbody\r\n.\r\n")
    assert (await peer.reply()).startswith("250")
    (taken,) = server.intake.taken
    assert b"(good.example [127.0.0.2])\r\n" in taken.origin.received
    assert taken.origin.client_name == "good.example"
    lines = await server.log()
    assert "connect from good.example[127.0.0.2]" in lines
    assert "QID1: client=good.example[127.0.0.2]" in lines


async def test_a_warning_and_a_switch(start: Start, dns: DnsServer) -> None:
    dns.add(*PTR, "good.example.")
    server = await start()
    server.service.names = finder(dns)
    await (await from_client(server)).reply()
    warning = "warning: hostname good.example does not resolve to address 127.0.0.2"
    assert warning in await server.log()
    off = await start(smtpd_peername_lookup="no")
    off.service.names = server.service.names
    await (await from_client(off)).reply()
    assert (await off.log())[0] == "connect from unknown[127.0.0.2]"


@pytest.mark.parametrize(
    ("rule", "zone", "answer"),
    [
        (
            "reject_unknown_client_hostname",
            {PTR: ["good.example."], GOOD: [CLIENT]},
            "250 2.1.5 Ok",
        ),
        (
            "reject_unknown_client_hostname",
            {PTR: ["good.example."]},
            "550 5.7.1 Client host rejected: cannot find your hostname, [127.0.0.2]",
        ),
        ("reject_unknown_reverse_client_hostname", {PTR: ["good.example."]}, "250 2.1.5 Ok"),
        (
            "reject_unknown_reverse_client_hostname",
            {},
            "550 5.7.1 Client host rejected: cannot find your reverse hostname, [127.0.0.2]",
        ),
        (
            "reject_unknown_reverse_client_hostname",
            None,
            "450 4.7.1 Client host rejected: cannot find your reverse hostname, [127.0.0.2]",
        ),
    ],
)
async def test_rules(
    start: Start, dns: DnsServer, rule: str, zone: dict[Any, list[str]] | None, answer: str
) -> None:
    if zone is None:
        dns.fail["*", "*"] = "SERVFAIL"
        dns.fail[PTR] = "SERVFAIL"
    for key, records in (zone or {}).items():
        dns.add(*key, *records)
    server = await start(smtpd_client_restrictions=rule, unknown_client_reject_code="550")
    server.service.names = finder(dns)
    peer = await from_client(server)
    await peer.hello()
    assert await peer.ask("MAIL FROM:<a@b.example>", "RCPT TO:<lcarr@example.org>") == answer


async def test_networks_by_name(start: Start, dns: DnsServer) -> None:
    """A client whose verified name is in mynetworks is trusted like one by its address."""
    dns.add(*PTR, "good.example.")
    dns.add(*GOOD, CLIENT)
    server = await start(mynetworks="10.0.0.0/8, .example")
    server.service.names = finder(dns)
    peer = await from_client(server)
    await peer.hello()
    answer = await peer.ask("MAIL FROM:<a@b.example>", "RCPT TO:<x@other.example>")
    assert answer == "250 2.1.5 Ok"
