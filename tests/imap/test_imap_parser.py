"""The grammar, by example and by property."""

from __future__ import annotations

import datetime
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_lda.imap import text, utf7
from resel_lda.imap.fetch_items import parse_items
from resel_lda.imap.names import matches
from resel_lda.imap.parser import ParseError, Parser, parse_sequence_set

names = st.text(st.characters(blacklist_categories=("Cs",)), max_size=40)


@given(names)
def test_utf7_round_trip(name: str) -> None:
    wire = utf7.encode(name)
    assert wire.isascii()
    if all(char >= " " and char != "\x7f" for char in name):
        assert utf7.decode(wire) == name


@given(st.binary(max_size=30))
def test_utf7_has_one_form_per_name(wire: bytes) -> None:
    try:
        name = utf7.decode(wire)
    except ValueError:
        return
    assert utf7.encode(name) == wire


@pytest.mark.parametrize(
    ("wire", "name"),
    [
        (b"&AOk-t&AOk-", "été"),
        (b"A&-B", "A&B"),
        (b"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),
    ],
)
def test_utf7_examples(wire: bytes, name: str) -> None:
    assert utf7.decode(wire) == name
    assert utf7.encode(name) == wire


@pytest.mark.parametrize(
    "wire", [b"A&B", b"&", b"\xc3\xa9", b"&AGE-", b"&2AA-", b"&AOk-&AOk-", b"a\x01"]
)
def test_utf7_refuses_other_forms(wire: bytes) -> None:
    with pytest.raises(ValueError, match=r"UTF-7|control"):
        utf7.decode(wire)


@given(st.binary(max_size=60).filter(lambda value: b"\0" not in value))
def test_what_is_sent_as_a_string_is_read_back(value: bytes) -> None:
    for wire in (text.string(value), text.astring(value), text.literal(value)):
        parser = Parser(wire + b" X")
        assert parser.astring() == value
        assert parser.peek() == b" "


@given(st.binary(max_size=200))
def test_nothing_breaks_the_parser(data: bytes) -> None:
    for method in (
        "tag",
        "astring",
        "string",
        "list_mailbox",
        "sequence_set",
        "flags",
        "date",
        "date_time",
        "nstring",
        "number",
    ):
        parser = Parser(data)
        try:
            getattr(parser, method)()
        except ParseError:
            continue
        assert 0 < parser.pos <= len(data)


@given(st.text("BODY.PEEK[]0123456789HEADERFIELDS()<> TXMI", max_size=60))
def test_nothing_breaks_fetch_items(data: str) -> None:
    try:
        items = parse_items(Parser(data.encode()))
    except ParseError:
        return
    assert items


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20),
    st.integers(0, 40),
)
def test_sequence_sets(pairs: list[tuple[int, int]], largest: int) -> None:
    """0 is "*" here."""
    wire = ",".join(f"{a or '*'}:{b or '*'}" for a, b in pairs).encode()
    expected = set()
    for a, b in pairs:
        low, high = sorted((a or largest, b or largest))
        expected.update(range(max(low, 1), high + 1))
    found = parse_sequence_set(wire).resolved(largest)
    numbers = [number for low, high in found for number in range(low, high + 1)]
    assert numbers == sorted(expected)


@pytest.mark.parametrize("wire", [b"", b"0", b"1,", b"1:", b"a", b"1:2:3", b"4294967296", b"01"])
def test_bad_sequence_sets(wire: bytes) -> None:
    with pytest.raises(ParseError):
        parse_sequence_set(wire)


@given(st.lists(st.integers(1, 30), min_size=1, unique=True))
def test_uid_sets_say_what_they_are_made_of(uids: list[int]) -> None:
    said: list[int] = []
    for run in text.uid_set(uids).split(b","):
        first, _, last = run.partition(b":")
        said += range(int(first), int(last or first) + 1)
    assert said == uids


@given(st.text("ab/*%", max_size=12), st.text("ab/", max_size=12))
def test_patterns_match_as_a_slow_matcher_does(pattern: str, name: str) -> None:
    def slow(p: str, n: str) -> bool:
        if not p:
            return not n
        if p[0] in "*%":
            return slow(p[1:], n) or (bool(n) and (p[0] == "*" or n[0] != "/") and slow(p, n[1:]))
        return bool(n) and n[0] == p[0] and slow(p[1:], n[1:])

    assert matches(pattern, name, "/") == slow(pattern, name)


def test_hostile_pattern_is_quick() -> None:
    began = time.perf_counter()
    assert not matches("*a" * 500 + "b", "a" * 1000, "/")
    assert time.perf_counter() - began < 5


def test_dates() -> None:
    assert Parser(b'"17-Jul-1996 02:44:25 -0700"').date_time() == 837596665.0
    assert Parser(b'" 7-feb-1994 21:52:25 +0000"').date_time() == 760657945.0
    assert Parser(b"1-Feb-1994").date() == datetime.date(1994, 2, 1)
    assert Parser(b'"1-Feb-1994"').date() == datetime.date(1994, 2, 1)
    for bad in (b"31-Feb-1994", b"1-Foo-1994", b"1/2/1994", b'"1-Feb-1994'):
        with pytest.raises(ParseError):
            Parser(bad).date()


def test_internal_date_is_read_back() -> None:
    for seconds in (0.0, 760657945.0, 1_800_000_000.0):
        assert Parser(text.date_time(seconds)).date_time() == seconds
