"""Next hops: what is asked, which hosts are tried in which order, and what may bounce."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay_peers import HELLO
from test_relay_session import ONE

from resel_mta.mail import TempFail
from resel_mta.wire.destination import Destination
from resel_relay.nexthop import NextHops, parse_nexthop
from resel_relay.parameters import Parameters

V4 = Parameters(myhostname="me.test", families=("ipv4",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("example.org", [Destination("example.org", 25, True)]),
        ("Example.ORG.:2525", [Destination("example.org", 2525, True)]),
        ("[mx.example.org]", [Destination("mx.example.org", 25, False)]),
        ("[mx.example.org]:submission", [Destination("mx.example.org", 587, False)]),
        ("[192.0.2.1]:26", [Destination("192.0.2.1", 26, False)]),
        ("[::1]:26", [Destination("::1", 26, False)]),
        ("[ipv6:2001:db8::1]", [Destination("2001:db8::1", 25, False)]),
        (
            "[a]:1, b:2 [c]",
            [Destination("a", 1, False), Destination("b", 2, True), Destination("c", 25, False)],
        ),
    ],
)
def test_parse(text, expected):
    assert parse_nexthop(text, V4) == expected


def test_parse_lmtp():
    parameters = Parameters(protocol="lmtp", tcp_port=24, myhostname="me.test")
    assert parse_nexthop("unix:/run/lmtp inet:h:2424 h", parameters) == [
        Destination("me.test", 0, False, "/run/lmtp"),
        Destination("h", 2424, False),
        Destination("h", 24, False),
    ]


@pytest.mark.parametrize(
    "text", ["", " , ", "[a", "a:nonsense", "a:0", "a:70000", "[]", "[a]b", ":25"]
)
def test_parse_nonsense_is_temporary(text):
    with pytest.raises(TempFail) as error:
        parse_nexthop(text, V4)
    assert error.value.reply.enhanced == "4.3.5"


@given(st.text())
def test_parse_any_text(text):
    try:
        assert parse_nexthop(text, V4)
    except TempFail:
        return


async def test_brackets_make_no_mx_query(dns, resolver):
    dns.add("mx.example.org", "A", "192.0.2.1")
    hops = NextHops(resolver, V4)
    (target,) = await hops.targets(Destination("mx.example.org", 25, False))
    assert target.relay == "mx.example.org[192.0.2.1]:25"
    assert dns.queries == [("mx.example.org", "A")]


async def test_preference_order_and_shuffle(dns, resolver):
    dns.add("d.example", "MX", "20 c.example.", "10 a.example.", "10 b.example.")
    for number, name in enumerate("abc"):
        dns.add(f"{name}.example", "A", f"192.0.2.{number}")
    hops = NextHops(resolver, V4)
    seen = set()
    for _ in range(60):
        targets = await hops.targets(Destination("d.example", 25, True))
        assert targets[2].host == "c.example"
        seen.add(targets[0].host)
    assert seen == {"a.example", "b.example"}


async def test_address_limit_keeps_both_protocols(dns):
    from resel_relay.dns import Resolver

    dns.add("d.example", "A", *(f"192.0.2.{n}" for n in range(10)))
    dns.add("d.example", "AAAA", "2001:db8::1")
    both = Resolver([f"127.0.0.1:{dns.port}"])
    hops = NextHops(both, Parameters(myhostname="me.test", address_preference="ipv4"))
    targets = await hops.targets(Destination("d.example", 25, True))
    assert len(targets) == 5
    assert targets[4].address == "2001:db8::1"


async def test_no_mx_falls_back_to_addresses(dns, resolver):
    dns.add("d.example", "A", "192.0.2.1")
    (target,) = await NextHops(resolver, V4).targets(Destination("d.example", 25, True))
    assert target.address == "192.0.2.1"


async def outcome(client, resolver, nexthop, origin="recipient", **parameters):
    one = client(resolver, **parameters)
    (result,) = await one.send(nexthop, origin=origin)
    return result, one.lines.text


async def test_null_mx_bounces(dns, resolver, client):
    dns.add("d.example", "MX", "0 .")
    result, _ = await outcome(client, resolver, "d.example")
    assert (result.status, result.reply.code, result.reply.enhanced) == ("bounced", 556, "5.1.10")


async def test_unknown_domain_bounces_as_recipient_only(dns, resolver, client):
    result, _ = await outcome(client, resolver, "no.example")
    assert (result.status, result.reply.enhanced) == ("bounced", "5.4.4")
    assert result.reply.text == (
        "Host or domain name not found. Name service error for name=no.example type=MX: "
        "Host not found"
    )
    for origin in ("relayhost", "transport_maps"):
        result, log = await outcome(client, resolver, "no.example", origin)
        assert (result.status, result.reply.enhanced) == ("deferred", "4.3.5")
        assert result.host_down
        assert f"warning: {origin}: Host or domain name not found" in log


async def test_bracketed_unknown_relayhost_defers(dns, resolver, client):
    result, _ = await outcome(client, resolver, "[no.example]", "relayhost")
    assert (result.status, result.reply.enhanced) == ("deferred", "4.3.5")


async def test_servfail_is_temporary(dns, resolver, client):
    dns.fail[("d.example", "*")] = "SERVFAIL"
    result, _ = await outcome(client, resolver, "d.example")
    assert (result.status, result.reply.enhanced) == ("deferred", "4.4.3")
    assert result.reply.text.endswith("Host not found, try again")


async def test_mx_servfail_with_ignore_mx_lookup_error(dns, resolver, client, peer):
    server = await peer(HELLO + ONE)
    dns.fail[("d.example", "MX")] = "SERVFAIL"
    dns.add("d.example", "A", "127.0.0.1")
    result, _ = await outcome(
        client, resolver, f"d.example:{server.port}", ignore_mx_lookup_error=True
    )
    assert result.status == "sent"


async def test_best_mx_is_myself(dns, resolver, client):
    dns.add("d.example", "MX", "10 h.example.", "20 backup.example.")
    dns.add("h.example", "A", "127.0.0.1")
    dns.add("backup.example", "A", "127.0.0.2")
    result, _ = await outcome(
        client,
        resolver,
        "d.example:2525",
        is_own_address=lambda ip, port: (ip, port) == ("127.0.0.1", 2525),
    )
    assert (result.status, result.reply.enhanced) == ("bounced", "5.4.6")
    assert result.reply.text == "mail for d.example loops back to myself"


async def test_backup_mx_drops_itself_and_what_is_worse(dns, resolver):
    dns.add("d.example", "MX", "10 a.example.", "20 me.test.", "20 same.example.", "30 c.example.")
    dns.add("a.example", "A", "192.0.2.1")
    dns.add("same.example", "A", "192.0.2.2")
    dns.add("c.example", "A", "192.0.2.3")
    targets = await NextHops(resolver, V4).targets(Destination("d.example", 25, True))
    assert [target.host for target in targets] == ["a.example"]


async def test_loop_of_a_relayhost_defers(dns, resolver, client):
    result, log = await outcome(
        client, resolver, "[127.0.0.1]:2525", "relayhost", is_own_address=lambda ip, port: True
    )
    assert (result.status, result.reply.enhanced) == ("deferred", "4.3.5")
    assert "warning: relayhost: mail for 127.0.0.1 loops back to myself" in log


async def test_mx_without_any_address(dns, resolver, client):
    dns.add("d.example", "MX", "10 gone.example.")
    result, _ = await outcome(client, resolver, "d.example")
    assert (result.status, result.reply.enhanced) == ("bounced", "5.4.4")
    dns.add("e.example", "MX", "10 gone.example.", "20 broken.example.")
    dns.fail[("broken.example", "*")] = "SERVFAIL"
    result, _ = await outcome(client, resolver, "e.example")
    assert (result.status, result.reply.enhanced) == ("deferred", "4.4.3")


async def test_next_mx_when_the_first_is_down(dns, resolver, client, peer):
    server = await peer(HELLO + ONE)
    dns.add("d.example", "MX", "10 down.example.", "20 up.example.")
    dns.add("down.example", "A", "127.0.0.2")
    dns.add("up.example", "A", "127.0.0.1")
    result, log = await outcome(client, resolver, f"d.example:{server.port}")
    assert result.status == "sent"
    assert result.relay == f"up.example[127.0.0.1]:{server.port}"
    assert (
        f"smtp[{_pid(log)}]: connect to down.example[127.0.0.2]:{server.port}: Connection refused"
        in log
    )


async def test_all_down(dns, resolver, client):
    dns.add("d.example", "MX", "10 down.example.")
    dns.add("down.example", "A", "127.0.0.2")
    result, _ = await outcome(client, resolver, "d.example:9")
    assert (result.status, result.reply.enhanced) == ("deferred", "4.4.1")
    assert result.reply.text == "connect to down.example[127.0.0.2]:9: Connection refused"
    assert (result.relay, result.host, result.host_down) == ("none", "", True)


@pytest.mark.parametrize(
    "first",
    [
        "S: 421 4.3.2 busy",
        "S: 554 no",
        "DROP",
        HELLO + "C: MAIL\nC: RCPT\nC: DATA\nS: 451 later\nS: 503 x\nS: 503 x",
        HELLO + "C: MAIL\nC: RCPT\nC: DATA\nS: 250 ok\nS: 450 grey\nS: 503 x",
    ],
)
async def test_next_mx_after_a_temporary_refusal(dns, resolver, client, peer, first):
    """Two peers behind one name: the first connection gets the refusal."""
    server = await peer(first, HELLO + ONE)
    dns.add("d.example", "MX", "10 a.example.", "20 b.example.")
    dns.add("a.example", "A", "127.0.0.1")
    dns.add("b.example", "A", "127.0.0.1")
    result, log = await outcome(client, resolver, f"d.example:{server.port}")
    assert result.status == "sent"
    assert result.host == "b.example"
    assert "4bTest: " in log


async def test_recipients_refused_for_now_go_to_the_next_mx_alone(dns, resolver, client, peer):
    server = await peer(
        HELLO + "C: MAIL\nC: RCPT TO:<a@d.example>\nC: RCPT TO:<b@d.example>\nC: DATA\nS: 250 ok\n"
        "S: 250 ok\nS: 450 4.7.1 grey\nS: 354 go\nC: <content>\nS: 250 2.0.0 first",
        HELLO + "C: MAIL\nC: RCPT TO:<b@d.example>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go\n"
        "C: <content>\nS: 250 2.0.0 second",
    )
    dns.add("d.example", "MX", "10 a.example.", "20 b.example.")
    dns.add("a.example", "A", "127.0.0.1")
    dns.add("b.example", "A", "127.0.0.1")
    one = client(resolver)
    a, b = await one.send(f"d.example:{server.port}", "a@d.example", "b@d.example")
    assert (a.reply.text, b.reply.text) == ("first", "second")


async def test_permanent_refusal_is_not_tried_elsewhere(dns, resolver, client, peer):
    server = await peer(HELLO + "C: MAIL\nC: RCPT\nC: DATA\nS: 250 ok\nS: 550 5.1.1 no\nS: 503 x")
    dns.add("d.example", "MX", "10 a.example.", "20 b.example.")
    dns.add("a.example", "A", "127.0.0.1")
    dns.add("b.example", "A", "127.0.0.1")
    result, _ = await outcome(client, resolver, f"d.example:{server.port}")
    assert result.status == "bounced"
    assert server.sessions == 1


async def test_session_limit(dns, resolver, client, peer):
    server = await peer(HELLO + "C: MAIL\nC: RCPT\nC: DATA\nS: 451 later\nS: 503 x\nS: 503 x")
    dns.add("d.example", "MX", *(f"{n} h{n}.example." for n in range(4)))
    for n in range(4):
        dns.add(f"h{n}.example", "A", "127.0.0.1")
    result, _ = await outcome(client, resolver, f"d.example:{server.port}")
    assert result.status == "deferred"
    assert server.sessions == 2


async def test_hello_refusal_bounces_only_the_recipients_own_domain(dns, resolver, client, peer):
    server = await peer("S: 220 x\nC: EHLO\nS: 550 5.7.1 no\nC: HELO\nS: 550 5.7.1 listed")
    result, _ = await outcome(client, resolver, f"[127.0.0.1]:{server.port}")
    assert result.status == "bounced"
    result, _ = await outcome(client, resolver, f"[127.0.0.1]:{server.port}", "relayhost")
    assert (result.status, result.reply.enhanced) == ("deferred", "4.7.1")


async def test_server_with_our_own_name(resolver, client, peer):
    server = await peer("S: 220 x\nC: EHLO\nS: 250 me.test")
    result, log = await outcome(
        client, resolver, f"[127.0.0.1]:{server.port}", tcp_port=server.port
    )
    assert (result.status, result.reply.enhanced) == ("deferred", "4.4.6")
    assert "replied to HELO/EHLO with my own hostname me.test" in log


async def test_fallback_relay(dns, resolver, client, peer):
    server = await peer(HELLO + ONE)
    result, _ = await outcome(
        client, resolver, "no.example", fallback_relay=(f"[127.0.0.1]:{server.port}",)
    )
    assert result.status == "sent"


async def test_several_relayhosts(dns, resolver, client, peer):
    server = await peer(HELLO + ONE)
    result, _ = await outcome(
        client, resolver, f"[127.0.0.2]:9, [127.0.0.1]:{server.port}", "relayhost"
    )
    assert result.status == "sent"


def _pid(log: str) -> str:
    return log.partition("[")[2].partition("]")[0]
