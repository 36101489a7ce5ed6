"""The structure of a message of one part, made without looking for others, is what it is."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nasty_mails import MAILS

from resel_lda.maildir.cache import LAYERS, Whole
from resel_lda.maildir.files import with_crlf
from resel_lda.mime import structure
from resel_lda.mime.sections import parse, plain_structures, render_body, render_bodystructure
from resel_lda.mime.structure import line_ends

PLAIN = b"Subject: a\nMIME-Version: 1.0\nContent-Type: text/plain\n\none\n\ntwo\n"
pieces = st.sampled_from(
    [b"\n", b"\n\n", b"\r\n", b"\r", b" ", b"x", b"--b", b"--b--", b"Content-Type: ", b"MIME-Version: 1.0\n",
     b"multipart/mixed; boundary=b", b"multipart", b"message/rfc822", b"text/html", b"image/png;", b"Subject: y\n",
     b"Content-Transfer-Encoding: base64\n", b"Content-ID: <1>\n", b"Content-Language"]
)  # fmt: skip
mails = st.lists(pieces, max_size=30).map(b"".join)


def check(stored: bytes) -> None:
    data = with_crlf(stored)
    root = parse(data)
    expected = render_body(root), render_bodystructure(root)
    assert LAYERS["structure"].make(Whole(stored)) == expected
    assert plain_structures(data, False) in (None, expected)
    if b"\r" not in stored:
        assert plain_structures(stored, True) in (None, expected)


@given(mails)
@example(PLAIN)
@example(PLAIN.replace(b"\n", b"\r\n"))
@example(PLAIN + b"\rx\r\ny\n")
@example(b"")
@example(b"\nno header\n")
@example(b"Content-Type: text/html")
@example(b"Content-Type\n\nx")
def test_plain_structure_is_the_structure(stored: bytes) -> None:
    check(stored)


@pytest.mark.parametrize("mail", [mail for _, mail in MAILS])
def test_plain_structure_of_nasty_mail(mail: bytes) -> None:
    check(mail)
    check(mail.replace(b"\r\n", b"\n"))


def test_one_part_is_seen_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "_Parser", None)
    _, full = LAYERS["structure"].make(Whole(PLAIN))
    assert full.startswith(b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 12 3 ')


@given(st.lists(st.sampled_from([b"\n", b"\r", b"x", b"\n\n"])).map(b"".join))
def test_line_ends(octets: bytes) -> None:
    assert line_ends(octets) == octets.count(b"\n")


def test_line_ends_of_large_bodies() -> None:
    assert line_ends(b"x\n" * (1 << 20)) == 1 << 20
