"""The quick ways to read fields say what a plain reading of the lines says, whatever comes."""

from __future__ import annotations

import calendar
import datetime
import re
import time
from collections.abc import Callable, Collection, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nasty_mails import MAILS

from resel_lda.mime import lookup, render
from resel_lda.mime.addresses import parse_addresses
from resel_lda.mime.dates import parse_date
from resel_lda.mime.fields import named, unfolded_fields
from resel_lda.mime.lookup import message_ids, search_row, sort_row
from resel_lda.mime.render import envelope_of, human_string, nstring, string
from resel_lda.mime.structure import ENVELOPE_FIELDS

NAMES = ("content-type", "content-id", "mime-version", "subject", "to", "from", "date")
WANTED = frozenset(name.encode() for name in NAMES)
OF_WANTED = named(WANTED)


def by_lines(
    header: bytes, wanted: Collection[bytes], folded: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """What `unfolded_fields` is to find."""
    name = b""
    value: list[bytes] = []

    def joined() -> bytes:
        joint = b"\n" if name == folded else b""
        return joint.join([value[0].lstrip(b" \t") or value[0][1:], *value[1:]])

    for line in header.split(b"\n"):
        line = line.removesuffix(b"\r")
        if line[:1] in (b" ", b"\t"):
            if value:
                value.append(line)
            continue
        if value:
            yield name, joined()
            value = []
        key, colon, rest = line.partition(b":")
        if colon:
            name = key.rstrip(b" \t").lower()
            if name in wanted:
                value = [rest]
    if value:
        yield name, joined()


pieces = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b": ", b"\0", b"\xe9", b"x", b"Content-", b"a@b, <c@d>", b"X-To:",
     *(name.encode() for name in NAMES), *(name.title().encode() + b": " for name in NAMES)]
)  # fmt: skip
headers = st.one_of(st.lists(pieces, max_size=40).map(b"".join), st.binary(max_size=60))


@given(headers)
@example(b"To:")
@example(b"To:\r")
@example(b"To: \t ")
@example(b"To:  \r\n  \r\nto \t:x\r\r\n y\r")
@example(b"Subject: a\r\n\tb\n c\r\n\r\nTo: after it\n")
@example(b"Subject: a\rb\r\nTo\r: x\n: y\nTo: z\n\x0bTo: q")
def test_fields_are_those_of_the_lines(header: bytes) -> None:
    for folded in (b"subject", b""):
        expected = list(by_lines(header, WANTED, folded))
        assert unfolded_fields(header, OF_WANTED, folded) == expected


@pytest.mark.parametrize("mail", [mail for _, mail in MAILS])
def test_fields_of_nasty_mail(mail: bytes) -> None:
    expected = list(by_lines(mail, ENVELOPE_FIELDS, b"subject"))
    assert unfolded_fields(mail, render._OF_ENVELOPE, b"subject") == expected


@given(headers)
def test_envelope_is_made_of_all_fields(header: bytes) -> None:
    fields = list(by_lines(header, ENVELOPE_FIELDS, b"subject"))
    last = dict(fields)

    def addresses(name: bytes) -> bytes:
        found = [one for key, value in fields if key == name for one in parse_addresses(value)]
        if not found:
            return b"NIL"
        shown = [
            b" ".join([human_string(one.name), *(nstring(text) for text in one[1:])])
            for one in found
        ]
        return b"(" + b"".join(b"(" + one + b")" for one in shown) + b")"

    sender = addresses(b"from")
    expected = [nstring(last.get(b"date")), human_string(last.get(b"subject")), sender]
    for name in (b"sender", b"reply-to"):
        found = addresses(name)
        expected.append(found if found != b"NIL" else sender)
    expected += [addresses(name) for name in (b"to", b"cc", b"bcc")]
    expected += [nstring(last.get(b"in-reply-to")), nstring(last.get(b"message-id"))]
    for _ in range(2):
        # The second time from memory.
        assert envelope_of(header) == b"(" + b" ".join(expected) + b")"


texts = st.lists(
    st.sampled_from(
        [b"a", b"word", b" ", b"  ", b"\t", b"\n", b'"', b"\\", b"\0", b"\x7f", b"\xff"]
    ),
    max_size=8,
).map(b"".join)


@given(texts)
def test_texts_for_people(value: bytes) -> None:
    shown = re.sub(rb"[ \t\r\n]+", b" ", value).strip(b" ")
    if shown and (shown != value or not re.fullmatch(rb"[\x01-\x21\x23-\x5b\x5d-\x7f]*", value)):
        shown = shown.replace(b"\0", "\N{REPLACEMENT CHARACTER}".encode())
        assert human_string(value) == b"{%d}\r\n%b" % (len(shown), shown)
    else:
        assert human_string(value) == string(shown)


