"""Content on the wire, replies and capabilities: pure parts, with properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_mta.content import Content, Header
from resel_mta.wire.data import DataDecoder
from resel_mta.wire.ehlo import parse_ehlo
from resel_mta.wire.reply import MAX_REPLY, ReplyError, ReplyParser
from resel_relay.outgoing import LineBreaker, Outgoing

LINES = st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"")))


class FileBody:
    """A body that is not in memory."""

    in_memory = False

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def decoded(wire: bytes) -> bytes:
    decoder = DataDecoder()
    kept = decoder.feed(wire)
    assert decoder.done
    assert decoder.rest == b""
    return kept + decoder.finish()


@given(LINES, st.booleans())
async def test_a_server_gets_the_same_bytes(lines, in_file):
    body = b"".join(line + b"\r\n" for line in lines)
    content = Content.from_bytes(b"Subject: x\r\n\r\n" + body)
    if in_file:
        content.body = FileBody(content.body.read(0, content.body.size))
    outgoing = Outgoing(content, 998)
    whole = outgoing.whole()
    wire = b"".join([block async for block in outgoing.blocks()])
    assert whole is None if in_file else whole == wire
    assert decoded(wire) == b"Subject: x\r\n\r\n" + body


async def test_large_body_goes_in_blocks():
    data = b".\r\n" * 100_000
    outgoing = Outgoing(Content(Header(b"A: b\r\n"), FileBody(data)), 998)
    assert outgoing.whole() is None
    blocks = [block async for block in outgoing.blocks()]
    assert len(blocks) > 3
    assert decoded(b"".join(blocks)) == b"A: b\r\n\r\n" + data


async def test_truncated_file_is_an_error():
    body = FileBody(b"x\r\n" * 10)
    body.size = 100
    outgoing = Outgoing(Content(Header(b"A: b\r\n"), body), 998)
    with pytest.raises(OSError, match="body ends at 30 of 100"):
        [block async for block in outgoing.blocks()]


@given(LINES, st.integers(1, 50), st.integers(1, 30))
def test_line_breaker(lines, limit, cut):
    data = b"".join(line + b"\r\n" for line in lines)
    breaker = LineBreaker(limit)
    broken = b"".join(breaker.feed(data[i : i + cut]) for i in range(0, len(data), cut))
    assert broken == LineBreaker(limit).feed(data)
    # A space is one octet of the new line: with a limit of one, each piece is only that.
    assert all(len(line) <= max(limit, 2) for line in broken.split(b"\r\n"))
    if all(len(line) <= limit for line in lines):
        assert broken == data


def test_line_breaker_example():
    assert LineBreaker(5).feed(b"abcdefghijk\r\nxyz\r\n") == b"abcde\r\n fghi\r\n jk\r\nxyz\r\n"
    assert LineBreaker(0).feed(b"x" * 9999) == b"x" * 9999


@given(st.lists(st.integers(1, 12), max_size=5))
def test_reply_parser_in_pieces(cuts):
    wire = b"250-mx\r\n250 ok\r\n354 go\n550-5.1.1 a\r\n550 5.1.1 b\r\n421\r\n"
    parser = ReplyParser()
    replies = []
    start = 0
    for cut in [*cuts, len(wire)]:
        replies += parser.feed(wire[start : start + cut])
        start += cut
    assert [reply.code for reply in replies] == [250, 354, 550, 421]
    assert not parser.pending
    assert str(replies[2].reply()) == "550 5.1.1 a b"
    assert replies[2].log_text == "550-5.1.1 a 550 5.1.1 b"


@given(st.binary(max_size=300))
def test_reply_parser_takes_anything(data):
    try:
        for reply in ReplyParser().feed(data):
            assert 200 <= reply.code < 600
            reply.reply()
    except ReplyError:
        return


@pytest.mark.parametrize(
    ("line", "enhanced"),
    [
        (b"550 5.1.1 no", "5.1.1"),
        (b"550 4.1.1 other class", ""),
        (b"550 5.1 short", ""),
        (b"550 5.1.1111 long", ""),
        (b"550", ""),
        (b"250 2.0.0", "2.0.0"),
    ],
)
def test_enhanced_codes(line, enhanced):
    (reply,) = ReplyParser().feed(line + b"\r\n")
    assert reply.enhanced == enhanced
    assert reply.reply().enhanced == enhanced


def test_endless_replies_are_refused():
    parser = ReplyParser()
    for _ in range(MAX_REPLY // 10):
        assert parser.feed(b"250-more\r\n") == []
    with pytest.raises(ReplyError):
        parser.feed(b"250-more\r\n")
    with pytest.raises(ReplyError):
        ReplyParser().feed(b"250 " + b"x" * 5000)


def test_capabilities():
    found = parse_ehlo(
        ["mx.test Hello", "size 1000", "AUTH=LOGIN", "AUTH PLAIN LOGIN", "DSN", "x", "STARTTLS"],
        ["dsn"],
    )
    assert (found.name, found.size, found.starttls, found.dsn) == ("mx.test", 1000, True, False)
    assert found.auth == ("LOGIN", "PLAIN")
    assert parse_ehlo(["mx"]).size is None
    assert parse_ehlo(["mx", "SIZE"]).size == 0
    assert parse_ehlo(["mx", "SIZE lots"]).size == 0


@given(st.lists(st.text()))
def test_capabilities_of_anything(lines):
    parse_ehlo(lines)
