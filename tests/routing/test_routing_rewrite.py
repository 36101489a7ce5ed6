"""The quick look at a header never decides otherwise than the full grammar."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resel_mta.config import Settings
from resel_mta.content import Header
from resel_mta.routing.address import AddressRules
from resel_mta.routing.rewrite import HeaderFixer, has_field, rewrite_addresses

FIXER_SETTINGS = Settings.build("smarthost", myorigin="vm.resel.fr", mydomain="resel.fr")
RULES = AddressRules(FIXER_SETTINGS)

# One piece a word, CR LF among them as \\n.
_PIECES = rb"""root a@b.c a@b a@b.c. < > , \s \t (x) "q" : ; \n Jean @ [192.0.2.1] a.b@c-d.e \ x!y u%h ."""
PIECES = st.sampled_from(
    [
        {b"\\s": b" ", b"\\t": b"\t", b"\\n": b"\r\n "}.get(word, word)
        for word in [*_PIECES.split(), "é".encode()]
    ]
)


@given(st.sampled_from([b"From", b"to", b"Reply-To", b"CC ", b"Resent-Bcc"]), st.lists(PIECES))
@example(b"To", [b"a@b.c>"])
@example(b"To", [b"<a@b.c"])
@example(b"To", [b"Jean root <a@b.c>"])
@example(b"To", [b"a@b.c,", b"root"])
@example(b"To", [b"a@b.c", b"\r\n ", b"root"])
def test_the_quick_look_changes_nothing(name: bytes, pieces: list[bytes]) -> None:
    value = b" " + b"".join(pieces) + b"\r\n"
    before = b"Subject: x\r\n" + name + b":" + value
    header = Header(before + b"X: y\r\n")
    HeaderFixer(FIXER_SETTINGS, RULES).complete(header, b"\n" + header.raw.lower())
    expected = rewrite_addresses(value, RULES.qualify)
    assert header.raw == b"Subject: x\r\n" + name + b":" + expected + b"X: y\r\n"


def test_a_long_value_is_no_trap() -> None:
    """Every ambiguity of the pattern, many times: time must not grow with the square."""
    header = Header(b"To: " + b"a.b-c " * 50_000 + b"<" + b"a.b-" * 50_000 + b"\r\n")
    started = time.process_time()
    HeaderFixer(FIXER_SETTINGS, RULES).complete(header, b"\n" + header.raw.lower())
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"Date: x\r\n", True),
        (b"X: y\r\ndate \t: x\r\n", True),
        (b"Date-Sent: x\r\nDate: y\r\n", True),
        (b"Date-Sent: x\r\n", False),
        (b"X: y\r\n Date: z\r\n", False),
        (b"Dated\r\n", False),
        (b"", False),
    ],
)
def test_fields_are_found_by_whole_names(header: bytes, found: bool) -> None:
    assert has_field(b"\n" + header.lower(), b"date") is found