DATES = st.builds(
    "{}{} {} {:04} {:02}:{:02}{} {}{:02}{:02}".format,
    st.sampled_from(("", "Mon, ", "Tue,")), st.integers(0, 33), st.sampled_from(("Jan", "feb", "DEC", "Xyz")),
    st.integers(0, 9999), st.integers(0, 99), st.integers(0, 99), st.sampled_from(("", ":00", ":61", ":99")),
    st.sampled_from("+-"), st.integers(0, 99), st.integers(0, 99),
)  # fmt: skip


@given(DATES)
def test_dates(text: str) -> None:
    day, month, year, clock, zone = text.replace(",", ", ").split(", ")[-1].split()
    number = ("jan", "feb", "", "", "", "", "", "", "", "", "", "dec").index(month.lower()) + 1 \
        if month.lower() in ("jan", "feb", "dec") else 0  # fmt: skip
    try:
        ordinal = datetime.date(int(year), number, int(day)).toordinal()
    except ValueError:
        assert parse_date(text.encode()) is None
        return
    hour, minute, second = (int(part) for part in (clock + ":0").split(":")[:3])
    seconds = calendar.timegm((int(year), number, int(day), hour, minute, second))
    offset = (int(zone[1:3]) * 60 + int(zone[3:])) * (60 if zone[0] == "+" else -60)
    assert parse_date(text.encode()) == (seconds - offset, ordinal)


ID = re.compile(rb"<[ \t]*((?:\"(?:[^\"\\]|\\.)*\"|[^<>@\"\s])+@[^<>@\s]+)[ \t]*>")
ids = st.lists(
    st.sampled_from(
        [b"<", b">", b"@", b'"', b"\\", b" ", b"\t", b"a", b"<a@b>", b'<"c d"@e>', b"\xe9"]
    ),
    max_size=20,
).map(b"".join)


@given(ids)
@example(b'<"a\\"b"@c> <d@"e>')
def test_message_ids(value: bytes) -> None:
    expected = []
    for match in ID.finditer(value):
        left, _, right = match[1].rpartition(b"@")
        if b'"' in match[1]:
            left = re.sub(rb"\\(.)", rb"\1", left.replace(b'"', b""))
        expected.append((left + b"@" + right).decode("utf-8", "replace").replace(" ", ""))
    assert message_ids(value) == expected


LENGTH = 1 << 20
HOSTILE = {
    "continuations": b"Subject: x\r\n" + b" y\r\n" * (LENGTH // 4),
    "spaces": b"To" + b" " * LENGTH,
    "spaces after the colon": b"To:" + b" " * LENGTH + b"\n" + b"To:\r" * (LENGTH // 4),
    "names": b"to\n" * (LENGTH // 3),
    "fields": b"To:a@b\n" * (LENGTH // 7),
    "returns": b"To: " + b"\r" * LENGTH,
    "ids": b"References: " + b"<a@" * (LENGTH // 3),
    "ids with quotes": b"References: " + b'<\\"' * (LENGTH // 3),
    "ids of quotes": b"References: <" + b'"<"' * (LENGTH // 3),
    "ids and spaces": b"References: " + b"<a@b \t" * (LENGTH // 6) + b" " * LENGTH,
    "addresses": b"From: " + b"a@b, <" * (LENGTH // 48),
    "words": b"From: " + b"a " * (LENGTH // 16),
    "blobs": b"Subject: " + b"re [x] " * (LENGTH // 7),
}


@pytest.mark.parametrize("make", [envelope_of, sort_row, search_row])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_headers_take_no_time(kind: str, make: Callable[[bytes], object]) -> None:
    started = time.process_time()
    make(HOSTILE[kind] + b"\r\n\r\n")
    # Hours, where time grows with the square of the length.
    assert time.process_time() - started < 20


def test_only_short_lists_of_addresses_are_remembered() -> None:
    for remembered in (render._remembered_addresses, lookup._remembered_address_keys):
        remembered.cache_clear()
    long = b"From: " + b"l" * 1000 + b"@example.org\r\n\r\n"
    envelope_of(long)
    sort_row(long)
    assert render._remembered_addresses.cache_info().currsize == 0
    # Of a To and a Cc that are not there.
    assert lookup._remembered_address_keys.cache_info().currsize == 1
    for number in range(2000):
        header = b"From: a%d@example.org\r\n\r\n" % number
        envelope_of(header)
        sort_row(header)
    assert render._remembered_addresses.cache_info().currsize <= 1024
    assert lookup._remembered_address_keys.cache_info().currsize <= 1024
