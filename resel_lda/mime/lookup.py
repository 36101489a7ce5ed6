"""What SEARCH, SORT and THREAD look at, made from a header once so that it can be kept."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from resel_lda.mime.addresses import Address, parse_addresses
from resel_lda.mime.dates import parse_date
from resel_lda.mime.fields import named, unfolded_fields
from resel_lda.mime.fold import casemap, fold
from resel_lda.mime.subject import base_subject
from resel_lda.mime.text import decode_header

_SEARCHED = named((b"date", b"subject", b"from", b"to", b"cc", b"bcc"))
_SORTED = named(
    (b"date", b"subject", b"from", b"to", b"cc", b"message-id", b"in-reply-to", b"references")
)
_PLAIN_ID = re.compile(rb"<[ \t]*+([^<>@\"\s]++@[^<>@\s]++)[ \t]*+>")
_QUOTED_ID = re.compile(rb"<[ \t]*((?:\"(?:[^\"\\]|\\.)*\"|[^<>@\"\s])+@[^<>@\s]+)[ \t]*>")
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_MAX_REFERENCES = 1000
# With quotes nothing tells where an id that is none ends: so far is looked, so many times.
_LONGEST_QUOTED = 2048
_MAX_QUOTED = 2000
# Octets of a field up to which it is remembered what it says.
_MAX_REMEMBERED = 300


class SearchRow(NamedTuple):
    """Decoded and folded values; of a field that is there more than once, one per line.

    day: of the Date field as written, as `datetime.date.toordinal`.
    """

    day: int | None
    subject: str | None
    sender: str | None
    recipient: str | None
    cc: str | None
    bcc: str | None


class SortRow(NamedTuple):
    """Keys of RFC 5256 and RFC 5957, upper case.

    sent: seconds since the epoch, None without a usable Date. reply: whether the subject says
    that this is a reply or a forward. ancestors: message ids, oldest first, space between.
    """

    sent: int | None
    base: str
    reply: bool
    sender: str
    recipient: str
    cc: str
    display_from: str
    display_to: str
    message_id: str
    ancestors: str


def search_row(header: bytes) -> SearchRow:
    """Of a header block. Never fails."""
    values: dict[bytes, list[str]] = {}
    day = None
    seen_date = False
    for name, value in unfolded_fields(header, _SEARCHED):
        if name == b"date":
            if not seen_date:
                seen_date = True
                date = parse_date(value)
                day = date[1] if date is not None else None
            continue
        values.setdefault(name, []).append(_storable(fold(decode_header(value.strip(b" \t")))))
    joined = {name: "\n".join(found) for name, found in values.items()}
    return SearchRow(
        day,
        joined.get(b"subject"),
        joined.get(b"from"),
        joined.get(b"to"),
        joined.get(b"cc"),
        joined.get(b"bcc"),
    )


def sort_row(header: bytes) -> SortRow:
    """Of a header block. Never fails."""
    first: dict[bytes, bytes] = {}
    for name, value in unfolded_fields(header, _SORTED):
        first.setdefault(name, value)
    date = parse_date(first.get(b"date", b""))
    base, reply = base_subject(_sortable(first.get(b"subject", b"")))
    sender, display_from = _address_keys(first.get(b"from", b""))
    recipient, display_to = _address_keys(first.get(b"to", b""))
    ids = message_ids(first.get(b"references", b""))
    if not ids:
        ids = message_ids(first.get(b"in-reply-to", b""))[:1]
    own = message_ids(first.get(b"message-id", b""))
    return SortRow(
        date[0] if date is not None else None,
        base,
        reply,
        sender,
        recipient,
        _address_keys(first.get(b"cc", b""))[0],
        display_from,
        display_to,
        own[0] if own else "",
        " ".join(ids),
    )


def _storable(text: str) -> str:
    """Without half surrogates, which some character sets can decode to."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def _sortable(value: bytes) -> str:
    """Decoded; what is no text at all sorts last, as it does in Dovecot."""
    value = value.replace(b"\0", b"\xff")
    if not value.isascii():
        value = value.decode("utf-8", "replace").encode("utf-8")
    return _storable(decode_header(value))


def _address_keys(value: bytes) -> tuple[str, str]:
    """What is sorted by of a field's first address: (mailbox, display name)."""
    if len(value) > _MAX_REMEMBERED:
        return _make_address_keys(value)
    return _remembered_address_keys(value)


def _make_address_keys(value: bytes) -> tuple[str, str]:
    found = parse_addresses(value)
    first = found[0] if found else None
    return _mailbox(first), _display(first)


# Mail of a mailbox is from and to the same few.
_remembered_address_keys = lru_cache(maxsize=1024)(_make_address_keys)


def _mailbox(address: Address | None) -> str:
    if address is None or address.mailbox is None:
        return ""
    return casemap(_sortable(address.mailbox))


def _display(address: Address | None) -> str:
    """RFC 5957 §2: the display name, else mailbox@host."""
    if address is None:
        return ""
    name = _sortable(address.name) if address.name else ""
    if not name and address.mailbox:
        mailbox = _sortable(address.mailbox)
        domain = _sortable(address.domain or b"")
        name = f"{mailbox}@{domain}" if domain else mailbox
    return casemap(name)


def message_ids(value: bytes) -> list[str]:
    """The message ids of a field, without brackets; quoting in the left part undone."""
    found = _quoted_ids(value) if b'"' in value else _PLAIN_ID.findall(value)[:_MAX_REFERENCES]
    return [octets.decode("utf-8", "replace").replace(" ", "") for octets in found]


def _quoted_ids(value: bytes) -> list[bytes]:
    found: list[bytes] = []
    at = value.find(b"<")
    for _ in range(_MAX_QUOTED):
        if at < 0 or len(found) >= _MAX_REFERENCES:
            break
        match = _QUOTED_ID.match(value, at, at + _LONGEST_QUOTED)
        if match is not None:
            octets = match[1]
            if b'"' in octets:
                left, _, right = octets.rpartition(b"@")
                octets = _ESCAPED.sub(rb"\1", left.replace(b'"', b"")) + b"@" + right
            found.append(octets)
        at = value.find(b"<", at + 1 if match is None else match.end())
    return found
