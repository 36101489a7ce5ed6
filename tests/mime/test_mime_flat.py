"""The structure of a message, made without an object for each part, is what it is."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nasty_mails import MAILS

from resel_lda.maildir.cache import LAYERS, Whole
from resel_lda.maildir.files import with_crlf
from resel_lda.mime import structure
from resel_lda.mime.sections import (
    flat_structures,
    parse,
    render_body,
    render_bodystructure,
    render_structures,
)
from resel_lda.mime.structure import line_ends

PLAIN = b"Subject: a\nMIME-Version: 1.0\nContent-Type: text/plain\n\none\n\ntwo\n"
pieces = st.sampled_from(
    [b"\n", b"\n\n", b"\r\n", b"\r", b" ", b"x", b"--b", b"--b--", b"Content-Type: ", b"MIME-Version: 1.0\n",
     b"multipart/mixed; boundary=b", b"multipart", b"message/rfc822", b"text/html", b"image/png;", b"Subject: y\n",
     b"Content-Transfer-Encoding: base64\n", b"Content-ID: <1>\n", b"Content-Language"]
)  # fmt: skip
mails = st.lists(pieces, max_size=30).map(b"".join)
HEAD = b"Content-Type: multipart/mixed; boundary=b\n\n"
TWO = b"--b\nContent-Type: text/html\n\nx\ny\n--b\n\nz\n"
parts = st.lists(
    st.one_of(
        st.sampled_from([b"--b\n", b"\n--b\n", b"--b--\n", b"--bb\n", b"--b \n", b"\r\n--b\r\n", b"\n\n", b"\n"]),
        st.sampled_from([b"Content-Type: text/html\n\n", b"Content-ID: <1>\n", b"x", b"x\ny\n", b"\xe9\r"]),
        st.sampled_from([b"Content-Type: message/rfc822\n\n", b"Content-Type: multipart/mixed; boundary=bc\n\n", b"--bc"]),
    ),
    max_size=20,
).map(lambda some: HEAD + b"".join(some))  # fmt: skip


def check(stored: bytes) -> None:
    data = with_crlf(stored)
    root = parse(data)
    expected = render_body(root), render_bodystructure(root)
    assert LAYERS["structure"].make(Whole(stored)) == expected
    assert flat_structures(data, False) in (None, expected)
    if b"\r" not in stored:
        assert flat_structures(stored, True) in (None, expected)
        assert render_structures(parse(stored), bare=True) == expected


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


@given(parts)
@example(HEAD + TWO)
@example(HEAD + TWO + b"--b--\n")
@example(HEAD + b"preamble\n" + TWO + b"--b--\nepilogue\n--b\n\nno part\n")
@example(HEAD + TWO + b"--b")
@example(HEAD + TWO + b"--b--")
@example(HEAD + b"--b\nContent-Type: text/html\n--b\n\nx\n")
@example(HEAD + b"--b\n\n--b\n\n--b--\n")
@example(HEAD + b"--b\nContent-ID: <1>")
@example(HEAD.replace(b"mixed", b"digest") + TWO)
@example(HEAD.replace(b"mixed", b"") + TWO)
@example(HEAD.replace(b"=b", b"=") + TWO)
@example(HEAD.replace(b"=b", b"=" + b"b" * 81) + TWO.replace(b"--b", b"--" + b"b" * 80))
@example((HEAD + TWO).replace(b"\n", b"\r\n"))
@example(HEAD[:-1] + b"--b\n\nx\n")
def test_flat_structure_is_the_structure(stored: bytes) -> None:
    check(stored)


@pytest.mark.parametrize("mail", [mail for _, mail in MAILS])
def test_plain_structure_of_nasty_mail(mail: bytes) -> None:
    check(mail)
    check(mail.replace(b"\r\n", b"\n"))


def test_few_parts_need_no_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "_Parser", None)
    _, full = LAYERS["structure"].make(Whole(PLAIN))
    assert full.startswith(b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 12 3 ')
    short, _ = LAYERS["structure"].make(Whole(HEAD + TWO + b"--b--\n"))
    assert short == (
        b'(("text" "html" ("charset" "us-ascii") NIL NIL "7bit" 4 1)'
        b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 1 0) "mixed")'
    )


@given(st.lists(st.sampled_from([b"\n", b"\r", b"x", b"\n\n"])).map(b"".join))
def test_line_ends(octets: bytes) -> None:
    assert line_ends(octets) == octets.count(b"\n")


def test_line_ends_of_large_bodies() -> None:
    assert line_ends(b"x\n" * (1 << 20)) == 1 << 20
