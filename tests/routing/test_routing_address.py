"""Completing and splitting addresses."""

from __future__ import annotations

import pytest

from resel_mta.config import Settings
from resel_mta.routing.address import AddressRules, address_key, domain_forms, domain_key


def rules(**values: str) -> AddressRules:
    defaults = {"myhostname": "vm.adm.resel.fr", "myorigin": "resel.fr", "mydomain": "adm.resel.fr"}
    return AddressRules(Settings.build(**defaults, **values))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("root", "root@resel.fr"),
        ("", ""),
        ("a@b.org", "a@b.org"),
        ("a@b.org.", "a@b.org"),
        ("a@host", "a@host"),
        ("site!user", "user@site"),
        ("a!b!user", "b!user@a"),
        ("user%b.org", "user@b.org"),
        ("user%b.org@c.org", "user%b.org@c.org"),
        ('"a@b"', '"a@b"@resel.fr'),
        ('"a@b.org"@c.org', '"a@b.org"@c.org'),
        ("a@[192.0.2.1]", "a@[192.0.2.1]"),
    ],
)
def test_qualify(before: str, after: str) -> None:
    assert rules().qualify(before) == after


def test_append_dot_mydomain() -> None:
    assert rules(append_dot_mydomain="yes").qualify("a@host") == "a@host.adm.resel.fr"
    assert rules(append_at_myorigin="no").qualify("root") == "root"


@pytest.mark.parametrize(
    ("local", "parts"),
    [
        ("bob+lists", ("bob", "+lists")),
        ("bob-x+y", ("bob", "-x+y")),
        ("+bob", ("+bob", "")),
        ("bob", ("bob", "")),
        ("owner-list", ("owner-list", "")),
        ("list-request", ("list-request", "")),
        ("Double-Bounce", ("Double-Bounce", "")),
    ],
)
def test_split_extension(local: str, parts: tuple[str, str]) -> None:
    assert rules(recipient_delimiter="+-").split_extension(local) == parts
    assert rules().split_extension(local) == (local, "")


def test_owner_request_special() -> None:
    plain = rules(recipient_delimiter="-", owner_request_special="no")
    assert plain.split_extension("owner-list") == ("owner", "-list")


def test_domains_compare_as_a_labels() -> None:
    assert domain_key("ReSel.FR.") == "resel.fr"
    assert domain_key("BÜCHER.example") == "xn--bcher-kva.example"
    assert domain_forms("xn--bcher-kva.example")[1] == "bücher.example"
    assert address_key("Ann@BÜCHER.example") == "ann@xn--bcher-kva.example"
    assert domain_key("\ud800.x") == "\ud800.x"
