"""What is remembered of fields, and left out of them, changes no answer."""

from __future__ import annotations

import pytest
from nasty_mails import MAILS

from resel_lda.mime import params, render, structure
from resel_lda.mime.sections import parse, render_body, render_bodystructure

FIELDS = (
    b"MIME-Version: 1.0\r\nContent-Disposition: inline\r\n\r\nx",
    b"Content-Disposition: inline\r\n\r\nno MIME-Version",
    b"Subject: a\r\n Content-Type: text/html\r\ncontent-TYPE :\r\n text/css\r\n\r\nx",
    b"Content-Type\r\n: text/css\r\nMime-version\r\n\r\nx",
    b"X-Content-Type: a/b\r\nContent-ID: <1>\r\nContent-ID: <2>\r\nContent-Type: a/b\r\n\r\n",
    b"Content-Type: text/plain",
    b"Content-Type: multipart\r\n\r\nx",
)


@pytest.mark.parametrize("mail", [*FIELDS, *(mail for _, mail in MAILS)])
def test_structure_without_the_envelope_s_fields(mail: bytes) -> None:
    full, short = parse(mail), parse(mail, with_envelope=False)
    for make in (render_body, render_bodystructure):
        made = make(full)
        assert make(short) == made
        # The second time from memory.
        assert make(short) == made


def test_only_short_fields_are_remembered() -> None:
    def mail(name: bytes) -> bytes:
        return b"Content-Type: image/png; name=" + name + b"\r\n\r\nx"

    for remembered in (render._remembered_leaf, params._remembered_type):
        remembered.cache_clear()
    assert b'"short"' in render_bodystructure(parse(mail(b"short")))
    assert render._remembered_leaf.cache_info().currsize == 1
    assert params._remembered_type.cache_info().currsize == 1
    long = b"l" * 100_000
    assert b'"%b"' % long in render_bodystructure(parse(mail(long)))
    assert render._remembered_leaf.cache_info().currsize == 1
    assert params._remembered_type.cache_info().currsize == 1
    for number in range(2000):
        render_bodystructure(parse(mail(b"%d" % number)))
    assert render._remembered_leaf.cache_info().currsize <= 512
    assert params._remembered_type.cache_info().currsize <= 512


def test_only_short_headers_of_parts_are_remembered() -> None:
    def mail(name: bytes) -> bytes:
        return (
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-ID: <"
            + name
            + b">\r\nContent-Type: image/png\r\n\r\nx\r\n--b--\r\n"
        )

    remembered = structure._remembered_fields
    remembered.cache_clear()
    long = b"l" * 1000
    assert b'"<%b>"' % long in render_bodystructure(parse(mail(long)))
    assert remembered.cache_info().currsize == 0
    for _ in range(2):
        assert b'"<short>"' in render_bodystructure(parse(mail(b"short")))
    assert remembered.cache_info().hits == 1
    for number in range(2000):
        assert b'"<%d>"' % number in render_bodystructure(parse(mail(b"%d" % number)))
    assert remembered.cache_info().currsize <= 512
