"""The MIME parser alone: it never fails, stays linear, and decodes what SEARCH needs."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_mails import MAILS

from resel_lda.maildir.files import with_crlf
from resel_lda.mime.addresses import parse_addresses
from resel_lda.mime.sections import (
    decoded_text,
    find_part,
    header_fields,
    parse,
    render_body,
    render_bodystructure,
    render_envelope,
    section,
)
from resel_lda.mime.structure import MAX_PARTS
from resel_lda.mime.text import decode_base64, decode_header

_LITERAL = re.compile(rb"\{(\d+)\}\r\n")
_PIECES = [
    b"--b\r\n", b"--b--\r\n", b"--c\r\n", b"\r\n", b"Content-Type: multipart/mixed; boundary=b\r\n",
    b"Content-Type: multipart/digest; boundary=c\r\n", b"Content-Type: message/rfc822\r\n",
    b"text\r\n", b"From: (\r\n", b'Subject: "\\\r\n', b"--", b"\n", b"\r", b"\0\xff", b" ",
]  # fmt: skip


def check_wire(raw: bytes) -> None:
    """A parenthesised list with its literals and quoted strings in order."""
    position = depth = 0
    while position < len(raw):
        octet = raw[position : position + 1]
        if octet == b"{":
            match = _LITERAL.match(raw, position)
            assert match
            position = match.end() + int(match.group(1))
            assert position <= len(raw)
            continue
        if octet == b'"':
            position += 1
            while raw[position] != 0x22:
                assert raw[position] not in b"\r\n\0"
                assert raw[position] < 0x80
                position += 2 if raw[position] == 0x5C else 1
        depth += (octet == b"(") - (octet == b")")
        assert depth >= 0
        position += 1
    assert depth == 0


def check(data: bytes) -> None:
    root = parse(data)
    for raw in (render_envelope(root), render_body(root), render_bodystructure(root)):
        check_wire(raw)
    for node in root.walk():
        assert 0 <= node.start <= node.header_end <= node.body <= node.end <= len(data)
        lines = 0 if node.is_multipart else data.count(b"\n", node.body, node.end)
        assert node.lines == lines
        for child in node.children:
            assert node.body <= child.start
            assert child.end <= node.end
        decoded_text(data, node)


@given(st.lists(st.sampled_from(_PIECES), max_size=60).map(b"".join))
def test_any_mail_of_nasty_pieces(data: bytes) -> None:
    check(data)
    check(with_crlf(data))


@given(st.binary(max_size=300))
def test_any_octets(data: bytes) -> None:
    check(data)
    check_wire(render_envelope(parse(b"From: " + data.replace(b"\n", b"") + b"\r\n\r\n")))
    parse_addresses(data)
    decode_header(data)
    decode_base64(data)


@pytest.mark.parametrize(("name", "mail"), MAILS, ids=[name for name, _ in MAILS])
def test_corpus_truncated_anywhere(name: str, mail: bytes) -> None:
    data = with_crlf(mail)
    for end in range(len(data) + 1):
        check(data[:end])


def timed(data: bytes) -> float:
    start = time.process_time()
    render_bodystructure(parse(data))
    return time.process_time() - start


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n" * 200_000,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--x\r\n" * 200_000,
        b"Content-Type: message/rfc822\r\n\r\n" * 30_000,
        b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i)
            for i in range(10_000)
        ),
        b"From: " + b"(" * 500_000 + b"\r\n\r\n",
        b"From: " + b"a," * 100_000 + b"\r\n\r\n",
        b"Content-Type: text/plain" + b"; a=b" * 100_000 + b"\r\n\r\n",
        b"Content-Type: text/plain;" + b"; " * 100_000 + b"\r\n\r\n",
    ],
    ids=["parts", "dashes", "messages", "nested", "comments", "addresses", "params", "semicolons"],
)
def test_hostile_mail_takes_linear_time_and_bounded_parts(data: bytes) -> None:
    assert timed(data) < 4
    assert sum(1 for _ in parse(data).walk()) <= MAX_PARTS


def test_find_part_numbers() -> None:
    data = with_crlf(dict(MAILS)["rfc822-multipart"])
    root = parse(data)
    assert find_part(root, (1, 1)).type is None
    assert find_part(root, (1, 2)).type == b"image"
    assert find_part(root, (1, 3)) is None
    assert section(data, root, "1.2") == b"y"
    with pytest.raises(ValueError, match="not a section"):
        section(data, root, "1.FOO")
    with pytest.raises(ValueError, match="not a section"):
        section(data, root, "MIME")


def test_header_fields() -> None:
    header = b"A: 1\r\nB: 2\r\n\tmore\r\nC: 3\r\n\r\n"
    assert header_fields(header, [b"b", b"X"]) == b"B: 2\r\n\tmore\r\n\r\n"
    assert header_fields(header, [b"b"], exclude=True) == b"A: 1\r\nC: 3\r\n\r\n"


def text_of_mail(mail: bytes) -> str:
    return decoded_text(mail, parse(mail))


def test_decoded_text() -> None:
    start = b"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: "
    assert text_of_mail(start + b"quoted-printable\r\n\r\n=E9t=E9=\r\n!") == "été!"
    assert text_of_mail(start + b"base64\r\n\r\n6XTp\r\n") == "été"
    assert text_of_mail(start + b"base64\r\n\r\n6X*Tp6\r\n") == "été"
    assert text_of_mail(b"Content-Type: text/plain; charset=x-none\r\n\r\n\xe9") == "é"
    assert text_of_mail(b"Content-Type: text/plain; charset=base64\r\n\r\nab") == "ab"
    assert text_of_mail(b"Content-Type: image/png\r\n\r\nab") == ""


def test_decode_header() -> None:
    assert decode_header(b"=?utf-8?q?=C3=A9_a?= =?iso-8859-1?b?6Q==?= b") == "é aé b"
    assert decode_header(b"\xc3\xa9 \xe9 =?x?y?z?=").startswith("Ã© é")
    assert decode_header("é".encode()) == "é"
