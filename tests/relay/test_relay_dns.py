"""The resolver against a real DNS server on loopback."""

from __future__ import annotations

import asyncio

import pytest

from resel_relay.dns import MX, HostNotFound, NoData, Resolver, TryAgain


async def test_mx_sorted_by_preference_and_normalised(dns, resolver):
    dns.add("example.org", "MX", "20 b.example.org.", "10 A.Example.org.")
    assert await resolver.mx("Example.ORG.") == [MX(10, "a.example.org"), MX(20, "b.example.org")]


async def test_null_mx(dns, resolver):
    dns.add("example.org", "MX", "0 .")
    assert await resolver.mx("example.org") == [MX(0, "")]


async def test_the_three_failures(dns, resolver):
    dns.add("example.org", "A", "192.0.2.1")
    dns.fail[("broken.example", "*")] = "SERVFAIL"
    dns.fail[("silent.example", "*")] = "TIMEOUT"
    with pytest.raises(NoData):
        await resolver.mx("example.org")
    with pytest.raises(HostNotFound) as error:
        await resolver.mx("no.example")
    assert str(error.value) == (
        "Host or domain name not found. Name service error for name=no.example type=MX: "
        "Host not found"
    )
    for name in ("broken.example", "silent.example"):
        with pytest.raises(TryAgain):
            await resolver.mx(name)


async def test_no_server_at_all_is_temporary():
    lonely = Resolver(["127.0.0.1:9"], try_timeout=0.1, lifetime=0.2)
    with pytest.raises(TryAgain):
        await lonely.addresses("example.org")


async def test_equal_lookups_in_flight_are_joined(dns, resolver):
    dns.add("example.org", "MX", "10 a.example.org.")
    await asyncio.gather(*(resolver.mx("example.org") for _ in range(50)))
    assert dns.asked("example.org", "MX") == 1
    assert resolver.queries == 1


