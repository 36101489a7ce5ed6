"""How values look in responses (RFC 3501 §9)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence

from resel_lda.imap.parser import MONTHS

_ATOM = re.compile(rb'[^(){%*"\\\]\x00-\x20\x7f-\xff]+')
_QUOTABLE = re.compile(rb"[^\x00\r\n\x80-\xff]*")
_UTF8_QUOTABLE = re.compile(rb"[^\x00\r\n]*")
_FLAG_ORDER = ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")


def astring(value: bytes) -> bytes:
    """As an atom where possible, else quoted, else a literal."""
    if _ATOM.fullmatch(value) and value.upper() != b"NIL":
        return value
    return string(value)


def mailbox(value: bytes) -> bytes:
    """A mailbox name. It has octets beyond ASCII only where UTF-8 may be quoted (RFC 9051 §9)."""
    if not value.isascii() and _UTF8_QUOTABLE.fullmatch(value):
        return _quoted(value)
    return astring(value)


def string(value: bytes) -> bytes:
    """Quoted where possible, else a literal."""
    if _QUOTABLE.fullmatch(value) and len(value) < 1024:
        return _quoted(value)
    return b"{%d}\r\n%b" % (len(value), value)


def _quoted(value: bytes) -> bytes:
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def literal(value: bytes) -> bytes:
    """A literal, whatever the value."""
    return b"{%d}\r\n%b" % (len(value), value)


def flag_list(flags: Iterable[str], recent: bool = False) -> bytes:
    """``\\Seen \\Recent $Label`` without parentheses: system flags in their usual order, then
    keywords sorted."""
    held = set(flags)
    words = [flag for flag in _FLAG_ORDER if flag in held]
    if recent:
        words.append("\\Recent")
    words += sorted(held.difference(_FLAG_ORDER))
    return " ".join(words).encode("ascii", "replace")


def date_time(seconds: float) -> bytes:
    """INTERNALDATE, quoted, in the server's time zone as Dovecot shows it."""
    local = time.localtime(seconds)
    sign = "-" if local.tm_gmtoff < 0 else "+"
    hours, minutes = divmod(abs(local.tm_gmtoff) // 60, 60)
    return (
        f'"{local.tm_mday:02d}-{MONTHS[local.tm_mon - 1]}-{local.tm_year:04d}'
        f" {local.tm_hour:02d}:{local.tm_min:02d}:{local.tm_sec:02d}"
        f' {sign}{hours:02d}{minutes:02d}"'
    ).encode("ascii")


def uid_set(uids: Sequence[int]) -> bytes:
    """Numbers as a set in the order given, runs as first:last."""
    if not uids:
        return b""
    runs: list[bytes] = []
    first = last = uids[0]
    for uid in uids[1:]:
        if uid == last + 1:
            last = uid
            continue
        runs.append(_run(first, last))
        first = last = uid
    runs.append(_run(first, last))
    return b",".join(runs)


def range_set(ranges: Sequence[tuple[int, int]]) -> bytes:
    """A set of (low, high) ranges in the order given."""
    return b",".join([_run(low, high) for low, high in ranges])


def _run(first: int, last: int) -> bytes:
    return b"%d" % first if first == last else b"%d:%d" % (first, last)
