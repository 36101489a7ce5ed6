"""Paths, parameters and xtext."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.wire import path, xtext


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("<>", ""),
        ("<a@b.example>", "a@b.example"),
        ("a@b.example", "a@b.example"),
        ("<user>", "user"),
        ("<@one.example,@two.example:a@b.example>", "a@b.example"),
        ('<"a"@b.example>', "a@b.example"),
        ('<"\\a"@b.example>', "a@b.example"),
        ('<"a b"@b.example>', '"a b"@b.example'),
        ('<"user@other"@b.example>', '"user@other"@b.example'),
        ('<"a\\"b"@b.example>', '"a\\"b"@b.example'),
        ("<a..b@c.example>", '"a..b"@c.example'),
        ("<user%other@b.example>", "user%other@b.example"),
        ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"),
        ("<été@exemple.example>", "été@exemple.example"),
        ("<a_b@under_score.example>", "a_b@under_score.example"),
    ],
)
def test_paths(text: str, address: str) -> None:
    assert path.parse_path(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "<a@b@c.example>",
        "<a@>",
        "<@b.example>",
        "<a b@c.example>",
        "<a@b.example",
        "<a@b..example>",
        "<a@-b.example>",
        "<a@b.example>>",
        '<"a@b.example>',
        "<a\x00@b.example>",
        "<a@b.example\r\n>",
        '<"a\nb"@c.example>',
        "<" + "a" * 600 + "@b.example>",
        "<a@" + "b" * 300 + ">",
        "a@b.example;c",
    ],
)
def test_bad_paths(text: str) -> None:
    with pytest.raises(path.PathError):
        path.parse_path(text)


def test_command() -> None:
    assert path.parse_command("FROM:<a@b.example> SIZE=10 body=8BITMIME SMTPUTF8", "FROM:") == (
        "a@b.example",
        {"SIZE": "10", "BODY": "8BITMIME", "SMTPUTF8": ""},
    )
    assert path.parse_command("to: a@b.example", "TO:") == ("a@b.example", {})
    assert path.parse_command('TO:<"a> b"@c.example> NOTIFY=NEVER', "TO:") == (
        '"a> b"@c.example',
        {"NOTIFY": "NEVER"},
    )
    for bad in ("TO:<a@b.example>", "FROM <a@b.example>"):
        with pytest.raises(path.PathError, match=r"^$"):
            path.parse_command(bad, "FROM:")
    for bad in (
        "FROM:<a@b.example>SIZE=1",
        "FROM:<a@b.example> SIZE=1 SIZE=2",
        "FROM:",
        "FROM:<a@b.example> A=b=c",
        "FROM:<a@b.example> =b",
        "FROM:<a@b.example> A=",
    ):
        with pytest.raises(path.PathError, match=r"."):
            path.parse_command(bad, "FROM:")


@pytest.mark.parametrize(
    ("address", "routed"),
    [
        ("a@b.example", False),
        ("user%other@b.example", True),
        ("other!user@b.example", True),
        ('"user@other"@b.example', True),
        ('"a\\@b"@c.example', True),
        ('"a b"@c.example', False),
        ("user", False),
    ],
)
def test_routed(address: str, routed: bool) -> None:
    assert path.is_routed(address) is routed


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40))
def test_quoting_and_parsing_are_inverse(local: str) -> None:
    address = f"{path.quote_local(local)}@b.example"
    assert path.parse_path(f"<{address}>") == address
    written, domain = path.split_address(address)
    assert (path.unquote_local(written), domain) == (local, "b.example")


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_path_error(text: str) -> None:
    try:
        address = path.parse_path(text)
    except path.PathError:
        return
    assert "\r" not in address
    assert "\n" not in address
    assert address == "" or path.parse_address(address) == address


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_xtext_round_trip(text: str) -> None:
    encoded = xtext.encode(text)
    assert xtext.is_valid(encoded)
    assert encoded.isascii()
    assert xtext.decode(encoded) == text


def test_xtext() -> None:
    assert xtext.encode("a+b=c d") == "a+2Bb+3Dc+20d"
    for bad in ("a+2b", "a b", "a=b", "+", "é"):
        with pytest.raises(ValueError, match="xtext"):
            xtext.decode(bad)
