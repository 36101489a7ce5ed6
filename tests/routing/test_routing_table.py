"""Address classes, recipients that exist, and routes."""

from __future__ import annotations

from pathlib import Path

import pytest

from resel_mta.config import Settings
from resel_mta.mail import AddressClass, Reply, Route
from resel_mta.routing import RoutingTable
from resel_mta.users import open_users


def table(tmp_path: Path, **values: str) -> RoutingTable:
    people = tmp_path / "users"
    people.write_text("lcarr:{PLAIN}x\nvera@virtual.example:{PLAIN}x\n")
    defaults = {
        "myhostname": "toad.resel.fr",
        "mydomain": "resel.fr",
        "myorigin": "resel.fr",
        "mydestination": "resel.fr, toad.resel.fr, localhost",
        "passdb": f"passwd-file:{people}",
        "alias_maps": "inline:{postmaster=lcarr}",
        "virtual_alias_maps": "inline:{va.example=x, info@va.example=lcarr, @catch.example=lcarr}",
        "virtual_mailbox_domains": "virtual.example",
        "relay_domains": "relay.example",
        "relay_recipient_maps": "inline:{ok@relay.example=x, @any.relay.example=x}",
        "recipient_delimiter": "+",
    }
    settings = Settings.build(**{**defaults, **values})
    return RoutingTable(settings, open_users(settings))


@pytest.mark.parametrize(
    ("address", "address_class"),
    [
        ("lcarr@ReSeL.fr", AddressClass.LOCAL),
        ("lcarr", AddressClass.LOCAL),
        ("lcarr@resel.fr.", AddressClass.LOCAL),
        ("x@va.example", AddressClass.VIRTUAL_ALIAS),
        ("x@virtual.example", AddressClass.VIRTUAL_MAILBOX),
        ("x@relay.example", AddressClass.RELAY),
        ("x@any.relay.example", AddressClass.RELAY),
        ("x@other.example", AddressClass.DEFAULT),
        ("x@[192.0.2.77]", AddressClass.DEFAULT),
        ('"lcarr@resel.fr"@other.example', AddressClass.DEFAULT),
    ],
)
async def test_classes(tmp_path: Path, address: str, address_class: AddressClass) -> None:
    assert await table(tmp_path).classify(address) is address_class


async def test_own_address_literal(tmp_path: Path) -> None:
    own = table(tmp_path, inet_interfaces="127.0.0.1", smtpd_listen=":25")
    assert await own.classify("root@[127.0.0.1]") is AddressClass.LOCAL
    assert await own.classify("root@[127.0.0.2]") is AddressClass.DEFAULT


async def test_idn_domains_compare(tmp_path: Path) -> None:
    ours = table(tmp_path, mydestination="bücher.example")
    assert await ours.classify("a@xn--bcher-kva.example") is AddressClass.LOCAL
    assert await ours.classify("a@BÜCHER.example") is AddressClass.LOCAL


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("lcarr@resel.fr", None),
        ("LCARR@resel.fr", None),
        ("lcarr+list@resel.fr", None),
        ("postmaster@resel.fr", None),
        ("postmaster", None),
        ("nobody@resel.fr", "local recipient"),
        ("lcarr%other.example@resel.fr", "local recipient"),
        ("info@va.example", None),
        ("info+x@va.example", None),
        ("nobody@va.example", "virtual alias"),
        ("vera@virtual.example", None),
        ("lcarr@virtual.example", "virtual mailbox"),
        ("ok@relay.example", None),
        ("no@relay.example", "relay recipient"),
        ("all@any.relay.example", None),
        ("anyone@other.example", None),
        ("anyone@catch.example", None),
    ],
)
async def test_recipients(tmp_path: Path, address: str, where: str | None) -> None:
    reply = await table(tmp_path).check_recipient(address)
    expected = None
    if where:
        text = f"<{address}>: Recipient address rejected: User unknown in {where} table"
        expected = Reply(550, "5.1.1", text)
    assert reply == expected


async def test_recipient_parameters(tmp_path: Path) -> None:
    soft = table(
        tmp_path, unknown_local_recipient_reject_code="450", show_user_unknown_table_name="no"
    )
    reply = await soft.check_recipient("nobody@resel.fr")
    assert reply == Reply(
        450, "4.1.1", "<nobody@resel.fr>: Recipient address rejected: User unknown"
    )
    open_door = table(tmp_path, local_recipient_maps="", relay_recipient_maps="")
    assert await open_door.check_recipient("nobody@resel.fr") is None
    assert await open_door.check_recipient("no@relay.example") is None
    listed = table(tmp_path, local_recipient_maps="inline:{dora=x}")
    assert await listed.check_recipient("dora@resel.fr") is None
    assert await listed.check_recipient("lcarr@resel.fr")
    aliases = table(tmp_path, local_recipient_maps="$alias_maps")
    assert await aliases.check_recipient("postmaster@resel.fr") is None
    assert await aliases.check_recipient("lcarr@resel.fr")


