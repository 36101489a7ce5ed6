"""Addresses in header fields: found where they are, and nothing else touched."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resel_mta.routing.rewrite import rewrite_addresses
from resel_mta.wire.header_addresses import find_addresses


def qualified(address: str) -> str:
    return address if "@" in address else f"{address}@x.org"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b" root\r\n", b" root@x.org\r\n"),
        (b" root (Cron Daemon)\r\n", b" root@x.org (Cron Daemon)\r\n"),
        (b" (a, (b) \\) c) root\r\n", b" (a, (b) \\) c) root@x.org\r\n"),
        (b" Ann <ann>, bob@b.org, carl\r\n", b" Ann <ann@x.org>, bob@b.org, carl@x.org\r\n"),
        (b' "Last, First" <lf>\r\n', b' "Last, First" <lf@x.org>\r\n'),
        (b' "John Doe"\r\n', b' "John Doe"@x.org\r\n'),
        (b" John Doe\r\n", b" John Doe\r\n"),
        (b" =?utf-8?q?Zo=C3=A9?= <zoe>\r\n", b" =?utf-8?q?Zo=C3=A9?= <zoe@x.org>\r\n"),
        (b" =?utf-8?q?Zo=C3=A9?=\r\n", b" =?utf-8?q?Zo=C3=A9?=\r\n"),
        (b" a,\r\n\tb,\r\n c@c.org\r\n", b" a@x.org,\r\n\tb@x.org,\r\n c@c.org\r\n"),
        (b" undisclosed-recipients:;\r\n", b" undisclosed-recipients:;\r\n"),
        (b" Team: a, Bo <b>; c\r\n", b" Team: a@x.org, Bo <b@x.org>; c@x.org\r\n"),
        (b" <@r.org,@s.org:ann>\r\n", b" <@r.org,@s.org:ann@x.org>\r\n"),
        (b" <>\r\n", b" <>\r\n"),
        (b" ann@[192.0.2.1]\r\n", b" ann@[192.0.2.1]\r\n"),
        (b" Zo\xe9 <zo\xe9>\r\n", b" Zo\xe9 <zo\xe9@x.org>\r\n"),
        (b" a b <c> d\r\n", b" a b <c@x.org> d\r\n"),
        (b" user@\r\n", b" user@\r\n"),
        (b" @host\r\n", b" @host\r\n"),
        (b" a, , b\r\n", b" a@x.org, , b@x.org\r\n"),
        (b' a, "never ends, b\r\n', b' a@x.org, "never ends, b\r\n'),
        (b" a, c (never ends, b\r\n", b" a@x.org, c@x.org (never ends, b\r\n"),
        (b" <a\r\n", b" <a\r\n"),
        (b" a <b <c>>, d\r\n", b" a <b <c>>, d@x.org\r\n"),
        (b" [x]\r\n", b" [x]\r\n"),
        (b" a;b\r\n", b" a@x.org;b@x.org\r\n"),
        (b"\r\n", b"\r\n"),
    ],
)  # fmt: skip
def test_rewriting(before: bytes, after: bytes) -> None:
    assert rewrite_addresses(before, qualified) == after


PIECES = st.sampled_from(
    [b"root", b"a@b.org", b"<", b">", b",", b";", b":", b'"', b"\\", b"(", b")", b"[", b"]", b"@",
     b".", b" ", b"\r\n ", b"=?utf-8?b?eA==?=", b"\xff", b"\x00", b'"q, x"', b"Team:", b"%", b"!"]
)  # fmt: skip
JUNK = st.lists(PIECES, max_size=25).map(b"".join) | st.binary(max_size=60)


@given(JUNK)
@example(b"(" * 500)
@example(b"\\")
@example(b'"\\')
def test_junk_never_fails_and_other_bytes_stay(value: bytes) -> None:
    spans = find_addresses(value)
    assert spans == sorted(spans, key=lambda span: span.start)
    for before, span in itertools.pairwise(spans):
        assert before.end < span.start
    mark = "\u2316"
    changed = rewrite_addresses(value, lambda address: address + mark)
    assert changed.replace(mark.encode(), b"") == value
    assert changed.count(mark.encode()) == len(spans)


@given(JUNK)
def test_a_full_address_is_never_changed(value: bytes) -> None:
    changed = rewrite_addresses(value, qualified)
    added = changed.replace(b"@x.org", b"")
    assert added == value.replace(b"@x.org", b"")
    assert rewrite_addresses(changed, qualified) == changed


MAILBOX = st.sampled_from(
    [b"ann", b"Ann <ann>", b'"A, B" <ann>', b"ann (x, y)", b"=?utf-8?q?A?= <ann>", b"<ann>",
     b"G: ann, ann;"]
)  # fmt: skip


@given(st.lists(MAILBOX, min_size=1, max_size=8), st.sampled_from([b", ", b",\r\n\t", b","]))
def test_every_bare_mailbox_is_found(mailboxes: list[bytes], comma: bytes) -> None:
    value = comma.join(mailboxes)
    wanted = len(re.findall(rb"\bann\b", value))
    assert rewrite_addresses(value, qualified).count(b"ann@x.org") == wanted


def test_long_hostile_values_take_linear_time() -> None:
    for value in (b"(" * 200_000, b'"' * 199_999, b"<" * 200_000, b"a," * 100_000, b'"\\' * 99_999):
        find_addresses(value)