async def test_one_caller_that_gives_up_does_not_end_the_others(dns, resolver):
    dns.add("example.org", "MX", "10 a.example.org.")
    first = asyncio.create_task(resolver.mx("example.org"))
    second = asyncio.create_task(resolver.mx("example.org"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == [MX(10, "a.example.org")]
    assert first.cancelled()


async def test_cache_holds_for_the_ttl(dns, resolver, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("resel_relay.dns.time.monotonic", lambda: now)
    dns.ttl = 60
    dns.add("example.org", "MX", "10 a.example.org.")
    await resolver.mx("example.org")
    now += 59
    await resolver.mx("example.org")
    assert (dns.asked("example.org", "MX"), resolver.hits) == (1, 1)
    now += 2
    await resolver.mx("example.org")
    assert dns.asked("example.org", "MX") == 2


async def test_negative_answers_live_as_long_as_the_soa_says(dns, resolver, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("resel_relay.dns.time.monotonic", lambda: now)
    dns.negative_ttl = 30
    for wait, asked in ((0, 1), (29, 1), (2, 2)):
        now += wait
        with pytest.raises(HostNotFound):
            await resolver.mx("no.example")
        assert dns.asked("no.example", "MX") == asked


async def test_temporary_failures_are_forgotten_soon(dns, resolver, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("resel_relay.dns.time.monotonic", lambda: now)
    dns.fail[("example.org", "MX")] = "SERVFAIL"
    with pytest.raises(TryAgain):
        await resolver.mx("example.org")
    dns.fail.clear()
    dns.add("example.org", "MX", "10 a.example.org.")
    now += 3
    assert await resolver.mx("example.org")


async def test_cache_is_bounded(dns):
    small = Resolver([f"127.0.0.1:{dns.port}"], cache_size=3)
    for number in range(10):
        dns.add(f"h{number}.example", "MX", "1 x.example.")
        await small.mx(f"h{number}.example")
    await small.mx("h9.example")
    assert len(small._cache) == 3
    assert small.hits == 1


async def test_a_silent_name_does_not_hold_up_others(dns, resolver):
    dns.fail[("silent.example", "*")] = "TIMEOUT"
    dns.add("example.org", "MX", "10 a.example.org.")
    slow = asyncio.create_task(resolver.mx("silent.example"))
    await asyncio.sleep(0)
    await resolver.mx("example.org")
    assert not slow.done()
    with pytest.raises(TryAgain):
        await slow


async def test_addresses_of_both_families(dns):
    dns.add("h.example", "A", "192.0.2.1")
    dns.add("h.example", "AAAA", "2001:db8::1")
    dns.add("six.example", "AAAA", "2001:db8::6")
    dns.fail[("half.example", "AAAA")] = "SERVFAIL"
    dns.add("half.example", "A", "192.0.2.2")
    both = Resolver([f"127.0.0.1:{dns.port}"])
    assert await both.addresses("h.example") == ["192.0.2.1", "2001:db8::1"]
    assert await both.addresses("six.example") == ["2001:db8::6"]
    assert await both.addresses("half.example") == ["192.0.2.2"]
    with pytest.raises(HostNotFound):
        await both.addresses("no.example")


async def test_one_family_asks_for_nothing_else(dns, resolver):
    dns.add("h.example", "A", "192.0.2.1")
    await resolver.addresses("h.example")
    assert dns.queries == [("h.example", "A")]


async def test_cname_is_followed(dns, resolver):
    dns.add("w.example", "CNAME", "h.example.")
    dns.add("h.example", "A", "192.0.2.1")
    assert await resolver.addresses("w.example") == ["192.0.2.1"]


async def test_large_answer_comes_by_tcp(dns, resolver):
    exchangers = [f"{n} exchanger-with-a-long-name-{n}.example." for n in range(80)]
    dns.add("big.example", "MX", *exchangers)
    assert len(await resolver.mx("big.example")) == 80


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.7", ["192.0.2.7"]),
        ("[192.0.2.7]", ["192.0.2.7"]),
        ("2001:DB8::1", ["2001:db8::1"]),
        ("IPv6:2001:db8::1", ["2001:db8::1"]),
        ("localhost", ["127.0.0.1"]),
    ],
)
async def test_literals_need_no_query(dns, resolver, host, expected):
    assert await resolver.addresses(host) == expected
    assert dns.queries == []


async def test_internationalised_names_are_asked_in_ascii(dns, resolver):
    dns.add("xn--bcher-kva.example", "MX", "10 a.example.")
    assert await resolver.mx("bücher.example") == [MX(10, "a.example")]


@pytest.mark.parametrize("name", ["a" * 70 + ".example", "..", "a..b", "x." * 200])
async def test_impossible_names_do_not_exist(dns, resolver, name):
    with pytest.raises(HostNotFound):
        await resolver.mx(name)
    assert dns.queries == []


async def test_second_server_answers_for_a_dead_first(dns):
    dns.add("example.org", "MX", "10 a.example.org.")
    pair = Resolver(["127.0.0.1:9", f"127.0.0.1:{dns.port}"], try_timeout=0.1)
    assert await pair.mx("example.org")


async def test_native_look_up_comes_second(dns):
    native = Resolver([f"127.0.0.1:{dns.port}"], families=("ipv4",), native=True)
    native._native = _hosts_file  # type: ignore[method-assign]
    assert await native.addresses("in-hosts.example") == ["192.0.2.9"]
    with pytest.raises(HostNotFound):
        await native.addresses("other.example")


async def _hosts_file(host: str) -> list[str]:
    return ["192.0.2.9"] if host == "in-hosts.example" else []


def test_forms_of_name_servers():
    made = Resolver(["127.0.0.1", "127.0.0.1:5353", "[::1]:54", "::1"])
    assert [str(server) for server in made._servers] == [
        "Do53:127.0.0.1@53",
        "Do53:127.0.0.1@5353",
        "Do53:::1@54",
        "Do53:::1@53",
    ]
    with pytest.raises(ValueError, match="not-an-address"):
        Resolver(["not-an-address"])


async def test_other_servers_after_a_reload(dns, resolver):
    dns.add("example.org", "MX", "10 a.example.org.")
    assert await resolver.mx("example.org") == [MX(10, "a.example.org")]
    resolver.use(["127.0.0.1:9"])
    task = asyncio.create_task(resolver.mx("example.org"))
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    assert dns.asked("example.org", "MX") == 1