@pytest.mark.parametrize(
    ("address", "route"),
    [
        ("lcarr@resel.fr", Route("local", "toad.resel.fr")),
        ("vera@virtual.example", Route("virtual", "virtual.example")),
        ("ok@relay.example", Route("relay", "relay.example")),
        ("a@Other.example", Route("smtp", "Other.example")),
        ("a@[192.0.2.1]", Route("smtp", "[192.0.2.1]")),
        ("no@va.example", Route("error", "5.1.1 User unknown in virtual alias table")),
        ("postmaster@resel.fr", Route("expand", "resel.fr")),
        ("info@va.example", Route("expand", "va.example")),
    ],
)
async def test_routes(tmp_path: Path, address: str, route: Route) -> None:
    assert await table(tmp_path).route(address) == route


async def test_followed_aliases_are_not_followed_again(tmp_path: Path) -> None:
    ours = table(tmp_path)
    local = Route("local", "toad.resel.fr")
    assert await ours.route("postmaster@resel.fr", via=("postmaster",)) == local
    error = Route("error", "5.1.1 User unknown in virtual alias table")
    assert await ours.route("info@va.example", via=("info@va.example",)) == error


async def test_relayhost(tmp_path: Path) -> None:
    ours = table(tmp_path, relayhost="[pegase.adm.resel.fr]:2525")
    relayhost = "[pegase.adm.resel.fr]:2525"
    assert await ours.route("a@other.example") == Route("smtp", relayhost, "relayhost")
    assert await ours.route("ok@relay.example") == Route("relay", relayhost, "relayhost")
    assert (await ours.route("lcarr@resel.fr")).transport == "local"
    fixed = table(tmp_path, relayhost="x.example", default_transport="smtp:[y.example]")
    assert await fixed.route("a@b.example") == Route("smtp", "[y.example]", "transport_maps")


@pytest.mark.parametrize(
    ("address", "route"),
    [
        ("user+x@t.example", Route("lmtp", "[one]:24", "transport_maps")),
        ("user+y@t.example", Route("lmtp", "[two]:24", "transport_maps")),
        ("other@t.example", Route("smtp", "[three]", "transport_maps")),
        ("a@sub.t.example", Route("smtp", "[four]", "transport_maps")),
        ("a@deep.sub.t.example", Route("smtp", "[four]", "transport_maps")),
        ("a@plain.example", Route("relay", "plain.example")),
        ("a@same.example", Route("smtp", "[hub]", "relayhost")),
        ("a@gone.example", Route("error", "5.7.1 no mail: go away", "transport_maps")),
        ("a@star.example", Route("smtp", "[star]", "transport_maps")),
        ("lcarr@resel.fr", Route("lmtp", "unix:/run/lmtp", "transport_maps")),
    ],
)
async def test_transport_maps(tmp_path: Path, address: str, route: Route) -> None:
    maps = tmp_path / "transport"
    maps.write_text(
        "user+x@t.example lmtp:[one]:24\nuser@t.example lmtp:[two]:24\nt.example :[three]\n"
        ".t.example smtp:[four]\nplain.example relay:\nsame.example :\n"
        "gone.example error:5.7.1 no mail: go away\n* smtp:[star]\n"
        "resel.fr lmtp:unix:/run/lmtp\n"
    )
    ours = table(tmp_path, transport_maps=f"texthash:{maps}", relayhost="[hub]")
    assert await ours.route(address) == route


@pytest.mark.parametrize(
    ("address", "values", "alike"),
    [
        ("x@other.example", {"virtual_alias_maps": ""}, True),
        ("x@other.example", {}, False),
        (
            "x@other.example",
            {"virtual_alias_maps": "", "transport_maps": "inline:{a=smtp:}"},
            False,
        ),
        ("lcarr@resel.fr", {"virtual_alias_maps": ""}, False),
        ("lcarr@resel.fr", {"virtual_alias_maps": "", "alias_maps": ""}, True),
    ],
)
async def test_routes_of_a_whole_domain(
    tmp_path: Path, address: str, values: dict[str, str], alike: bool
) -> None:
    """Only where nothing looks at the local part."""
    assert (await table(tmp_path, **values).route(address)).alike is alike


@pytest.mark.parametrize(
    ("values", "known"),
    [
        ({"virtual_alias_maps": ""}, True),
        ({"virtual_alias_maps": "", "relayhost": "[hub]"}, True),
        ({}, False),
        ({"virtual_alias_maps": "", "transport_maps": "inline:{a=smtp:}"}, False),
        ({"virtual_alias_maps": "", "relay_domains": "inline:{a.example=x}"}, False),
    ],
)
async def test_routes_that_are_remembered(
    tmp_path: Path, values: dict[str, str], known: bool
) -> None:
    """Of a whole domain, and only where no table can answer otherwise the next time."""
    ours = table(tmp_path, **values)
    assert ours.known_route("x@other.example") is None
    route = await ours.route("x@other.example")
    assert ours.known_route("y@other.example") == (route if known else None)
    assert ours.known_route("other.example") is None
    assert ours.known_route('"y@other.example') is None
    assert ours.known_route("y@another.example") is None
    ours.reconfigure(ours.settings)
    assert ours.known_route("x@other.example") is None


async def test_routes_of_this_hosts_addresses_are_not_remembered(tmp_path: Path) -> None:
    ours = table(tmp_path, virtual_alias_maps="", alias_maps="")
    assert await ours.route("x@[192.0.2.77]")
    assert ours.known_route("x@[192.0.2.77]") is None
